/*
 * virtqueue: the device's side of a virtqueue in guest memory (virtio 1.3, section 2.6).
 *
 * Two layouts. Split (section 2.7, virtio/split.c): a table of descriptors, a ring of heads that
 * the driver makes available, a ring of those that the device has used. Packed (section 2.8,
 * virtio/packed.c): one ring of descriptors that both sides overwrite; wrap counters show whose a
 * descriptor is.
 *
 * Nothing that the guest wrote is trusted: a descriptor is copied once into private memory, and the
 * copy is checked and used. A violation of the specification breaks the ring, for a reason that is
 * noted; an error of one request only (a buffer outside memory) is reported in its chain. This room
 * does not know that 9P exists.
 *
 * Not thread-safe: the owner serialises.
 */
#ifndef V9_VIRTIO_VIRTQUEUE_H
#define V9_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/descriptor_chain.h"
#include "virtio/guest_memory.h"
#include "virtio/ring.h"

/*
 * Starts a stopped ring: checks the set-up as a whole and finds the ring in guest memory. NULL, or
 * the reason why it stays stopped. A split ring's used_idx comes from guest memory.
 *
 * A packed ring whose base is 0 is one that nobody has used yet, as User Mode Linux means it,
 * unless a descriptor in it was used: the base of an unused ring would be 0x80008000, and a device
 * that has gone round once, back to 0 with wrap counter 0, has left a used descriptor behind.
 */
const char *v9_virtqueue_start(struct v9_virtqueue *vq, const struct v9_virtqueue_setup *setup,
                               struct v9_mem *mem);
/* Stops it: nothing is popped or pushed any more. Its progress stays in setup.base. */
void v9_virtqueue_stop(struct v9_virtqueue *vq);
/* Around a change of the memory table. A ring goes on once memory has all of its parts again.
 */
void v9_virtqueue_unmap(struct v9_virtqueue *vq);
void v9_virtqueue_remap(struct v9_virtqueue *vq, struct v9_mem *mem);
/* Where the next chain is popped or pushed: a free-running index in a split ring. Setting it undoes
 * a pop. */
struct v9_place v9_virtqueue_pop_place(const struct v9_virtqueue *vq);
struct v9_place v9_virtqueue_push_place(const struct v9_virtqueue *vq);
void v9_virtqueue_set_pop_place(struct v9_virtqueue *vq, struct v9_place place);
/* After a death, in the process that takes over: maps the ring again, and signals at the next
 * opportunity, since the last signal may not have been sent. */
void v9_virtqueue_recover(struct v9_virtqueue *vq, struct v9_mem *mem);
/* After a death during the push of this chain to `place`: the chain is pushed once then. */
void v9_virtqueue_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain,
                             uint32_t written, struct v9_place place);
/* Whether it is running and mapped, which all below but v9_virtqueue_push require. */
static inline bool v9_virtqueue_is_live(const struct v9_virtqueue *vq)
{
    return vq->desc != NULL;
}

/* 1 if a chain is available; 0 if not; -EPROTO when the ring is (now) broken. */
int v9_virtqueue_peek(struct v9_virtqueue *vq);
/* After a peek that returned 1: reads the chain and advances past it. 0 or -EPROTO (broken). */
int v9_virtqueue_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain);
/* Returns a chain with `written` bytes and publishes it. False, without any effect, where the ring
 * was stopped since. */
bool v9_virtqueue_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written);
/* After one or several pushes: does the driver want a notification? (full barrier inside) */
bool v9_virtqueue_should_signal(struct v9_virtqueue *vq);
/* Asks for kicks from here on; true if chains are available already (pop them, do not sleep). */
bool v9_virtqueue_enable_notification(struct v9_virtqueue *vq);
/* Asks for no kicks while the ring is being served (a hint). */
void v9_virtqueue_disable_notification(struct v9_virtqueue *vq);

#endif
