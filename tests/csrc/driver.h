/*
 * A guest's driver for tests: one small ring in guest memory, whose content the test writes.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "virtio/virtqueue.h"

#define GPA 0x40000000ull
#define UVA 0x700000000000ull
#define MEMORY (1u << 20)
enum { NUM = 8, NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { DESC_AT = 0, AVAIL_AT = 0x1000, USED_AT = 0x2000, TABLE_AT = 0x4000, DATA_AT = 0x20000 };

struct desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next;
};

static struct v9_mem mem;
static struct v9_virtqueue_setup setup;
static struct v9_virtqueue ring;
static struct v9_chain chain;
static uint8_t *guest;
static struct desc *descs, *table;
static uint16_t *avail, *used; /* flags, idx, … */

SET_UP()
{
    CHECK(v9_mapping_init() == 0);
}

TEAR_DOWN()
{
    v9_mem_clear(&mem);
}

/* Starts the ring by `setup`, which must succeed. */
static inline void start(void)
{
    CHECK(v9_virtqueue_start(&ring, &setup, &mem) == NULL && v9_virtqueue_is_live(&ring));
    ring.must_signal = false; /* only what a test does counts */
}

/* Starting the ring must fail, with these words in the reason. */
static inline void refuse(const char *words)
{
    const char *reason = v9_virtqueue_start(&ring, &setup, &mem);
    if (!CHECK(reason && strstr(reason, words) && !v9_virtqueue_is_live(&ring) && !ring.running))
        fprintf(stderr, "%s instead of %s\n", reason ? reason : "a start", words);
}

/* Where everything lies in the guest's memory. */
static inline void lay_out(void)
{
    descs = (struct desc *)(guest + DESC_AT);
    table = (struct desc *)(guest + TABLE_AT);
    avail = (uint16_t *)(guest + AVAIL_AT);
    used = (uint16_t *)(guest + USED_AT);
}

/* A new ring in zeroed memory. */
static inline void begin(bool event_idx)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    v9_mem_clear(&mem);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    lay_out();
    setup = (struct v9_virtqueue_setup){.num = NUM,
                                        .desc_uva = UVA + DESC_AT,
                                        .avail_uva = UVA + AVAIL_AT,
                                        .used_uva = UVA + USED_AT,
                                        .event_idx = event_idx,
                                        .indirect = true};
    start();
}

static inline struct desc data(uint32_t offset, uint32_t len, uint16_t flags, uint16_t next)
{
    return (struct desc){GPA + DATA_AT + offset, len, flags, next};
}

static inline void offer(uint16_t head)
{
    avail[2 + avail[1] % NUM] = head;
    avail[1]++;
}

/* Pops the chain that is available: 0, or -EPROTO. */
static inline int take(void)
{
    int found = v9_virtqueue_peek(&ring);
    return found == 1 ? v9_virtqueue_pop(&ring, &mem, &chain) : found < 0 ? found : -EAGAIN;
}

/* Returns a chain of one descriptor. */
static inline void give_back(uint16_t head, uint32_t written)
{
    static struct v9_chain done;
    done.generation = ring.generation;
    done.head = head;
    done.slots = 1;
    CHECK(v9_virtqueue_push(&ring, &done, written));
}

#endif
