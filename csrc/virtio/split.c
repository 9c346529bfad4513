/*
 * vring_split: the split layout (virtio 1.3, section 2.7). The driver owns descriptors and the
 * avail ring, the device the used ring.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "virtio/ring_layout.h"

enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

struct avail {
    uint16_t flags, idx;
    uint16_t ring[]; /* num heads, then used_event */
};

struct used_elem {
    uint32_t id, len;
};

struct used {
    uint16_t flags, idx;
    struct used_elem ring[]; /* num elements, then avail_event */
};

/* ---- shared memory -----------------------------------------------------------------------------
 */

static struct avail *avail_of(const struct v9_virtqueue *vr)
{
    return vr->avail;
}

static struct used *used_of(const struct v9_virtqueue *vr)
{
    return vr->used;
}

/* Acquire: the heads and descriptors that the driver wrote before it raised idx are seen after. */
static uint16_t load_avail_idx(const struct v9_virtqueue *vr)
{
    return __atomic_load_n(&avail_of(vr)->idx, __ATOMIC_ACQUIRE);
}

static uint16_t load_used_event(const struct v9_virtqueue *vr)
{
    return __atomic_load_n(&avail_of(vr)->ring[vr->setup.num], __ATOMIC_RELAXED);
}

static void store_avail_event(struct v9_virtqueue *vr, uint16_t value)
{
    uint16_t *event = (uint16_t *)&used_of(vr)->ring[vr->setup.num];
    __atomic_store_n(event, value, __ATOMIC_RELAXED);
}

const char *v9_split_check(const struct v9_virtqueue_setup *setup)
{
    if (setup->num & (setup->num - 1))
        return "the size of a split ring is a power of two (SET_VRING_NUM)";
    if (setup->base > UINT16_MAX)
        return "a split ring's base has 16 bits (SET_VRING_BASE)";
    return NULL;
}

const char *v9_split_map(struct v9_virtqueue *vr, struct v9_mem *mem)
{
    const struct v9_virtqueue_setup *setup = &vr->setup;
    const uint64_t num = setup->num, event = 2;

    vr->desc = v9_mem_window(mem, setup->desc_uva, num * sizeof(struct v9_desc), &vr->windows[0]);
    vr->avail = v9_mem_window(mem, setup->avail_uva, sizeof(struct avail) + num * 2 + event,
                              &vr->windows[1]);
    vr->used = v9_mem_window(mem, setup->used_uva,
                             sizeof(struct used) + num * sizeof(struct used_elem) + event,
                             &vr->windows[2]);
    if (!vr->desc || !vr->avail || !vr->used)
        return "a part of it lies outside guest memory, or cannot be mapped (SET_VRING_ADDR)";
    /* Its place in our memory follows from the region's offset, which may be any. */
    if ((setup->desc_uva | (uintptr_t)vr->desc) % 16 ||
        (setup->avail_uva | (uintptr_t)vr->avail) % 2 ||
        (setup->used_uva | (uintptr_t)vr->used) % 4)
        return "its parts are aligned to 16, 2 and 4 bytes (SET_VRING_ADDR)";
    return NULL;
}

void v9_split_begin(struct v9_virtqueue *vr)
{
    vr->last_avail = (uint16_t)vr->setup.base;
    vr->used_idx = __atomic_load_n(&used_of(vr)->idx, __ATOMIC_RELAXED);
}

