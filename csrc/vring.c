#define _GNU_SOURCE
#include "vring.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

struct v9_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct v9_avail {
    uint16_t flags, idx;
    uint16_t ring[]; /* num heads, then used_event */
};

struct v9_used_elem {
    uint32_t id, len;
};

struct v9_used {
    uint16_t flags, idx;
    struct v9_used_elem ring[]; /* num elements, then avail_event */
};

/* ---- shared memory -----------------------------------------------------------------------------
 */

/* Acquire: the heads and descriptors that the driver wrote before it raised idx are seen after. */
static uint16_t load_avail_idx(const struct v9_vring *vr)
{
    return __atomic_load_n(&vr->avail->idx, __ATOMIC_ACQUIRE);
}

/* Release: the used element and the reply are written before the driver sees the new idx. */
static void store_used_idx(struct v9_vring *vr)
{
    __atomic_store_n(&vr->used->idx, vr->used_idx, __ATOMIC_RELEASE);
}

static uint16_t load_used_event(const struct v9_vring *vr)
{
    return __atomic_load_n(&vr->avail->ring[vr->size], __ATOMIC_RELAXED);
}

static void store_avail_event(struct v9_vring *vr, uint16_t value)
{
    uint16_t *event = (uint16_t *)&vr->used->ring[vr->size];
    __atomic_store_n(event, value, __ATOMIC_RELAXED);
}

/* What was stored before is visible before anything after is loaded: both sides raise their flag
 * and then look at the other's. */
static void full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static int broken(struct v9_vring *vr, const char *reason)
{
    if (!vr->broken)
        vr->broken = reason;
    return -EPROTO;
}

/* ---- set-up ------------------------------------------------------------------------------------
 */

void v9_vring_unmap(struct v9_vring *vr)
{
    vr->desc = NULL;
    vr->avail = NULL;
    vr->used = NULL;
}

