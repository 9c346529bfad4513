#include "iov.h"

#include <string.h>

size_t v9_iov_size(const struct iovec *iov, uint32_t count)
{
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

uint32_t v9_iov_slice(const struct iovec *iov, uint32_t count, size_t offset, size_t len,
                      struct iovec *dst)
{
    uint32_t made = 0;

    for (uint32_t i = 0; i < count && len; i++) {
        size_t here = iov[i].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        here -= offset;
        if (here > len)
            here = len;
        dst[made].iov_base = (uint8_t *)iov[i].iov_base + offset;
        dst[made++].iov_len = here;
        len -= here;
        offset = 0;
    }
    return made;
}

size_t v9_iov_gather(const struct iovec *iov, uint32_t count, size_t offset, void *dst, size_t len)
{
    uint8_t *at = dst;

    for (uint32_t i = 0; i < count && len; i++) {
        size_t here = iov[i].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        here -= offset;
        if (here > len)
            here = len;
        memcpy(at, (const uint8_t *)iov[i].iov_base + offset, here);
        at += here;
        len -= here;
        offset = 0;
    }
    return (size_t)(at - (uint8_t *)dst);
}

size_t v9_iov_scatter(const struct iovec *iov, uint32_t count, size_t offset, const void *src,
                      size_t len)
{
    const uint8_t *at = src;

    for (uint32_t i = 0; i < count && len; i++) {
        size_t here = iov[i].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        here -= offset;
        if (here > len)
            here = len;
        memcpy((uint8_t *)iov[i].iov_base + offset, at, here);
        at += here;
        len -= here;
        offset = 0;
    }
    return (size_t)(at - (const uint8_t *)src);
}
