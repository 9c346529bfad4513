/*
 * descriptor_chain: one request in the ring, as segments of our memory.
 *
 * A layout walks the guest's descriptors and adds a private copy of each one to the chain. What
 * violates the specification breaks the ring; what concerns one request only (a buffer outside
 * memory) is noted in the chain, whose writable part ends there.
 */
#ifndef V9_VIRTIO_DESCRIPTOR_CHAIN_H
#define V9_VIRTIO_DESCRIPTOR_CHAIN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtio/guest_memory.h"
#include "virtio/ring.h"

#define V9_CHAIN_MAX 1024 /* segments of a chain after merging: UIO_MAXIOV; and descriptors */

/* A descriptor chain: readable segments first, then writable ones. */
struct v9_chain {
    uint64_t generation; /* of its ring: nothing of an earlier one is pushed to a later one */
    uint16_t head;       /* its name for the driver: its first descriptor; packed: its buffer id */
    uint16_t slots;      /* descriptors of the ring that it takes */
    int error;           /* -EFAULT or -E2BIG: a buffer that cannot be used */
    bool cut;            /* `error` is of a writable one: the writable part ends before it */
    bool seen_writable;
    uint32_t readable_count, writable_count; /* elements of iov: [0, r) and [r, r+w) */
    uint64_t readable_size, writable_size;   /* bytes */
    /* While detached: the counts that attaching brings back; iov_base is a guest address. */
    bool detached;
    uint32_t detached_readable, detached_writable;
    struct iovec iov[V9_CHAIN_MAX];
};

enum { V9_DESC_NEXT = 1, V9_DESC_WRITE = 2, V9_DESC_INDIRECT = 4 };

/* A descriptor that was copied from guest memory, whatever its layout. */
struct v9_buffer {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next, id;
};

/* An empty chain. */
void v9_chain_begin(struct v9_chain *chain);
/* Adds a descriptor's buffer to a chain; `steps` counts descriptors. -EPROTO if it breaks the
 * ring. */
int v9_chain_add(struct v9_virtqueue *vq, struct v9_mem *mem, const struct v9_buffer *buffer,
                 uint32_t steps, struct v9_chain *chain);
/* The table of an indirect descriptor, or NULL if it breaks the ring. */
const uint8_t *v9_chain_table(struct v9_virtqueue *vq, struct v9_mem *mem,
                              const struct v9_buffer *buffer);

/*
 * Before the memory table changes: replaces the chain's segments by their guest addresses, since
 * its descriptors may be overwritten by now. Until it is attached again, it has no segments.
 */
void v9_chain_detach(struct v9_chain *chain, struct v9_mem *mem);
/* The same after a death, also where the process died while it did so, or while it attached the
 * chain. `mem` is as it was then: not recovered yet. */
void v9_chain_detach_dead(struct v9_chain *chain, const struct v9_mem *mem);
/* Afterwards. Where memory lacks one of them, the chain stays detached. */
void v9_chain_attach(struct v9_chain *chain, struct v9_mem *mem);

#endif
