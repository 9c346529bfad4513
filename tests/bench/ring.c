/*
 * The guest's half of a split virtqueue: see ring.h.
 */
#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#include "bench.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { IDX = 1, ENTRIES = 2 };
enum { USED_EVENT = ENTRIES + RING_SIZE, AVAIL_EVENT = ENTRIES + 4 * RING_SIZE };

enum { REST = 32 }; /* pauses, which take up to 150 cycles each */

/* An event index that is not reached within the next 32,768 entries. */
enum { FAR = 0x8000 };

static uint64_t gpa(const struct ring *ring, const void *at)
{
    return (uint64_t)((const uint8_t *)at - ring->memory);
}

void ring_open(struct ring *ring, uint8_t *memory, uint64_t at, int kick_fd, int call_fd)
{
    *ring = (struct ring){.memory = memory, .kick_fd = kick_fd, .call_fd = call_fd};
    ring->desc = (struct ring_desc *)(memory + at);
    ring->avail = (volatile uint16_t *)(memory + at + PAGE);
    ring->used = (volatile uint16_t *)(memory + at + 2 * PAGE);
    ring_wait_by(ring, WAIT_POLL);
}

void ring_wait_by(struct ring *ring, enum waiting waiting)
{
    ring->waiting = waiting;
    ring->avail[USED_EVENT] = (uint16_t)(ring->used_idx + FAR);
}

void ring_add(struct ring *ring, unsigned slot, struct ring_desc *table,
              const struct segment *segments, unsigned count)
{
    unsigned i;

    if (count > TABLE_SIZE)
        broken("a request of %u segments", count);
    for (i = 0; i < count; i++) {
        uint16_t flags = segments[i].writable ? DESC_WRITE : 0;

        if (i + 1 < count)
            flags |= DESC_NEXT;
        table[i] = (struct ring_desc){gpa(ring, segments[i].at), segments[i].len, flags,
                                      (uint16_t)(i + 1)};
    }
    ring->desc[slot] =
        (struct ring_desc){gpa(ring, table), (uint32_t)(count * sizeof(*table)), DESC_INDIRECT, 0};
    ring->avail[ENTRIES + ring->avail_idx % RING_SIZE] = (uint16_t)slot;
    ring->avail_idx++;
}

void ring_publish(struct ring *ring)
{
    uint16_t old = ring->published, new = ring->avail_idx, event;
    uint64_t one = 1;

    if (old == new)
        return;
    atomic_thread_fence(memory_order_release);
    ring->avail[IDX] = new;
    ring->published = new;
    atomic_thread_fence(memory_order_seq_cst);
    event = ring->used[AVAIL_EVENT];
    if ((uint16_t)(new - event - 1) < (uint16_t)(new - old)) {
        ring->kicks++;
        if (write(ring->kick_fd, &one, sizeof(one)) != sizeof(one))
            broken("the kick descriptor: errno %d", errno);
    }
}

int ring_pop(struct ring *ring, uint32_t *written)
{
    volatile uint32_t *entry;
    uint32_t slot;

    if (ring->used[IDX] == ring->used_idx)
        return -1;
    atomic_thread_fence(memory_order_acquire);
    entry = (volatile uint32_t *)(ring->used + ENTRIES) + 2 * (ring->used_idx % RING_SIZE);
    slot = entry[0];
    *written = entry[1];
    ring->used_idx++;
    if (slot >= RING_SIZE)
        broken("the used ring holds slot %u", slot);
    return (int)slot;
}

static void wait_for_call(struct ring *ring)
{
    struct pollfd wanted = {.fd = ring->call_fd, .events = POLLIN};
    uint64_t count;

    ring->avail[USED_EVENT] = ring->used_idx;
    atomic_thread_fence(memory_order_seq_cst);
    if (ring->used[IDX] != ring->used_idx)
        return;
    ring->calls++;
    /* The descriptor may be non-blocking: its flags are shared with the server. */
    while (read(ring->call_fd, &count, sizeof(count)) < 0) {
        if (errno == EAGAIN)
            poll(&wanted, 1, -1);
        else if (errno != EINTR)
            broken("the call descriptor: errno %d", errno);
    }
}

void ring_wait(struct ring *ring)
{
    const unsigned spins = ring->waiting == WAIT_REST ? REST : 1;

    if (ring->waiting == WAIT_CALL)
        wait_for_call(ring);
    else
        for (unsigned i = 0; i < spins; i++)
            __builtin_ia32_pause();
}
