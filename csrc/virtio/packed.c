#include "virtio/packed.h"

#include <errno.h>
#include <string.h>

enum { AVAIL = 1 << 7, USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
enum { EVENT_PLACE = 0x7fff, EVENT_WRAP = 0x8000 };

struct event {
    uint16_t place; /* EVENT_DESC: bits 0-14 the descriptor, bit 15 the wrap counter */
    uint16_t flags;
};

static struct v9_place place_of(uint32_t base)
{
    return (struct v9_place){{base & EVENT_PLACE}, base & EVENT_WRAP};
}

static uint32_t base_of(struct v9_place place)
{
    return place.index.value | (place.wrap_counter ? EVENT_WRAP : 0);
}

const char *v9_packed_check(const struct v9_virtqueue_setup *setup)
{
    if (place_of(setup->base).index.value >= setup->num ||
        place_of(setup->base >> 16).index.value >= setup->num)
        return "its base lies behind its end (SET_VRING_BASE, SET_VRING_NUM)";
    return NULL;
}

const char *v9_packed_map(struct v9_virtqueue *vq, struct v9_mem *mem)
{
    const struct v9_virtqueue_setup *setup = &vq->setup;

    vq->desc = v9_mem_window(mem, setup->desc_uva, (uint64_t)setup->num * sizeof(struct v9_desc),
                             &vq->windows[0]);
    vq->avail = v9_mem_window(mem, setup->avail_uva, sizeof(struct event), &vq->windows[1]);
    vq->used = v9_mem_window(mem, setup->used_uva, sizeof(struct event), &vq->windows[2]);
    if (!vq->desc || !vq->avail || !vq->used)
        return "a part of it lies outside guest memory, or cannot be mapped (SET_VRING_ADDR)";
    if ((setup->desc_uva | (uintptr_t)vq->desc) % 16 ||
        (setup->avail_uva | (uintptr_t)vq->avail) % 4 ||
        (setup->used_uva | (uintptr_t)vq->used) % 4)
        return "its parts are aligned to 16, 4 and 4 bytes (SET_VRING_ADDR)";
    return NULL;
}

/* Whether the device has ever returned a chain in this ring, or the driver has wrapped around. */
static bool is_used(const struct v9_virtqueue *vq)
{
    for (uint32_t i = 0; i < vq->setup.num; i++)
        if (__atomic_load_n(&vq->desc[i].next_or_flags, __ATOMIC_RELAXED) & USED)
            return true;
    return false;
}

void v9_packed_begin(struct v9_virtqueue *vq)
{
    vq->pop_at = place_of(vq->setup.base);
    vq->push_at = place_of(vq->setup.base >> 16);
    if (!vq->setup.base && !is_used(vq))
        vq->pop_at.wrap_counter = vq->push_at.wrap_counter = true;
}

uint32_t v9_packed_base(const struct v9_virtqueue *vq)
{
    return base_of(vq->pop_at) | base_of(vq->push_at) << 16;
}

/* ---- popping --------------------------------------------------------------------------------- */

static bool is_available_at(const struct v9_virtqueue *vq, struct v9_place place)
{
    /* Acquire: the driver writes these flags last, after the chain and what it describes. */
    const uint16_t flags =
        __atomic_load_n(&v9_virtqueue_desc(vq, place.index)->next_or_flags, __ATOMIC_ACQUIRE);

    return !!(flags & AVAIL) == place.wrap_counter && !!(flags & USED) != place.wrap_counter;
}

static bool is_available(const struct v9_virtqueue *vq)
{
    return is_available_at(vq, vq->pop_at);
}

int v9_packed_peek(struct v9_virtqueue *vq)
{
    return is_available(vq);
}

/* Copies a descriptor once; the copy is checked and used, since the guest may change the
 * original. */
static struct v9_buffer copy_desc(const uint8_t *at)
{
    struct v9_desc desc;

    memcpy(&desc, at, sizeof(desc));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read it again */
    return (struct v9_buffer){desc.gpa, desc.len, desc.next_or_flags, 0, desc.flags_or_id};
}

/* Adds all descriptors of an indirect table, in their order; of their flags, only WRITE counts. */
static int pop_table(struct v9_virtqueue *vq, struct v9_mem *mem, const struct v9_buffer *indirect,
                     struct v9_chain *chain)
{
    const uint8_t *table = v9_chain_table(vq, mem, indirect);
    const uint32_t count = indirect->len / sizeof(struct v9_desc);

