/*
 * vring: a split virtqueue in guest memory, the device's side (virtio 1.3, section 2.7).
 *
 * The driver owns descriptors and the avail ring, the device the used ring. Nothing that the guest
 * wrote is believed: a descriptor is copied once into private memory, the copy is validated and
 * the copy is used. What violates the specification breaks the ring (a reason is given); what
 * concerns one request only (a buffer outside memory) is reported in the chain. This module does
 * not know that 9P exists.
 *
 * Not thread-safe: the owner serialises.
 */
#ifndef V9_VRING_H
#define V9_VRING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_mem.h"

#define V9_VRING_MAX 32768 /* entries of a ring */
#define V9_CHAIN_MAX 1024  /* segments of a chain after merging: UIO_MAXIOV; and descriptors */

/* A descriptor chain: readable segments first, then writable ones. */
struct v9_chain {
    uint16_t head;
    int error; /* -EFAULT or -E2BIG: a buffer that cannot be used */
    bool cut;  /* it is a writable one: the writable part ends before it */
    uint32_t readable_count, writable_count; /* elements of iov: [0, r) and [r, r+w) */
    uint64_t readable_size, writable_size;   /* bytes */
    struct iovec iov[V9_CHAIN_MAX];
};

struct v9_vring {
    /* set-up; takes effect at the next v9_vring_map */
    uint32_t num;
    uint64_t desc_uva, avail_uva, used_uva;
    bool event_idx, indirect; /* negotiated features 29 and 28; these count at once */
    /* mapped; NULL until v9_vring_map */
    uint32_t size; /* num as it was mapped: the frontend may set another under a running ring */
    struct v9_desc *desc;
    struct v9_avail *avail;
    struct v9_used *used;
    /* progress */
    uint16_t last_avail; /* next avail index to take */
    uint16_t used_idx;   /* next used index to write */
    uint16_t signalled;  /* used_idx at the last v9_vring_should_signal */
    bool must_signal;    /* once after every start */
    const char *broken;  /* reason, or NULL */
};

/* Translates desc_uva, avail_uva and used_uva (also after the memory table changed) and reloads
 * used_idx from guest memory. -EINVAL (num or alignment), -EFAULT (outside memory). */
int v9_vring_map(struct v9_vring *vr, struct v9_mem *mem);
void v9_vring_unmap(struct v9_vring *vr);
/* All below: the ring is mapped (desc is not NULL). */

/* 1 and *head if a chain is available; 0 if not; -EPROTO when the ring is (now) broken.
 * Does not advance: the caller records the head first. */
int v9_vring_peek(struct v9_vring *vr, uint16_t *head);
/* Advances past `head` and reads its chain. 0 or -EPROTO (broken). */
int v9_vring_take(struct v9_vring *vr, struct v9_mem *mem, uint16_t head, struct v9_chain *chain);
/* Returns a chain with `written` bytes; publishes it. */
void v9_vring_push(struct v9_vring *vr, uint16_t head, uint32_t written);
/* After one or several pushes: does the driver want a notification? (full barrier inside) */
bool v9_vring_should_signal(struct v9_vring *vr);
/* Asks for kicks from here on; true if chains are available already (look again, do not sleep). */
bool v9_vring_arm(struct v9_vring *vr);
/* Asks for no kicks while the ring is being served (a hint). */
void v9_vring_disarm(struct v9_vring *vr);

#endif
