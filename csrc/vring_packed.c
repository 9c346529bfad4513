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

#include "vring_layout.h"

enum { AVAIL = 1 << 7, USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
enum { EVENT_PLACE = 0x7fff, EVENT_TURN = 0x8000 };

struct event {
    uint16_t place; /* EVENT_DESC: bits 0-14 the descriptor, bit 15 the turn */
    uint16_t flags;
};

int v9_packed_map(struct v9_vring *vr, struct v9_mem *mem)
{
    if (vr->desc_uva % 16 || vr->avail_uva % 4 || vr->used_uva % 4)
        return -EINVAL;
    if (vr->last_avail >= vr->num || vr->used_idx >= vr->num)
        return -EINVAL;
    vr->desc = v9_mem_uva(mem, vr->desc_uva, (uint64_t)vr->num * sizeof(struct v9_desc));
    vr->avail = v9_mem_uva(mem, vr->avail_uva, sizeof(struct event));
    vr->used = v9_mem_uva(mem, vr->used_uva, sizeof(struct event));
    if (!vr->desc || !vr->avail || !vr->used)
        return -EFAULT;
    if ((uintptr_t)vr->desc % 16 || (uintptr_t)vr->avail % 4 || (uintptr_t)vr->used % 4)
        return -EINVAL;
    return 0;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

static bool is_available(const struct v9_vring *vr)
{
    /* Acquire: the driver writes these flags last, after the chain and what it describes. */
    const uint16_t flags =
        __atomic_load_n(&vr->desc[vr->last_avail].next_or_flags, __ATOMIC_ACQUIRE);

    return !!(flags & AVAIL) == vr->avail_turn && !!(flags & USED) != vr->avail_turn;
}

int v9_packed_peek(struct v9_vring *vr)
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
static int take_table(struct v9_vring *vr, struct v9_mem *mem, const struct v9_buffer *indirect,
                      struct v9_chain *chain)
{
    const uint8_t *table = v9_vring_table(vr, mem, indirect);
    const uint32_t count = indirect->len / sizeof(struct v9_desc);

    if (!table)
        return -EPROTO;
    for (uint32_t i = 0; i < count; i++) {
        const struct v9_buffer buffer = copy_desc(table + i * sizeof(struct v9_desc));
        if (buffer.flags & V9_DESC_INDIRECT)
            return v9_vring_break(vr, "an indirect descriptor in an indirect table");
        if (v9_chain_add(vr, mem, &buffer, i + 1, chain) < 0)
            return -EPROTO;
    }
    return 0;
}

static void advance(const struct v9_vring *vr, uint16_t *place, bool *turn, uint16_t by)
{
    uint32_t to = (uint32_t)*place + by;

    if (to >= vr->size) {
        to -= vr->size;
        *turn = !*turn;
    }
    *place = (uint16_t)to;
}

int v9_packed_take(struct v9_vring *vr, struct v9_mem *mem, struct v9_chain *chain)
{
    uint32_t index = vr->last_avail, steps = 0;
    struct v9_buffer buffer;

    do {
        if (++steps > vr->size)
            return v9_vring_break(vr, "a chain that is longer than the ring");
        buffer = copy_desc((const uint8_t *)&vr->desc[index]);
        if (!(buffer.flags & V9_DESC_INDIRECT)) {
            if (v9_chain_add(vr, mem, &buffer, steps, chain) < 0)
                return -EPROTO;
        } else if (steps > 1) {
            return v9_vring_break(vr, "an indirect descriptor within a chain");
        } else if (take_table(vr, mem, &buffer, chain) < 0) {
            return -EPROTO;
        }
        index = index + 1 == vr->size ? 0 : index + 1;
    } while (buffer.flags & V9_DESC_NEXT);
    chain->head = buffer.id;
    chain->slots = (uint16_t)steps;
    advance(vr, &vr->last_avail, &vr->avail_turn, chain->slots);
    return 0;
}

/* ---- returning ---------------------------------------------------------------------------------
 */

void v9_packed_push(struct v9_vring *vr, const struct v9_chain *chain, uint32_t written)
{
    struct v9_desc *desc = &vr->desc[vr->used_idx];
    const uint16_t flags = (vr->used_turn ? AVAIL | USED : 0) | (written ? V9_DESC_WRITE : 0);

    desc->len = written;
    desc->flags_or_id = chain->head;
    /* Release: id, length and the reply are written before the driver sees the flags. */
    __atomic_store_n(&desc->next_or_flags, flags, __ATOMIC_RELEASE);
    advance(vr, &vr->used_idx, &vr->used_turn, chain->slots);
    /* More than a turn cannot be told from a turn. */
    const uint32_t went = (uint32_t)vr->unsignalled + chain->slots;
    vr->unsignalled = (uint16_t)(went < vr->size ? went : vr->size);
}

bool v9_packed_wants_signal(struct v9_vring *vr, uint16_t new, uint16_t old)
{
    const struct event *driver = vr->avail;
    /* Acquire: where the flags say so, the place was written before them. */
    const uint16_t flags = __atomic_load_n(&driver->flags, __ATOMIC_ACQUIRE);
    uint16_t place;

    if (!vr->event_idx || flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    place = __atomic_load_n(&driver->place, __ATOMIC_RELAXED);
    /* On one line with the indices: a place of the turn before lies one ring's length back. */
    if (!!(place & EVENT_TURN) != vr->used_turn)
        return v9_event_passed((uint16_t)((place & EVENT_PLACE) - vr->size), new, old);
    return v9_event_passed(place & EVENT_PLACE, new, old);
}

static void store_event(struct v9_vring *vr, uint16_t flags)
{
    struct event *device = vr->used;

    /* Release: the place counts once the flags say so. */
    __atomic_store_n(&device->flags, flags, __ATOMIC_RELEASE);
}

bool v9_packed_arm(struct v9_vring *vr)
{
    struct event *device = vr->used;

    if (vr->event_idx)
        __atomic_store_n(&device->place, vr->last_avail | (vr->avail_turn ? EVENT_TURN : 0),
                         __ATOMIC_RELAXED);
    store_event(vr, vr->event_idx ? EVENT_DESC : EVENT_ENABLE);
    v9_full_barrier(); /* our wish is visible before we look whether the driver has missed it */
    return is_available(vr);
}

void v9_packed_disarm(struct v9_vring *vr)
{
    store_event(vr, EVENT_DISABLE);
}
