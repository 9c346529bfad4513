#include "virtio/descriptor_chain.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"

void v9_chain_begin(struct v9_chain *chain)
{
    chain->slots = 0;
    chain->error = 0;
    chain->cut = chain->seen_writable = chain->detached = false;
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
}

/* Adds a buffer. An unusable one is an error of the request, not of the ring: the chain stores the
 * error, and its writable part ends before the buffer. */
static int add_buffer(struct v9_virtqueue *vq, struct v9_mem *mem, const struct v9_buffer *buffer,
                      struct v9_chain *chain)
{
    const bool writable = buffer->flags & V9_DESC_WRITE;
    uint32_t count = chain->readable_count + chain->writable_count;
    uint64_t end;
    int err;

    if (__builtin_add_overflow(buffer->gpa, buffer->len, &end))
        return v9_virtqueue_break(vq, "a buffer that wraps around the address space");
    if (!buffer->len || (writable ? chain->cut : chain->error != 0))
        return 0;
    err = v9_mem_iov(mem, buffer->gpa, buffer->len, chain->iov, &count, V9_CHAIN_MAX,
                     writable ? chain->readable_count : 0);
    if (err) {
        chain->error = err;
        chain->cut = writable;
    } else if (writable) {
        chain->writable_count = count - chain->readable_count;
        chain->writable_size += buffer->len;
    } else {
        chain->readable_count = count;
        chain->readable_size += buffer->len;
    }
    return 0;
}

int v9_chain_add(struct v9_virtqueue *vq, struct v9_mem *mem, const struct v9_buffer *buffer,
                 uint32_t steps, struct v9_chain *chain)
{
    const bool writable = buffer->flags & V9_DESC_WRITE;

    if (steps > V9_CHAIN_MAX)
        return v9_virtqueue_break(vq, "a chain that is too long, or a loop");
    if (!writable && chain->seen_writable)
        return v9_virtqueue_break(vq, "a readable descriptor after a writable one");
    chain->seen_writable |= writable;
    return add_buffer(vq, mem, buffer, chain);
}

const uint8_t *v9_chain_table(struct v9_virtqueue *vq, struct v9_mem *mem,
                              const struct v9_buffer *buffer)
{
    const uint8_t *table;

    if (!vq->setup.indirect) {
        v9_virtqueue_break(vq, "an indirect descriptor, which was not negotiated");
        return NULL;
    }
    if (buffer->flags & V9_DESC_NEXT) {
        v9_virtqueue_break(vq, "an indirect descriptor with a next one");
        return NULL;
    }
    if (!buffer->len || buffer->len % sizeof(struct v9_desc)) {
        v9_virtqueue_break(vq, "an indirect table whose length is 0 or not a multiple of 16");
        return NULL;
    }
    table = v9_mem_gpa(mem, buffer->gpa, buffer->len);
    if (!table)
        v9_virtqueue_break(vq, "an indirect table outside memory");
    return table;
}

void v9_chain_detach(struct v9_chain *chain, struct v9_mem *mem)
{
    const uint32_t count = chain->readable_count + chain->writable_count;

    if (chain->detached)
        return;
    for (uint32_t i = 0; i < count; i++)
        chain->iov[i].iov_base = (void *)(uintptr_t)v9_mem_gpa_of(mem, chain->iov[i].iov_base);
    chain->detached_readable = chain->readable_count;
    chain->detached_writable = chain->writable_count;
    V9_COMMIT();
    chain->detached = true;
    V9_COMMIT();
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
}

/* An element is an address of the dead process, or a guest address already. */
void v9_chain_detach_dead(struct v9_chain *chain, const struct v9_mem *mem)
{
    uint32_t count = chain->readable_count + chain->writable_count;

    if (chain->detached)
        count = chain->detached_readable + chain->detached_writable;
    for (uint32_t i = 0; i < count && i < V9_CHAIN_MAX; i++) {
        void **base = &chain->iov[i].iov_base;
        if (v9_mem_has(mem, *base))
            *base = (void *)(uintptr_t)v9_mem_gpa_of(mem, *base);
    }
    if (!chain->detached) {
        chain->detached_readable = chain->readable_count;
        chain->detached_writable = chain->writable_count;
        V9_COMMIT();
        chain->detached = true;
        V9_COMMIT();
    }
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
}

void v9_chain_attach(struct v9_chain *chain, struct v9_mem *mem)
{
    struct iovec iov[V9_CHAIN_MAX];
    uint64_t readable_size = 0, writable_size = 0;
    uint32_t count = 0, readable = 0;

    if (!chain->detached || chain->detached_readable > V9_CHAIN_MAX ||
        chain->detached_writable > V9_CHAIN_MAX - chain->detached_readable)
        return;
    for (uint32_t i = 0; i < chain->detached_readable + chain->detached_writable; i++) {
        const struct iovec *kept = &chain->iov[i];
        if (v9_mem_iov(mem, (uintptr_t)kept->iov_base, kept->iov_len, iov, &count, V9_CHAIN_MAX,
                       readable) < 0)
            return;
        if (i < chain->detached_readable) {
            readable_size += kept->iov_len;
            readable = i + 1 == chain->detached_readable ? count : 0;
        } else {
            writable_size += kept->iov_len;
        }
    }
    memcpy(chain->iov, iov, count * sizeof(*iov));
    chain->readable_count = readable;
    chain->writable_count = count - readable;
    chain->readable_size = readable_size;
    chain->writable_size = writable_size;
    V9_COMMIT();
    chain->detached = false;
}
