/*
 * vring: a virtqueue in guest memory, the device's side (virtio 1.3, section 2.6).
 *
 * Two layouts. Split (section 2.7, virtio/split.c): a table of descriptors, a ring of heads that
 * the driver makes available, a ring of those that the device has used. Packed (section 2.8,
 * virtio/packed.c): one ring of descriptors that both sides overwrite; bits that flip at each turn
 * tell whose a descriptor is.
 *
 * Nothing that the guest wrote is believed: a descriptor is copied once into private memory, the
 * copy is validated and the copy is used. What violates the specification breaks the ring (a
 * reason is given); what concerns one request only (a buffer outside memory) is reported in the
 * chain. This module does not know that 9P exists.
 *
 * Not thread-safe: the owner serialises.
 */
#ifndef V9_VIRTIO_VIRTQUEUE_H
#define V9_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtio/guest_memory.h"

#define V9_VRING_MAX 32768 /* entries of a ring */
#define V9_CHAIN_MAX 1024  /* segments of a chain after merging: UIO_MAXIOV; and descriptors */

/* A descriptor chain: readable segments first, then writable ones. */
struct v9_chain {
    uint64_t generation; /* of its ring: nothing of an earlier one is pushed to a later one */
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

/* What the frontend sets up while the ring is stopped, as it said it. */
struct v9_virtqueue_setup {
    uint32_t num;
    /* Progress as the frontend keeps it (SET_VRING_BASE, GET_VRING_BASE): the next avail index;
     * packed: bits 0-14 last_avail and 15 its turn, bits 16-30 used_idx and 31 its turn. */
    uint32_t base;
    uint64_t desc_uva, avail_uva, used_uva; /* packed: ring, driver's and device's event area */
    bool event_idx, indirect, packed;       /* negotiated */
};

/* An index that lies within its table: v9_index_in and its kin (virtio/ring_layout.h) make one. */
typedef struct {
    uint32_t value;
} v9_index;

/* Where one side of a packed ring stands. */
struct v9_place {
    v9_index index;
    bool turn;
};

struct v9_virtqueue {
    struct v9_virtqueue_setup
        setup;           /* that it was started with: it does not change while it runs */
    uint64_t generation; /* how often it was started */
    bool running;
    /* NULL while it is stopped, and while guest memory lacks a part of it; each is mapped for
     * itself
     */
    struct v9_desc *desc;
    void *avail, *used;
    struct v9_mapping windows[3];
    /* Progress of a split ring: indices that run freely; */
    uint16_t last_avail; /* next one to take */
    uint16_t used_idx;   /* next one to write */
    /* of a packed one. */
    struct v9_place take_at, push_at;
    uint16_t unsignalled; /* how far it was pushed since the last v9_virtqueue_should_signal */
    bool must_signal;     /* once after every start */
    const char *broken;   /* reason, or NULL */
};

/*
 * Starts a stopped ring: checks the set-up as a whole and finds the ring in guest memory. NULL, or
 * the reason why it stays stopped. A split ring's used_idx comes from guest memory.
 *
 * A packed ring whose base is 0 is one that nobody has used yet, as User Mode Linux means it,
 * unless a descriptor in it was used: the base of an unused ring would be 0x80008000, and who has
 * gone round once to stand at 0 in turn 0 has left a used descriptor behind.
 */
const char *v9_virtqueue_start(struct v9_virtqueue *vr, const struct v9_virtqueue_setup *setup,
                               struct v9_mem *mem);
/* Stops it: nothing is taken or pushed any more. Its progress stays in setup.base. */
void v9_virtqueue_stop(struct v9_virtqueue *vr);
/* Around a change of the memory table. A ring that memory lacks a part of goes on once it has it.
 */
void v9_virtqueue_unmap(struct v9_virtqueue *vr);
void v9_virtqueue_remap(struct v9_virtqueue *vr, struct v9_mem *mem);
/* Whether it is running and mapped, as all but v9_virtqueue_push below have it. */
static inline bool v9_virtqueue_is_live(const struct v9_virtqueue *vr)
{
    return vr->desc != NULL;
}

/* 1 if a chain is available; 0 if not; -EPROTO when the ring is (now) broken. */
int v9_virtqueue_peek(struct v9_virtqueue *vr);
/* After a peek that said 1: reads the chain and advances past it. 0 or -EPROTO (broken). */
int v9_virtqueue_take(struct v9_virtqueue *vr, struct v9_mem *mem, struct v9_chain *chain);
/* Returns a chain with `written` bytes; publishes it. False where the ring that it came from is no
 * more: nothing happens. */
bool v9_virtqueue_push(struct v9_virtqueue *vr, const struct v9_chain *chain, uint32_t written);
/* After one or several pushes: does the driver want a notification? (full barrier inside) */
bool v9_virtqueue_should_signal(struct v9_virtqueue *vr);
/* Asks for kicks from here on; true if chains are available already (look again, do not sleep). */
bool v9_virtqueue_arm(struct v9_virtqueue *vr);
/* Asks for no kicks while the ring is being served (a hint). */
void v9_virtqueue_disarm(struct v9_virtqueue *vr);

/*
 * Before the memory table changes: takes the chain's segments away and keeps what they were to the
 * guest, since its descriptors may be overwritten by now. Until it is attached again it has none.
 */
void v9_chain_detach(struct v9_chain *chain, struct v9_mem *mem);
/* Afterwards. Where memory lacks a part of them the chain stays detached. */
void v9_chain_attach(struct v9_chain *chain, struct v9_mem *mem);

#endif