int v9_vring_map(struct v9_vring *vr, struct v9_mem *mem)
{
    const uint64_t num = vr->num, event = 2;

    v9_vring_unmap(vr);
    if (!num || num > V9_VRING_MAX || (num & (num - 1)) || vr->desc_uva % 16 || vr->avail_uva % 2 ||
        vr->used_uva % 4)
        return -EINVAL;
    vr->desc = v9_mem_uva(mem, vr->desc_uva, num * sizeof(struct v9_desc));
    vr->avail = v9_mem_uva(mem, vr->avail_uva, sizeof(struct v9_avail) + num * 2 + event);
    vr->used = v9_mem_uva(mem, vr->used_uva,
                          sizeof(struct v9_used) + num * sizeof(struct v9_used_elem) + event);
    if (!vr->desc || !vr->avail || !vr->used) {
        v9_vring_unmap(vr);
        return -EFAULT;
    }
    /* Its place in our memory follows from the region's offset, which may be any. */
    if ((uintptr_t)vr->desc % 16 || (uintptr_t)vr->avail % 2 || (uintptr_t)vr->used % 4) {
        v9_vring_unmap(vr);
        return -EINVAL;
    }
    vr->size = vr->num;
    vr->used_idx = __atomic_load_n(&vr->used->idx, __ATOMIC_RELAXED);
    vr->signalled = vr->used_idx;
    return 0;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

int v9_vring_peek(struct v9_vring *vr, uint16_t *head)
{
    uint16_t waiting;

    if (vr->broken)
        return -EPROTO;
    waiting = (uint16_t)(load_avail_idx(vr) - vr->last_avail);
    if (!waiting)
        return 0;
    if (waiting > vr->size)
        return broken(vr, "the driver made more chains available than the ring holds");
    *head = __atomic_load_n(&vr->avail->ring[vr->last_avail & (vr->size - 1)], __ATOMIC_RELAXED);
    if (*head >= vr->size)
        return broken(vr, "a head is no index of the descriptor table");
    return 1;
}

/* A table of descriptors: the ring's own, or an indirect one. */
struct table {
    const struct v9_desc *desc;
    uint32_t size;
    bool indirect;
};

/* One copy of a descriptor, which is checked and used: the guest may change the original. An
 * indirect table may lie at any address. */
static struct v9_desc copy_desc(const struct table *table, uint32_t index)
{
    struct v9_desc desc;

    memcpy(&desc, (const uint8_t *)table->desc + index * sizeof(desc), sizeof(desc));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read it again */
    return desc;
}

static int enter_indirect(struct v9_vring *vr, struct v9_mem *mem, const struct v9_desc *desc,
                          struct table *table)
{
    if (!vr->indirect)
        return broken(vr, "an indirect descriptor, which was not negotiated");
    if (table->indirect)
        return broken(vr, "an indirect descriptor in an indirect table");
    if (desc->flags & DESC_NEXT)
        return broken(vr, "an indirect descriptor with a next one");
    if (!desc->len || desc->len % sizeof(struct v9_desc))
        return broken(vr, "an indirect table whose length is 0 or not a multiple of 16");
    table->desc = v9_mem_gpa(mem, desc->addr, desc->len);
    if (!table->desc)
        return broken(vr, "an indirect table outside memory");
    table->size = desc->len / sizeof(struct v9_desc);
    table->indirect = true;
    return 0;
}

/* Adds a buffer. One that cannot be used is the request's trouble, not the ring's: the chain notes
 * it, and its writable part ends before it. */
static int add_buffer(struct v9_vring *vr, struct v9_mem *mem, const struct v9_desc *desc,
                      struct v9_chain *chain)
{
    const bool writable = desc->flags & DESC_WRITE;
    uint32_t count = chain->readable_count + chain->writable_count;
    uint64_t end;
    int err;

    if (__builtin_add_overflow(desc->addr, desc->len, &end))
        return broken(vr, "a buffer that wraps around the address space");
    if (!desc->len || (writable ? chain->cut : chain->error != 0))
        return 0;
    err = v9_mem_iov(mem, desc->addr, desc->len, chain->iov, &count, V9_CHAIN_MAX,
                     writable ? chain->readable_count : 0);
    if (err) {
        chain->error = err;
        chain->cut = writable;
    } else if (writable) {
        chain->writable_count = count - chain->readable_count;
        chain->writable_size += desc->len;
    } else {
        chain->readable_count = count;
        chain->readable_size += desc->len;
    }
    return 0;
}

int v9_vring_take(struct v9_vring *vr, struct v9_mem *mem, uint16_t head, struct v9_chain *chain)
{
    struct table table = {vr->desc, vr->size, false};
    uint32_t index = head, steps = 0;
    bool seen_writable = false;

    vr->last_avail++;
    chain->head = head;
    chain->error = 0;
    chain->cut = false;
    chain->readable_count = chain->writable_count = 0;
    chain->readable_size = chain->writable_size = 0;
    for (;;) {
        struct v9_desc desc;
        if (index >= table.size)
            return broken(vr, "a descriptor's next is outside its table");
        desc = copy_desc(&table, index);
        if (desc.flags & DESC_INDIRECT) {
            if (enter_indirect(vr, mem, &desc, &table) < 0)
                return -EPROTO;
            index = 0;
            continue;
        }
        if (steps++ >= (table.indirect ? V9_CHAIN_MAX : table.size))
            return broken(vr, "a chain that is too long, or a loop");
        if (seen_writable && !(desc.flags & DESC_WRITE))
            return broken(vr, "a readable descriptor after a writable one");
        seen_writable |= (desc.flags & DESC_WRITE) != 0;
        if (add_buffer(vr, mem, &desc, chain) < 0)
            return -EPROTO;
        if (!(desc.flags & DESC_NEXT))
            return 0;
        index = desc.next;
    }
}

/* ---- returning ---------------------------------------------------------------------------------
 */

void v9_vring_push(struct v9_vring *vr, uint16_t head, uint32_t written)
{
    vr->used->ring[vr->used_idx & (vr->size - 1)] = (struct v9_used_elem){head, written};
    vr->used_idx++;
    store_used_idx(vr);
}

bool v9_vring_should_signal(struct v9_vring *vr)
{
    const uint16_t old = vr->signalled, new = vr->used_idx;

    vr->signalled = new;
    full_barrier(); /* used.idx is visible before we look whether the driver sleeps */
    if (vr->must_signal) {
        vr->must_signal = false;
        return true;
    }
    if (!vr->event_idx)
        return !(__atomic_load_n(&vr->avail->flags, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
    return (uint16_t)(new - load_used_event(vr) - 1) < (uint16_t)(new - old);
}

bool v9_vring_arm(struct v9_vring *vr)
{
    if (vr->event_idx)
        store_avail_event(vr, vr->last_avail);
    else
        __atomic_store_n(&vr->used->flags, 0, __ATOMIC_RELAXED);
    full_barrier(); /* our wish is visible before we look whether the driver has missed it */
    return load_avail_idx(vr) != vr->last_avail;
}

void v9_vring_disarm(struct v9_vring *vr)
{
    if (!vr->event_idx)
        __atomic_store_n(&vr->used->flags, USED_NO_NOTIFY, __ATOMIC_RELAXED);
}
