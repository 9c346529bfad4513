/*
 * packed: the packed layout of a virtqueue (virtio 1.3, section 2.8).
 *
 * Driver and device both go round one ring of descriptors. Each has a wrap counter, a bit that
 * flips when it starts over. A descriptor is available where its AVAIL bit equals the driver's wrap
 * counter and its USED bit does not; the device marks a descriptor as used by setting both bits to
 * its own wrap counter. A chain occupies consecutive descriptors; the last one has its buffer id.
 * The device returns it in a single descriptor, at its own place in the ring, and skips as many as
 * the chain occupied. Returned descriptors may therefore overwrite chains in flight, and a chain is
 * read only once.
 *
 * Each side says in its event area when it wants notifications: always, never, or (with EVENT_IDX)
 * when the other side reaches a place in the ring.
 */
#ifndef V9_VIRTIO_PACKED_H
#define V9_VIRTIO_PACKED_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/descriptor_chain.h"
#include "virtio/guest_memory.h"
#include "virtio/ring.h"

/* Why the set-up makes no ring, or NULL. */
const char *v9_packed_check(const struct v9_virtqueue_setup *setup);
/* Maps the ring's parts; why that failed, or NULL. */
const char *v9_packed_map(struct v9_virtqueue *vq, struct v9_mem *mem);
/* Sets the progress of a mapped ring from its set-up. */
void v9_packed_begin(struct v9_virtqueue *vq);
/* The progress, as GET_VRING_BASE returns it. */
uint32_t v9_packed_base(const struct v9_virtqueue *vq);
/* For these, see the functions of virtio/virtqueue.h with the same names. */
int v9_packed_peek(struct v9_virtqueue *vq);
int v9_packed_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain);
void v9_packed_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written);
void v9_packed_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written,
                          struct v9_place place);
/* Whether the driver wants a call for the last `went` steps of pushing. */
bool v9_packed_wants_signal(struct v9_virtqueue *vq, uint16_t went);
bool v9_packed_enable_notification(struct v9_virtqueue *vq);
void v9_packed_disable_notification(struct v9_virtqueue *vq);

#endif
