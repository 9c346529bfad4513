#define _GNU_SOURCE
#include "virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

#include "virtio/ring_layout.h"

int v9_virtqueue_break(struct v9_virtqueue *vr, const char *reason)
{
    if (!vr->broken)
        vr->broken = reason;
    return -EPROTO;
}

/* ---- set-up ------------------------------------------------------------------------------------
 */

static const char *check_setup(const struct v9_virtqueue_setup *setup)
{
    if (!setup->num || setup->num > V9_VRING_MAX)
        return "its size was not set (SET_VRING_NUM: 1 to 32768)";
    return setup->packed ? v9_packed_check(setup) : v9_split_check(setup);
}

static const char *map_ring(struct v9_virtqueue *vr, struct v9_mem *mem)
{
    const char *reason = vr->setup.packed ? v9_packed_map(vr, mem) : v9_split_map(vr, mem);

    if (reason)
        v9_virtqueue_unmap(vr);
    return reason;
}

const char *v9_virtqueue_start(struct v9_virtqueue *vr, const struct v9_virtqueue_setup *setup,
                               struct v9_mem *mem)
{
    const char *reason = check_setup(setup);

    v9_virtqueue_stop(vr);
    if (reason)
        return reason;
    vr->setup = *setup;
    reason = map_ring(vr, mem);
    if (reason)
        return reason;
    vr->generation++;
    vr->running = true;
    vr->unsignalled = 0;
    vr->must_signal = true;
    if (setup->packed)
        v9_packed_begin(vr);
    else
        v9_split_begin(vr);
    return NULL;
}

void v9_virtqueue_stop(struct v9_virtqueue *vr)
{
    if (vr->running)
        vr->setup.base = vr->setup.packed ? v9_packed_base(vr) : v9_split_base(vr);
    vr->running = false;
    vr->broken = NULL;
    v9_virtqueue_unmap(vr);
}

void v9_virtqueue_unmap(struct v9_virtqueue *vr)
{
    vr->desc = NULL;
    vr->avail = vr->used = NULL;
    for (int i = 0; i < 3; i++)
        v9_mapping_end(&vr->windows[i]);
}

void v9_virtqueue_remap(struct v9_virtqueue *vr, struct v9_mem *mem)
{
    v9_virtqueue_unmap(vr);
    if (vr->running)
        map_ring(vr, mem);
}

/* ---- either layout -----------------------------------------------------------------------------
 */

int v9_virtqueue_peek(struct v9_virtqueue *vr)
{
    if (vr->broken)
        return -EPROTO;
    return vr->setup.packed ? v9_packed_peek(vr) : v9_split_peek(vr);
}

int v9_virtqueue_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain)
{
    v9_chain_begin(chain);
    chain->generation = vr->generation;
    return vr->setup.packed ? v9_packed_take(vr, mem, chain) : v9_split_take(vr, mem, chain);
}

bool v9_virtqueue_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written)
{
    if (!v9_virtqueue_is_live(vr) || chain->generation != vr->generation)
        return false;
    if (vr->setup.packed)
        v9_packed_push(vr, chain, written);
    else
        v9_split_push(vr, chain, written);
    return true;
}

bool v9_virtqueue_should_signal(struct v9_virtqueue *vr)
{
    const uint16_t went = vr->unsignalled;

    vr->unsignalled = 0;
    v9_full_barrier(); /* what was used is visible before we look whether the driver sleeps */
    if (vr->must_signal) {
        vr->must_signal = false;
        return true;
    }
    return vr->setup.packed ? v9_packed_wants_signal(vr, went) : v9_split_wants_signal(vr, went);
}

bool v9_virtqueue_arm(struct v9_virtqueue *vr)
{
    return vr->setup.packed ? v9_packed_arm(vr) : v9_split_arm(vr);
}

void v9_virtqueue_disarm(struct v9_virtqueue *vr)
{
    if (vr->setup.packed)
        v9_packed_disarm(vr);
    else
        v9_split_disarm(vr);
}

/* ---- chains ------------------------------------------------------------------------------------
 */

