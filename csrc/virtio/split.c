#include "virtio/split.h"

#include <errno.h>
#include <string.h>

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

/* ---- shared memory --------------------------------------------------------------------------- */

static struct avail *avail_of(const struct v9_virtqueue *vq)
{
    return vq->avail;
}

static struct used *used_of(const struct v9_virtqueue *vq)
{
    return vq->used;
}

/* Acquire: the heads and descriptors that the driver wrote before it raised idx are seen after. */
static uint16_t load_avail_idx(const struct v9_virtqueue *vq)
{
    return __atomic_load_n(&avail_of(vq)->idx, __ATOMIC_ACQUIRE);
}

static uint16_t load_used_event(const struct v9_virtqueue *vq)
{
    return __atomic_load_n(&avail_of(vq)->ring[vq->setup.num], __ATOMIC_RELAXED);
}

static void store_avail_event(struct v9_virtqueue *vq, uint16_t value)
{
    uint16_t *event = (uint16_t *)&used_of(vq)->ring[vq->setup.num];
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

const char *v9_split_map(struct v9_virtqueue *vq, struct v9_mem *mem)
{
    const struct v9_virtqueue_setup *setup = &vq->setup;
    const uint64_t num = setup->num, event = 2;

    vq->desc = v9_mem_window(mem, setup->desc_uva, num * sizeof(struct v9_desc), &vq->windows[0]);
    vq->avail = v9_mem_window(mem, setup->avail_uva, sizeof(struct avail) + num * 2 + event,
                              &vq->windows[1]);
    vq->used = v9_mem_window(mem, setup->used_uva,
                             sizeof(struct used) + num * sizeof(struct used_elem) + event,
                             &vq->windows[2]);
    if (!vq->desc || !vq->avail || !vq->used)
        return "a part of it lies outside guest memory, or cannot be mapped (SET_VRING_ADDR)";
    /* Their alignment in our memory depends on the region's offset, which is arbitrary. */
    if ((setup->desc_uva | (uintptr_t)vq->desc) % 16 ||
        (setup->avail_uva | (uintptr_t)vq->avail) % 2 ||
        (setup->used_uva | (uintptr_t)vq->used) % 4)
        return "its parts are aligned to 16, 2 and 4 bytes (SET_VRING_ADDR)";
    return NULL;
}

void v9_split_begin(struct v9_virtqueue *vq)
{
    vq->last_avail = (uint16_t)vq->setup.base;
    vq->used_idx = __atomic_load_n(&used_of(vq)->idx, __ATOMIC_RELAXED);
}

uint32_t v9_split_base(const struct v9_virtqueue *vq)
{
    return vq->last_avail;
}

/* ---- popping --------------------------------------------------------------------------------- */

int v9_split_peek(struct v9_virtqueue *vq)
{
    const uint16_t waiting = (uint16_t)(load_avail_idx(vq) - vq->last_avail);

    if (waiting > vq->setup.num)
        return v9_virtqueue_break(vq, "the driver made more chains available than the ring holds");
    return waiting != 0;
}

/* A table of descriptors: the ring's own, or an indirect one. */
struct table {
    const uint8_t *at;
    uint32_t size; /* entries */
    bool indirect;
};

/* Copies a descriptor once; the copy is checked and used, since the guest may change the original.
 * An indirect table may lie at any address. */
static struct v9_buffer copy_desc(const struct table *table, v9_index index)
{
    struct v9_desc desc;

    memcpy(&desc, table->at + index.value * sizeof(desc), sizeof(desc));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read it again */
    return (struct v9_buffer){desc.gpa, desc.len, desc.flags_or_id, desc.next_or_flags, 0};
}

/* Continues with an indirect table. */
static int enter_table(struct v9_virtqueue *vq, struct v9_mem *mem, const struct v9_buffer *buffer,
                       struct table *table)
{
    if (table->indirect)
        return v9_virtqueue_break(vq, "an indirect descriptor in an indirect table");
    table->at = v9_chain_table(vq, mem, buffer);
    table->size = buffer->len / sizeof(struct v9_desc);
    table->indirect = true;
    return table->at ? 0 : -EPROTO;
}

/* Reads the chain that begins at descriptor `next` of the ring's own table. */
static int pop_chain(struct v9_virtqueue *vq, struct v9_mem *mem, uint32_t next,
                     struct v9_chain *chain)
{
    struct table table = {(const uint8_t *)vq->desc, vq->setup.num, false};
    struct v9_buffer buffer;
    uint32_t steps = 0;
    v9_index index;

    do {
        if (!v9_index_in(table.size, next, &index))
            return v9_virtqueue_break(vq, "a descriptor's next is outside its table");
        buffer = copy_desc(&table, index);
        if (buffer.flags & V9_DESC_INDIRECT) {
            if (enter_table(vq, mem, &buffer, &table) < 0)
                return -EPROTO;
            next = 0;
            buffer.flags = V9_DESC_NEXT;
            continue;
        }
        if (++steps > vq->setup.num && !table.indirect)
            return v9_virtqueue_break(vq, "a chain that is too long, or a loop");
        if (v9_chain_add(vq, mem, &buffer, steps, chain) < 0)
            return -EPROTO;
        next = buffer.next;
    } while (buffer.flags & V9_DESC_NEXT);
    return 0;
}

int v9_split_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain)
{
    const v9_index slot = v9_index_of_counter(vq, vq->last_avail);

    chain->head = __atomic_load_n(&avail_of(vq)->ring[slot.value], __ATOMIC_RELAXED);
    chain->slots = 1;
    if (chain->head >= vq->setup.num)
        return v9_virtqueue_break(vq, "a head is no index of the descriptor table");
    if (pop_chain(vq, mem, chain->head, chain) < 0)
        return -EPROTO;
    vq->last_avail++;
    return 0;
}

/* ---- pushing --------------------------------------------------------------------------------- */

void v9_split_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written)
{
    struct used *used = used_of(vq);

    used->ring[v9_index_of_counter(vq, vq->used_idx).value] =
        (struct used_elem){chain->head, written};
    vq->used_idx++;
    vq->unsignalled++;
    /* Release: the used element and the reply are written before the driver sees the new idx. */
    __atomic_store_n(&used->idx, vq->used_idx, __ATOMIC_RELEASE);
}

/* To write the same once more does no harm: the driver reads each element once, and the place is
 * not used again before the chain's descriptors are. */
void v9_split_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written,
                         struct v9_place place)
{
    vq->used_idx = (uint16_t)place.index.value;
    v9_split_push(vq, chain, written);
}

bool v9_split_wants_signal(struct v9_virtqueue *vq, uint16_t went)
{
    if (!vq->setup.event_idx)
        return !(__atomic_load_n(&avail_of(vq)->flags, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
    return v9_event_passed(load_used_event(vq), vq->used_idx, (uint16_t)(vq->used_idx - went));
}

bool v9_split_enable_notification(struct v9_virtqueue *vq)
{
    if (vq->setup.event_idx)
        store_avail_event(vq, vq->last_avail);
    else
        __atomic_store_n(&used_of(vq)->flags, 0, __ATOMIC_RELAXED);
    v9_full_barrier(); /* the request for kicks is visible before we check for new chains */
    return load_avail_idx(vq) != vq->last_avail;
}

void v9_split_disable_notification(struct v9_virtqueue *vq)
{
    if (!vq->setup.event_idx)
        __atomic_store_n(&used_of(vq)->flags, USED_NO_NOTIFY, __ATOMIC_RELAXED);
}