    if (!table)
        return -EPROTO;
    for (uint32_t i = 0; i < count; i++) {
        const struct v9_buffer buffer = copy_desc(table + i * sizeof(struct v9_desc));
        if (buffer.flags & V9_DESC_INDIRECT)
            return v9_virtqueue_break(vq, "an indirect descriptor in an indirect table");
        if (v9_chain_add(vq, mem, &buffer, i + 1, chain) < 0)
            return -EPROTO;
    }
    return 0;
}

int v9_packed_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain)
{
    struct v9_place at = vq->pop_at;
    struct v9_buffer buffer;
    uint32_t steps = 0;

    do {
        if (++steps > vq->setup.num)
            return v9_virtqueue_break(vq, "a chain that is longer than the ring");
        buffer = copy_desc((const uint8_t *)v9_virtqueue_desc(vq, at.index));
        if (!(buffer.flags & V9_DESC_INDIRECT)) {
            if (v9_chain_add(vq, mem, &buffer, steps, chain) < 0)
                return -EPROTO;
        } else if (steps > 1) {
            return v9_virtqueue_break(vq, "an indirect descriptor within a chain");
        } else if (pop_table(vq, mem, &buffer, chain) < 0) {
            return -EPROTO;
        }
        at = v9_place_after(vq, at, 1);
    } while (buffer.flags & V9_DESC_NEXT);
    chain->head = buffer.id;
    chain->slots = (uint16_t)steps;
    vq->pop_at = at;
    return 0;
}

/* ---- pushing --------------------------------------------------------------------------------- */

void v9_packed_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written)
{
    struct v9_desc *desc = v9_virtqueue_desc(vq, vq->push_at.index);
    const uint16_t flags =
        (vq->push_at.wrap_counter ? AVAIL | USED : 0) | (written ? V9_DESC_WRITE : 0);

    desc->len = written;
    desc->flags_or_id = chain->head;
    /* Release: id, length and the reply are written before the driver sees the flags. */
    __atomic_store_n(&desc->next_or_flags, flags, __ATOMIC_RELEASE);
    vq->push_at = v9_place_after(vq, vq->push_at, chain->slots);
    /* More than one round counts as one round. */
    const uint32_t went = (uint32_t)vq->unsignalled + chain->slots;
    vq->unsignalled = (uint16_t)(went < vq->setup.num ? went : vq->setup.num);
}

/* The driver may have taken the chain already, and may have made the place available again: so
 * what is written there decides. Before the push it was available in this round. */
void v9_packed_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written,
                          struct v9_place place)
{
    vq->push_at = place;
    if (is_available_at(vq, place))
        v9_packed_push(vq, chain, written);
    else
        vq->push_at = v9_place_after(vq, place, chain->slots);
}

bool v9_packed_wants_signal(struct v9_virtqueue *vq, uint16_t went)
{
    const uint16_t new = (uint16_t)vq->push_at.index.value, old = (uint16_t)(new - went);
    const struct event *driver = vq->avail;
    /* Acquire: with EVENT_DESC, the place was written before the flags. */
    const uint16_t flags = __atomic_load_n(&driver->flags, __ATOMIC_ACQUIRE);
    uint16_t place;

    if (!vq->setup.event_idx || flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    place = __atomic_load_n(&driver->place, __ATOMIC_RELAXED);
    /* Converts the place to the scale of the indices: one of the previous round is one ring's
     * length lower. */
    if (!!(place & EVENT_WRAP) != vq->push_at.wrap_counter)
        return v9_event_passed((uint16_t)((place & EVENT_PLACE) - vq->setup.num), new, old);
    return v9_event_passed(place & EVENT_PLACE, new, old);
}

static void store_event(struct v9_virtqueue *vq, uint16_t flags)
{
    struct event *device = vq->used;

    /* Release: the place is written before the flags that make it valid. */
    __atomic_store_n(&device->flags, flags, __ATOMIC_RELEASE);
}

bool v9_packed_enable_notification(struct v9_virtqueue *vq)
{
    struct event *device = vq->used;

    if (vq->setup.event_idx)
        __atomic_store_n(&device->place, (uint16_t)base_of(vq->pop_at), __ATOMIC_RELAXED);
    store_event(vq, vq->setup.event_idx ? EVENT_DESC : EVENT_ENABLE);
    v9_full_barrier(); /* the request for kicks is visible before we check for new chains */
    return is_available(vq);
}

void v9_packed_disable_notification(struct v9_virtqueue *vq)
{
    store_event(vq, EVENT_DISABLE);
}