void v9_chain_begin(struct v9_chain *chain)
{
    chain->slots = 0;
    chain->error = 0;
    chain->cut = chain->seen_writable = chain->detached = false;
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
}

/* Adds a buffer. One that cannot be used is the request's trouble, not the ring's: the chain notes
 * it, and its writable part ends before it. */
static int add_buffer(struct v9_virtqueue *vr, struct v9_mem *mem, const struct v9_buffer *buffer,
                      struct v9_chain *chain)
{
    const bool writable = buffer->flags & V9_DESC_WRITE;
    uint32_t count = chain->readable_count + chain->writable_count;
    uint64_t end;
    int err;

    if (__builtin_add_overflow(buffer->addr, buffer->len, &end))
        return v9_virtqueue_break(vr, "a buffer that wraps around the address space");
    if (!buffer->len || (writable ? chain->cut : chain->error != 0))
        return 0;
    err = v9_mem_iov(mem, buffer->addr, buffer->len, chain->iov, &count, V9_CHAIN_MAX,
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

int v9_chain_add(struct v9_virtqueue *vr, struct v9_mem *mem, const struct v9_buffer *buffer,
                 uint32_t steps, struct v9_chain *chain)
{
    const bool writable = buffer->flags & V9_DESC_WRITE;

    if (steps > V9_CHAIN_MAX)
        return v9_virtqueue_break(vr, "a chain that is too long, or a loop");
    if (!writable && chain->seen_writable)
        return v9_virtqueue_break(vr, "a readable descriptor after a writable one");
    chain->seen_writable |= writable;
    return add_buffer(vr, mem, buffer, chain);
}

const uint8_t *v9_virtqueue_table(struct v9_virtqueue *vr, struct v9_mem *mem,
                                  const struct v9_buffer *buffer)
{
    const uint8_t *table;

    if (!vr->setup.indirect) {
        v9_virtqueue_break(vr, "an indirect descriptor, which was not negotiated");
        return NULL;
    }
    if (buffer->flags & V9_DESC_NEXT) {
        v9_virtqueue_break(vr, "an indirect descriptor with a next one");
        return NULL;
    }
    if (!buffer->len || buffer->len % sizeof(struct v9_desc)) {
        v9_virtqueue_break(vr, "an indirect table whose length is 0 or not a multiple of 16");
        return NULL;
    }
    table = v9_mem_gpa(mem, buffer->addr, buffer->len);
    if (!table)
        v9_virtqueue_break(vr, "an indirect table outside memory");
    return table;
}

void v9_chain_detach(struct v9_chain *chain, struct v9_mem *mem)
{
    const uint32_t count = chain->readable_count + chain->writable_count;

    if (chain->detached)
        return;
    for (uint32_t i = 0; i < count; i++)
        chain->iov[i].iov_base = (void *)(uintptr_t)v9_mem_gpa_of(mem, chain->iov[i].iov_base);
    chain->readable_kept = chain->readable_count;
    chain->writable_kept = chain->writable_count;
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
    chain->detached = true;
}

void v9_chain_attach(struct v9_chain *chain, struct v9_mem *mem)
{
    struct iovec iov[V9_CHAIN_MAX];
    uint64_t readable_size = 0, writable_size = 0;
    uint32_t count = 0, readable = 0;

    if (!chain->detached)
        return;
    for (uint32_t i = 0; i < chain->readable_kept + chain->writable_kept; i++) {
        const struct iovec *kept = &chain->iov[i];
        if (v9_mem_iov(mem, (uintptr_t)kept->iov_base, kept->iov_len, iov, &count, V9_CHAIN_MAX,
                       readable) < 0)
            return;
        if (i < chain->readable_kept) {
            readable_size += kept->iov_len;
            readable = i + 1 == chain->readable_kept ? count : 0;
        } else {
            writable_size += kept->iov_len;
        }
    }
    memcpy(chain->iov, iov, count * sizeof(*iov));
    chain->readable_count = readable;
    chain->writable_count = count - readable;
    chain->readable_size = readable_size;
    chain->writable_size = writable_size;
    chain->detached = false;
}
