/*
 * vring: a virtqueue in guest memory, the device's side (virtio 1.3, section 2.6).
 *
 * Two layouts. Split (section 2.7, vring_split.c): a table of descriptors, a ring of heads that the
 * driver makes available, a ring of those that the device has used. Packed (section 2.8,
 * vring_packed.c): one ring of descriptors that both sides overwrite; bits that flip at each turn
 * tell whose a descriptor is.
 *
 * Nothing that the guest wrote is believed: a descriptor is copied once into private memory, the
 * copy is validated and the copy is used. What violates the specification breaks the ring (a
 * reason is given); what concerns one request only (a buffer outside memory) is reported in the
 * chain. This module does not know that 9P exists.
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
    uint16_t head;  /* what names it to the driver: its first descriptor; packed: its buffer id */
    uint16_t slots; /* descriptors of the ring that it takes */
    int error;      /* -EFAULT or -E2BIG: a buffer that cannot be used */
    bool cut;       /* it is a writable one: the writable part ends before it */
    bool seen_writable;
    uint32_t readable_count, writable_count; /* elements of iov: [0, r) and [r, r+w) */
    uint64_t readable_size, writable_size;   /* bytes */
    /* While detached: the counts that attaching brings back; iov_base is a guest address. */
    bool detached;
    uint32_t readable_kept, writable_kept;
    struct iovec iov[V9_CHAIN_MAX];
};

struct v9_vring {
    /* set-up; takes effect at the next v9_vring_map */
    uint32_t num;
    uint64_t desc_uva, avail_uva, used_uva; /* packed: ring, driver's and device's event area */
    bool event_idx, indirect, packed;       /* negotiated; these count at once */
    /* mapped; NULL until v9_vring_map */
    uint32_t size; /* num as it was mapped: the frontend may set another under a running ring */
    struct v9_desc *desc;
    void *avail, *used;
    /* progress. Split: indices that run freely. Packed: places in the ring, and the turn. */
    uint16_t last_avail; /* next one to take */
    uint16_t used_idx;   /* next one to write */
    bool avail_turn, used_turn;
    uint16_t unsignalled; /* how far used_idx went since the last v9_vring_should_signal */
    bool must_signal;     /* once after every start */
    const char *broken;   /* reason, or NULL */
};

/* Which layout; progress begins anew. */
void v9_vring_set_packed(struct v9_vring *vr, bool packed);
/* Progress as the frontend keeps it (SET_VRING_BASE, GET_VRING_BASE): the next avail index; packed:
 * bits 0-14 last_avail and 15 its turn, bits 16-30 used_idx and 31 its turn. -EINVAL. */
int v9_vring_set_base(struct v9_vring *vr, uint32_t base);
uint32_t v9_vring_base(const struct v9_vring *vr);
/* Translates desc_uva, avail_uva and used_uva (also after the memory table changed); a split ring's
 * used_idx is loaded from guest memory again. -EINVAL (num or alignment), -EFAULT (outside memory).
 */
int v9_vring_map(struct v9_vring *vr, struct v9_mem *mem);
void v9_vring_unmap(struct v9_vring *vr);
/* All below: the ring is mapped (desc is not NULL). */

/* 1 if a chain is available; 0 if not; -EPROTO when the ring is (now) broken. */
int v9_vring_peek(struct v9_vring *vr);
/* After a peek that said 1: reads the chain and advances past it. 0 or -EPROTO (broken). */
int v9_vring_take(struct v9_vring *vr, struct v9_mem *mem, struct v9_chain *chain);
/* Returns a chain with `written` bytes; publishes it. */
void v9_vring_push(struct v9_vring *vr, const struct v9_chain *chain, uint32_t written);
/* After one or several pushes: does the driver want a notification? (full barrier inside) */
bool v9_vring_should_signal(struct v9_vring *vr);
/* Asks for kicks from here on; true if chains are available already (look again, do not sleep). */
bool v9_vring_arm(struct v9_vring *vr);
/* Asks for no kicks while the ring is being served (a hint). */
void v9_vring_disarm(struct v9_vring *vr);

/*
 * Before the memory table changes: takes the chain's segments away and keeps what they were to the
 * guest, since its descriptors may be overwritten by now. Until it is attached again it has none.
 */
void v9_chain_detach(struct v9_chain *chain, struct v9_mem *mem);
/* Afterwards. Where memory lacks a part of them the chain stays detached. */
void v9_chain_attach(struct v9_chain *chain, struct v9_mem *mem);

#endif
