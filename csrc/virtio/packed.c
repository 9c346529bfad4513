/*
 * vring_packed: the packed layout (virtio 1.3, section 2.8).
 *
 * Both sides go round one ring of descriptors, each with a bit, its turn, that flips when it starts
 * over. A descriptor is available where its AVAIL bit is the driver's turn and its USED bit is not;
 * the device marks one as used by setting both to its own turn. A chain takes descriptors in a row;
 * the last one has its buffer id. The device returns it in one descriptor, wherever it stands now,
 * and goes on by as many as the chain took: so what is in flight may be overwritten by what is
 * returned, and a chain is read only once.
 *
 * Each side says in its event area when it wants to hear of the other's progress: always, never, or
 * at a place of the ring (with EVENT_IDX).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "virtio/ring_layout.h"

enum { AVAIL = 1 << 7, USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
enum { EVENT_PLACE = 0x7fff, EVENT_TURN = 0x8000 };

struct event {
    uint16_t place; /* EVENT_DESC: bits 0-14 the descriptor, bit 15 the turn */
    uint16_t flags;
};

static struct v9_place place_of(uint32_t base)
{
    return (struct v9_place){{base & EVENT_PLACE}, base & EVENT_TURN};
}

static uint32_t base_of(struct v9_place place)
{
    return place.index.value | (place.turn ? EVENT_TURN : 0);
}

const char *v9_packed_check(const struct v9_virtqueue_setup *setup)
{
    if (place_of(setup->base).index.value >= setup->num ||
        place_of(setup->base >> 16).index.value >= setup->num)
        return "its base lies behind its end (SET_VRING_BASE, SET_VRING_NUM)";
    return NULL;
}

const char *v9_packed_map(struct v9_virtqueue *vr, struct v9_mem *mem)
{
    const struct v9_virtqueue_setup *setup = &vr->setup;

    vr->desc = v9_mem_window(mem, setup->desc_uva, (uint64_t)setup->num * sizeof(struct v9_desc),
                             &vr->windows[0]);
    vr->avail = v9_mem_window(mem, setup->avail_uva, sizeof(struct event), &vr->windows[1]);
    vr->used = v9_mem_window(mem, setup->used_uva, sizeof(struct event), &vr->windows[2]);
    if (!vr->desc || !vr->avail || !vr->used)
        return "a part of it lies outside guest memory, or cannot be mapped (SET_VRING_ADDR)";
    if ((setup->desc_uva | (uintptr_t)vr->desc) % 16 ||
        (setup->avail_uva | (uintptr_t)vr->avail) % 4 ||
        (setup->used_uva | (uintptr_t)vr->used) % 4)
        return "its parts are aligned to 16, 4 and 4 bytes (SET_VRING_ADDR)";
    return NULL;
}

/* Whether the device has ever returned something in this ring, or the driver gone round. */
static bool is_used(const struct v9_virtqueue *vr)
{
    for (uint32_t i = 0; i < vr->setup.num; i++)
        if (__atomic_load_n(&vr->desc[i].next_or_flags, __ATOMIC_RELAXED) & USED)
            return true;
    return false;
}

void v9_packed_begin(struct v9_virtqueue *vr)
{
    vr->take_at = place_of(vr->setup.base);
    vr->push_at = place_of(vr->setup.base >> 16);
    if (!vr->setup.base && !is_used(vr))
        vr->take_at.turn = vr->push_at.turn = true;
}

