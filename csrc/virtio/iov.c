#include "virtio/iov.h"

#include <string.h>

/* A walk over the segments from a byte offset on. */
struct walk {
    const struct iovec *iov;
    uint32_t count;
    size_t offset; /* into iov[0] and on */
};

/* The next piece, at most len bytes of it; 0 at the end. */
static inline size_t next_piece(struct walk *walk, size_t len, uint8_t **piece)
{
    size_t here;

    while (walk->count && walk->offset >= walk->iov->iov_len) {
        walk->offset -= walk->iov->iov_len;
        walk->iov++;
        walk->count--;
    }
    if (!walk->count)
        return 0;
    *piece = (uint8_t *)walk->iov->iov_base + walk->offset;
    here = walk->iov->iov_len - walk->offset;
    here = here < len ? here : len;
    walk->offset += here;
    return here;
}

uint32_t v9_iov_slice(const struct iovec *iov, uint32_t count, size_t offset, size_t len,
                      struct iovec *dst)
{
    struct walk walk = {iov, count, offset};
    uint32_t made = 0;
    uint8_t *piece;
    size_t here;

    while (len && (here = next_piece(&walk, len, &piece))) {
        dst[made++] = (struct iovec){piece, here};
        len -= here;
    }
    return made;
}

size_t v9_iov_gather(const struct iovec *iov, uint32_t count, size_t offset, void *dst, size_t len)
{
    struct walk walk = {iov, count, offset};
    size_t done = 0, here;
    uint8_t *piece;

    while (done < len && (here = next_piece(&walk, len - done, &piece))) {
        memcpy((uint8_t *)dst + done, piece, here);
        done += here;
    }
    return done;
}

size_t v9_iov_scatter(const struct iovec *iov, uint32_t count, size_t offset, const void *src,
                      size_t len)
{
    struct walk walk = {iov, count, offset};
    size_t done = 0, here;
    uint8_t *piece;

    while (done < len && (here = next_piece(&walk, len - done, &piece))) {
        memcpy(piece, (const uint8_t *)src + done, here);
        done += here;
    }
    return done;
}
