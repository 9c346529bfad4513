/*
 * vring_layout: what the two layouts of a virtqueue share, between virtio/virtqueue.c and
 * vring_*.c.
 */
#ifndef V9_VIRTIO_RING_LAYOUT_H
#define V9_VIRTIO_RING_LAYOUT_H

#include "virtio/virtqueue.h"

enum { V9_DESC_NEXT = 1, V9_DESC_WRITE = 2, V9_DESC_INDIRECT = 4 };

struct v9_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags_or_id;   /* split: flags; packed: buffer id */
    uint16_t next_or_flags; /* split: next; packed: flags */
};

/* A descriptor that was copied from guest memory, whatever its layout. */
struct v9_buffer {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next, id;
};

/* The index `value` of a table of `count` entries; false where it has none. */
static inline bool v9_index_in(uint32_t count, uint32_t value, v9_index *index)
{
    if (value >= count)
        return false;
    *index = (v9_index){value};
    return true;
}

/* Where a counter that runs freely stands in a split ring, whose size is a power of two. */
static inline v9_index v9_index_of_counter(const struct v9_virtqueue *vr, uint16_t counter)
{
    return (v9_index){counter & (vr->setup.num - 1)};
}

/* `by` (at most the ring's size) further in a packed ring. */
static inline struct v9_place v9_place_after(const struct v9_virtqueue *vr, struct v9_place from,
                                             uint32_t by)
{
    const uint32_t to = from.index.value + by;

    if (to < vr->setup.num)
        return (struct v9_place){{to}, from.turn};
    return (struct v9_place){{to - vr->setup.num}, !from.turn};
}

static inline struct v9_desc *v9_virtqueue_desc(const struct v9_virtqueue *vr, v9_index index)
{
    return &vr->desc[index.value];
}

/* Notes why the ring is broken; -EPROTO. */
int v9_virtqueue_break(struct v9_virtqueue *vr, const char *reason);
/* An empty chain. */
void v9_chain_begin(struct v9_chain *chain);
/* Adds what a descriptor says to a chain; `steps` counts them. -EPROTO where it breaks the ring. */
int v9_chain_add(struct v9_virtqueue *vr, struct v9_mem *mem, const struct v9_buffer *buffer,
                 uint32_t steps, struct v9_chain *chain);
/* The table that an indirect descriptor names, or NULL where it breaks the ring. */
const uint8_t *v9_virtqueue_table(struct v9_virtqueue *vr, struct v9_mem *mem,
                                  const struct v9_buffer *buffer);

/* What was stored before is visible before anything after is loaded: both sides raise their flag
 * and then look at the other's. */
static inline void v9_full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Whether going on from `old` to `new` passed `event` (virtio 1.3, section 2.7.7.2). */
static inline bool v9_event_passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* What is wrong with the set-up, or NULL; */
const char *v9_split_check(const struct v9_virtqueue_setup *setup);
/* where its parts lie, or what is wrong with that; */
const char *v9_split_map(struct v9_virtqueue *vr, struct v9_mem *mem);
/* where it begins: mapped and checked before. */
void v9_split_begin(struct v9_virtqueue *vr);
uint32_t v9_split_base(const struct v9_virtqueue *vr);
int v9_split_peek(struct v9_virtqueue *vr);
int v9_split_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain);
void v9_split_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written);
/* Whether the driver wants to hear of the last `went` steps of pushing. */
bool v9_split_wants_signal(struct v9_virtqueue *vr, uint16_t went);
bool v9_split_arm(struct v9_virtqueue *vr);
void v9_split_disarm(struct v9_virtqueue *vr);

const char *v9_packed_check(const struct v9_virtqueue_setup *setup);
const char *v9_packed_map(struct v9_virtqueue *vr, struct v9_mem *mem);
void v9_packed_begin(struct v9_virtqueue *vr);
uint32_t v9_packed_base(const struct v9_virtqueue *vr);
int v9_packed_peek(struct v9_virtqueue *vr);
int v9_packed_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain);
void v9_packed_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written);
bool v9_packed_wants_signal(struct v9_virtqueue *vr, uint16_t went);
bool v9_packed_arm(struct v9_virtqueue *vr);
void v9_packed_disarm(struct v9_virtqueue *vr);

#endif
