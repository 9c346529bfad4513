/*
 * ring: the state of one virtqueue, and what both of its layouts need: indices that are proven to
 * lie in the ring, and the rule of event indices. What a layout does with it is in virtio/split.h
 * and virtio/packed.h; everybody else uses virtio/virtqueue.h.
 */
#ifndef V9_VIRTIO_RING_H
#define V9_VIRTIO_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/guest_memory.h"

#define V9_VRING_MAX 32768 /* entries of a ring */

/* What the frontend sets up while the ring is stopped, unchecked. */
struct v9_virtqueue_setup {
    uint32_t num;
    /* Progress as the frontend keeps it (SET_VRING_BASE, GET_VRING_BASE): the next avail index;
     * packed: bits 0-14 last_avail, 16-30 used_idx; 15 and 31 their wrap counters. */
    uint32_t base;
    uint64_t desc_uva, avail_uva, used_uva; /* packed: ring, driver's and device's event area */
    bool event_idx, indirect, packed;       /* negotiated */
};

/* An index that lies within its table: only the functions below create one. */
typedef struct {
    uint32_t value;
} v9_index;

/* The position of one side in a packed ring. */
struct v9_place {
    v9_index index;
    bool wrap_counter;
};

/* As both layouts have it in guest memory (sections 2.7.5 and 2.8.5). */
struct v9_desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags_or_id;   /* split: flags; packed: buffer id */
    uint16_t next_or_flags; /* split: next; packed: flags */
};

struct v9_virtqueue {
    struct v9_virtqueue_setup setup; /* does not change while the ring runs */
    uint64_t generation;             /* how often it was started */
    bool running;
    /* Each has a mapping of its own. NULL while the ring is stopped, and while guest memory lacks a
     * part of it. */
    struct v9_desc *desc;
    void *avail, *used;
    struct v9_mapping windows[3];
    /* Progress of a split ring: indices that run freely; */
    uint16_t last_avail; /* next one to pop */
    uint16_t used_idx;   /* next one to write */
    /* of a packed one. */
    struct v9_place pop_at, push_at;
    uint16_t unsignalled; /* how far it was pushed since the last v9_virtqueue_should_signal */
    bool must_signal;     /* once after every start */
    const char *broken;   /* reason, or NULL */
};

/* The index `value` of a table of `count` entries; false if it is outside. */
static inline bool v9_index_in(uint32_t count, uint32_t value, v9_index *index)
{
    if (value >= count)
        return false;
    *index = (v9_index){value};
    return true;
}

/* The index in a split ring, whose size is a power of two, for a free-running counter. */
static inline v9_index v9_index_of_counter(const struct v9_virtqueue *vq, uint16_t counter)
{
    return (v9_index){counter & (vq->setup.num - 1)};
}

/* The position `by` entries (at most the ring's size) after `from` in a packed ring. */
static inline struct v9_place v9_place_after(const struct v9_virtqueue *vq, struct v9_place from,
                                             uint32_t by)
{
    const uint32_t to = from.index.value + by;

    if (to < vq->setup.num)
        return (struct v9_place){{to}, from.wrap_counter};
    return (struct v9_place){{to - vq->setup.num}, !from.wrap_counter};
}

static inline struct v9_desc *v9_virtqueue_desc(const struct v9_virtqueue *vq, v9_index index)
{
    return &vq->desc[index.value];
}

/* Breaks the ring for a reason; -EPROTO. */
static inline int v9_virtqueue_break(struct v9_virtqueue *vq, const char *reason)
{
    if (!vq->broken)
        vq->broken = reason;
    return -EPROTO;
}

/* Stores before it are visible before loads after it: each side sets its own flag and then reads
 * the other's. */
static inline void v9_full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Whether the step from `old` to `new` passed `event` (virtio 1.3, section 2.7.7.2). */
static inline bool v9_event_passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

#endif
