/*
 * The guest's half of a split virtqueue, in memory shared with the server.
 *
 * One slot of the ring belongs to each lane for good: its descriptor points to the lane's indirect
 * table, as Linux's drivers have it, and a request only rewrites that table. INDIRECT and EVENT_IDX
 * must have been negotiated. Source: Virtual I/O Device (VIRTIO) 1.2, section 2.7.
 */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RING_SIZE = 128,
    TABLE_SIZE = 256, /* descriptors of a lane's indirect table */
    PAGE = 4096,
};

/* Spinning, with a look at the ring each time; on a call; or spinning with a rest of some µs
 * between looks, which leave the cache line to the server. */
enum waiting { WAIT_POLL, WAIT_CALL, WAIT_REST };

struct ring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct ring {
    uint8_t *memory; /* guest-physical address 0 */
    struct ring_desc *desc;
    volatile uint16_t *avail; /* flags, idx, ring[RING_SIZE], used_event */
    volatile uint16_t *used;  /* flags, idx, then {u32 id, u32 len}[RING_SIZE], avail_event */
    uint16_t avail_idx, published, used_idx;
    int kick_fd, call_fd;
    enum waiting waiting;
    uint64_t kicks, calls; /* notifications sent and waited for */
};

/* A part of a request: `len` bytes of guest memory. */
struct segment {
    void *at;
    uint32_t len;
    bool writable; /* by the server */
};

/*
 * Takes an empty ring in `memory` (guest-physical 0) with its parts at `at`, at + PAGE and
 * at + 2 * PAGE, each zero.
 */
void ring_open(struct ring *ring, uint8_t *memory, uint64_t at, int kick_fd, int call_fd);

/* How the next waits are done; takes effect at once. */
void ring_wait_by(struct ring *ring, enum waiting waiting);

/* Fills slot's indirect table and puts it into the ring, not yet seen by the server. */
void ring_add(struct ring *ring, unsigned slot, struct ring_desc *table,
              const struct segment *segments, unsigned count);

/* Lets the server see all that was added, and kicks it if it asked for that. */
void ring_publish(struct ring *ring);

/* The slot of the next finished request and the bytes written into it, or -1. */
int ring_pop(struct ring *ring, uint32_t *written);

/* Returns when a finished request may be there: after a while of spinning, or on a call. */
void ring_wait(struct ring *ring);

#endif
