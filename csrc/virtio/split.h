/*
 * split: the split layout (virtio 1.3, section 2.7). The driver owns descriptors and the
 * avail ring, the device the used ring.
 */
#ifndef V9_VIRTIO_SPLIT_H
#define V9_VIRTIO_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/descriptor_chain.h"
#include "virtio/guest_memory.h"
#include "virtio/ring.h"

/* Why the set-up makes no ring, or NULL. */
const char *v9_split_check(const struct v9_virtqueue_setup *setup);
/* Maps the ring's parts; why that failed, or NULL. */
const char *v9_split_map(struct v9_virtqueue *vq, struct v9_mem *mem);
/* Sets the progress of a mapped ring from its set-up. */
void v9_split_begin(struct v9_virtqueue *vq);
/* The progress, as GET_VRING_BASE returns it. */
uint32_t v9_split_base(const struct v9_virtqueue *vq);
/* For these, see the functions of virtio/virtqueue.h with the same names. */
int v9_split_peek(struct v9_virtqueue *vq);
int v9_split_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain);
void v9_split_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written);
/* Whether the driver wants a call for the last `went` steps of pushing. */
void v9_split_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written,
                         struct v9_place place);
bool v9_split_wants_signal(struct v9_virtqueue *vq, uint16_t went);
bool v9_split_enable_notification(struct v9_virtqueue *vq);
void v9_split_disable_notification(struct v9_virtqueue *vq);

#endif