uint32_t v9_packed_base(const struct v9_virtqueue *vr)
{
    return base_of(vr->take_at) | base_of(vr->push_at) << 16;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

static bool is_available(const struct v9_virtqueue *vr)
{
    /* Acquire: the driver writes these flags last, after the chain and what it describes. */
    const uint16_t flags =
        __atomic_load_n(&v9_virtqueue_desc(vr, vr->take_at.index)->next_or_flags, __ATOMIC_ACQUIRE);

    return !!(flags & AVAIL) == vr->take_at.turn && !!(flags & USED) != vr->take_at.turn;
}

int v9_packed_peek(struct v9_virtqueue *vr)
{
    return is_available(vr);
}

/* One copy, which is checked and used: the guest may change the original. */
static struct v9_buffer copy_desc(const uint8_t *at)
{
    struct v9_desc desc;

    memcpy(&desc, at, sizeof(desc));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not read it again */
    return (struct v9_buffer){desc.addr, desc.len, desc.next_or_flags, 0, desc.flags_or_id};
}

/* All of an indirect table: its descriptors follow one another, and only WRITE means something. */
static int take_table(struct v9_virtqueue *vr, struct v9_mem *mem, const struct v9_buffer *indirect,
                      struct v9_chain *chain)
{
    const uint8_t *table = v9_virtqueue_table(vr, mem, indirect);
    const uint32_t count = indirect->len / sizeof(struct v9_desc);

    if (!table)
        return -EPROTO;
    for (uint32_t i = 0; i < count; i++) {
        const struct v9_buffer buffer = copy_desc(table + i * sizeof(struct v9_desc));
        if (buffer.flags & V9_DESC_INDIRECT)
            return v9_virtqueue_break(vr, "an indirect descriptor in an indirect table");
        if (v9_chain_add(vr, mem, &buffer, i + 1, chain) < 0)
            return -EPROTO;
    }
    return 0;
}

int v9_packed_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain)
{
    struct v9_place at = vr->take_at;
    struct v9_buffer buffer;
    uint32_t steps = 0;

    do {
        if (++steps > vr->setup.num)
            return v9_virtqueue_break(vr, "a chain that is longer than the ring");
        buffer = copy_desc((const uint8_t *)v9_virtqueue_desc(vr, at.index));
        if (!(buffer.flags & V9_DESC_INDIRECT)) {
            if (v9_chain_add(vr, mem, &buffer, steps, chain) < 0)
                return -EPROTO;
        } else if (steps > 1) {
            return v9_virtqueue_break(vr, "an indirect descriptor within a chain");
        } else if (take_table(vr, mem, &buffer, chain) < 0) {
            return -EPROTO;
        }
        at = v9_place_after(vr, at, 1);
    } while (buffer.flags & V9_DESC_NEXT);
    chain->head = buffer.id;
    chain->slots = (uint16_t)steps;
    vr->take_at = at;
    return 0;
}

/* ---- returning ---------------------------------------------------------------------------------
 */

void v9_packed_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written)
{
    struct v9_desc *desc = v9_virtqueue_desc(vr, vr->push_at.index);
    const uint16_t flags = (vr->push_at.turn ? AVAIL | USED : 0) | (written ? V9_DESC_WRITE : 0);

    desc->len = written;
    desc->flags_or_id = chain->head;
    /* Release: id, length and the reply are written before the driver sees the flags. */
    __atomic_store_n(&desc->next_or_flags, flags, __ATOMIC_RELEASE);
    vr->push_at = v9_place_after(vr, vr->push_at, chain->slots);
    /* More than a turn cannot be told from a turn. */
    const uint32_t went = (uint32_t)vr->unsignalled + chain->slots;
    vr->unsignalled = (uint16_t)(went < vr->setup.num ? went : vr->setup.num);
}

bool v9_packed_wants_signal(struct v9_virtqueue *vr, uint16_t went)
{
    const uint16_t new = (uint16_t)vr->push_at.index.value, old = (uint16_t)(new - went);
    const struct event *driver = vr->avail;
    /* Acquire: where the flags say so, the place was written before them. */
    const uint16_t flags = __atomic_load_n(&driver->flags, __ATOMIC_ACQUIRE);
    uint16_t place;

    if (!vr->setup.event_idx || flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    place = __atomic_load_n(&driver->place, __ATOMIC_RELAXED);
    /* On one line with the indices: a place of the turn before lies one ring's length back. */
    if (!!(place & EVENT_TURN) != vr->push_at.turn)
        return v9_event_passed((uint16_t)((place & EVENT_PLACE) - vr->setup.num), new, old);
    return v9_event_passed(place & EVENT_PLACE, new, old);
}

static void store_event(struct v9_virtqueue *vr, uint16_t flags)
{
    struct event *device = vr->used;

    /* Release: the place counts once the flags say so. */
    __atomic_store_n(&device->flags, flags, __ATOMIC_RELEASE);
}

bool v9_packed_arm(struct v9_virtqueue *vr)
{
    struct event *device = vr->used;

    if (vr->setup.event_idx)
        __atomic_store_n(&device->place, (uint16_t)base_of(vr->take_at), __ATOMIC_RELAXED);
    store_event(vr, vr->setup.event_idx ? EVENT_DESC : EVENT_ENABLE);
    v9_full_barrier(); /* our wish is visible before we look whether the driver has missed it */
    return is_available(vr);
}

void v9_packed_disarm(struct v9_virtqueue *vr)
{
    store_event(vr, EVENT_DISABLE);
}