uint32_t v9_split_base(const struct v9_virtqueue *vr)
{
    return vr->last_avail;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

int v9_split_peek(struct v9_virtqueue *vr)
{
    const uint16_t waiting = (uint16_t)(load_avail_idx(vr) - vr->last_avail);

    if (waiting > vr->setup.num)
        return v9_virtqueue_break(vr, "the driver made more chains available than the ring holds");
    return waiting != 0;
}

/* A table of descriptors: the ring's own, or an indirect one. */
struct table {
    const uint8_t *at;
    uint32_t size; /* entries */
    bool indirect;
};

/* One copy of a descriptor, which is checked and used: the guest may change the original. An
 * indirect table may lie at any address. */
static struct v9_buffer copy_desc(const struct table *table, v9_index index)
{
    struct v9_desc desc;

    memcpy(&desc, table->at + index.value * sizeof(desc), sizeof(desc));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read it again */
    return (struct v9_buffer){desc.addr, desc.len, desc.flags_or_id, desc.next_or_flags, 0};
}

/* Goes on to an indirect table. */
static int enter_table(struct v9_virtqueue *vr, struct v9_mem *mem, const struct v9_buffer *buffer,
                       struct table *table)
{
    if (table->indirect)
        return v9_virtqueue_break(vr, "an indirect descriptor in an indirect table");
    table->at = v9_virtqueue_table(vr, mem, buffer);
    table->size = buffer->len / sizeof(struct v9_desc);
    table->indirect = true;
    return table->at ? 0 : -EPROTO;
}

/* The chain that begins at descriptor `next` of the ring's own table. */
static int take_chain(struct v9_virtqueue *vr, struct v9_mem *mem, uint32_t next,
                      struct v9_chain *chain)
{
    struct table table = {(const uint8_t *)vr->desc, vr->setup.num, false};
    struct v9_buffer buffer;
    uint32_t steps = 0;
    v9_index index;

    do {
        if (!v9_index_in(table.size, next, &index))
            return v9_virtqueue_break(vr, "a descriptor's next is outside its table");
        buffer = copy_desc(&table, index);
        if (buffer.flags & V9_DESC_INDIRECT) {
            if (enter_table(vr, mem, &buffer, &table) < 0)
                return -EPROTO;
            next = 0;
            buffer.flags = V9_DESC_NEXT;
            continue;
        }
        if (++steps > vr->setup.num && !table.indirect)
            return v9_virtqueue_break(vr, "a chain that is too long, or a loop");
        if (v9_chain_add(vr, mem, &buffer, steps, chain) < 0)
            return -EPROTO;
        next = buffer.next;
    } while (buffer.flags & V9_DESC_NEXT);
    return 0;
}

int v9_split_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain)
{
    const v9_index slot = v9_index_of_counter(vr, vr->last_avail);

    chain->head = __atomic_load_n(&avail_of(vr)->ring[slot.value], __ATOMIC_RELAXED);
    chain->slots = 1;
    if (chain->head >= vr->setup.num)
        return v9_virtqueue_break(vr, "a head is no index of the descriptor table");
    if (take_chain(vr, mem, chain->head, chain) < 0)
        return -EPROTO;
    vr->last_avail++;
    return 0;
}

/* ---- returning ---------------------------------------------------------------------------------
 */

void v9_split_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written)
{
    struct used *used = used_of(vr);

    used->ring[v9_index_of_counter(vr, vr->used_idx).value] =
        (struct used_elem){chain->head, written};
    vr->used_idx++;
    vr->unsignalled++;
    /* Release: the used element and the reply are written before the driver sees the new idx. */
    __atomic_store_n(&used->idx, vr->used_idx, __ATOMIC_RELEASE);
}

bool v9_split_wants_signal(struct v9_virtqueue *vr, uint16_t went)
{
    if (!vr->setup.event_idx)
        return !(__atomic_load_n(&avail_of(vr)->flags, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
    return v9_event_passed(load_used_event(vr), vr->used_idx, (uint16_t)(vr->used_idx - went));
}

bool v9_split_arm(struct v9_virtqueue *vr)
{
    if (vr->setup.event_idx)
        store_avail_event(vr, vr->last_avail);
    else
        __atomic_store_n(&used_of(vr)->flags, 0, __ATOMIC_RELAXED);
    v9_full_barrier(); /* our wish is visible before we look whether the driver has missed it */
    return load_avail_idx(vr) != vr->last_avail;
}

void v9_split_disarm(struct v9_virtqueue *vr)
{
    if (!vr->setup.event_idx)
        __atomic_store_n(&used_of(vr)->flags, USED_NO_NOTIFY, __ATOMIC_RELAXED);
}
