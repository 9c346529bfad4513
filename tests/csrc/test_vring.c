// sources: vring.c guest_mem.c iov.c
/*
 * The split virtqueue against a driver that this file plays, well-behaved and not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "vring.h"

#define GPA 0x40000000ull
#define UVA 0x700000000000ull
#define MEMORY (1u << 20)
enum { NUM = 8, NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { DESC_AT = 0, AVAIL_AT = 0x1000, USED_AT = 0x2000, TABLE_AT = 0x4000, DATA_AT = 0x20000 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static struct v9_mem mem;
static struct v9_vring ring;
static struct v9_chain chain;
static uint8_t *guest;
static struct desc *descs, *table;
static uint16_t *avail, *used; /* flags, idx, … */

/* A new ring in zeroed memory. */
static void begin(bool event_idx)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    v9_mem_clear(&mem);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    descs = (struct desc *)(guest + DESC_AT);
    table = (struct desc *)(guest + TABLE_AT);
    avail = (uint16_t *)(guest + AVAIL_AT);
    used = (uint16_t *)(guest + USED_AT);
    ring = (struct v9_vring){.num = NUM,
                             .desc_uva = UVA + DESC_AT,
                             .avail_uva = UVA + AVAIL_AT,
                             .used_uva = UVA + USED_AT,
                             .event_idx = event_idx,
                             .indirect = true};
    CHECK(v9_vring_map(&ring, &mem) == 0);
}

static struct desc data(uint32_t offset, uint32_t len, uint16_t flags, uint16_t next)
{
    return (struct desc){GPA + DATA_AT + offset, len, flags, next};
}

static void offer(uint16_t head)
{
    avail[2 + avail[1] % NUM] = head;
    avail[1]++;
}

/* Takes what is offered: 0, or -EPROTO. */
static int take(void)
{
    uint16_t head;
    int found = v9_vring_peek(&ring, &head);
    return found == 1 ? v9_vring_take(&ring, &mem, head, &chain) : found < 0 ? found : -EAGAIN;
}

static void test_mapping(void)
{
    begin(true);
    const struct v9_vring good = ring;
    const uint32_t bad_sizes[] = {0, 3, 65536};

    for (int i = 0; i < 3; i++) {
        ring = good;
        ring.num = bad_sizes[i];
        CHECK(v9_vring_map(&ring, &mem) == -EINVAL && !ring.desc);
    }
    ring = good;
    ring.desc_uva += 8;
    CHECK(v9_vring_map(&ring, &mem) == -EINVAL);
    ring = good;
    ring.used_uva = UVA + MEMORY - 4;
    CHECK(v9_vring_map(&ring, &mem) == -EFAULT);
    ring = good;
    used[1] = 77;
    CHECK(v9_vring_map(&ring, &mem) == 0 && ring.used_idx == 77);
}

static void test_direct_chain(void)
{
    uint16_t head;

    begin(true);
    CHECK(v9_vring_peek(&ring, &head) == 0);
    descs[3] = data(0, 10, NEXT, 5);
    descs[5] = data(10, 20, NEXT, 1); /* touches the first: merged */
    descs[1] = data(30, 0, NEXT, 7);  /* empty: skipped */
    descs[7] = data(30, 40, WRITE | NEXT, 0);
    descs[0] = data(500, 50, WRITE, 0);
    offer(3);
    CHECK(v9_vring_peek(&ring, &head) == 1 && head == 3 && ring.last_avail == 0);
    CHECK(take() == 0 && ring.last_avail == 1 && chain.head == 3 && !chain.error);
    CHECK(chain.readable_count == 1 && chain.readable_size == 30);
    CHECK(chain.writable_count == 2 && chain.writable_size == 90);
    CHECK(chain.iov[1].iov_base == guest + DATA_AT + 30);
}

static void test_indirect_longer_than_the_ring(void)
{
    begin(true);
    for (uint16_t i = 0; i < 200; i++)
        table[i] = data(i * 100u, 50, (uint16_t)(i < 199 ? NEXT : 0) | (i >= 100 ? WRITE : 0),
                        (uint16_t)(i + 1));
    descs[2] = (struct desc){GPA + TABLE_AT, 200 * sizeof(struct desc), INDIRECT, 0};
    offer(2);
    CHECK(take() == 0);
    CHECK(chain.readable_count == 100 && chain.writable_count == 100);
    CHECK(chain.readable_size == 5000 && chain.writable_size == 5000);
}

static void test_unusable_buffers(void)
{
    begin(true);
    descs[0] = (struct desc){GPA + MEMORY, 10, NEXT, 1}; /* behind memory */
    descs[1] = data(0, 100, WRITE, 0);
    offer(0);
    CHECK(take() == 0 && chain.error == -EFAULT && chain.writable_size == 100);
    descs[0] = data(0, 10, NEXT, 1);
    descs[1] = data(10, 10, WRITE | NEXT, 2);
    descs[2] = (struct desc){GPA + MEMORY - 5, 10, WRITE | NEXT, 3};
    descs[3] = data(10, 10, WRITE, 0);
    offer(0);
    CHECK(take() == 0 && chain.error == -EFAULT && chain.readable_size == 10);
    CHECK(chain.writable_size == 10); /* what comes behind a hole is no use */
    CHECK(!ring.broken);
}

/* Each breaks the ring: a reason is given, and nothing more is taken. */
static void test_broken(void)
{
    const struct desc indirect = {GPA + TABLE_AT, 32, INDIRECT, 0};

    for (int kind = 0; kind < 12; kind++) {
        begin(true);
        descs[0] = data(0, 10, 0, 0);
        table[0] = data(0, 10, NEXT, 1);
        table[1] = data(10, 10, WRITE, 0);
        switch (kind) {
        case 0:
            avail[1] = NUM;
            break; /* one more than fits, see below */
        case 1:
            avail[2] = NUM;
            break; /* a head outside */
        case 2:
            descs[0] = data(0, 10, NEXT, NUM);
            break; /* a next outside */
        case 3:
            descs[0] = data(0, 10, NEXT, 0);
            break; /* a loop */
        case 4:
            descs[0] = indirect, table[1].next = 0, table[1].flags |= NEXT;
            break;
        case 5:
            descs[0] = indirect, table[0].flags = INDIRECT;
            break;
        case 6:
            descs[0] = indirect, descs[0].flags |= NEXT;
            break;
        case 7:
            descs[0] = indirect, ring.indirect = false;
            break;
        case 8:
            descs[0] = indirect, descs[0].len = 0;
            break;
        case 9:
            descs[0] = indirect, descs[0].len = 33;
            break;
        case 10:
            descs[0] = indirect, descs[0].addr = GPA + MEMORY - 16;
            break;
        case 11:
            descs[0] = (struct desc){UINT64_MAX - 3, 10, 0, 0};
            break;
        }
        avail[1]++;
        CHECK(take() == -EPROTO);
        CHECK(ring.broken && *ring.broken);
        CHECK(take() == -EPROTO);
    }
    begin(true);
    descs[0] = data(0, 10, WRITE | NEXT, 1);
    descs[1] = data(10, 10, 0, 0);
    offer(0);
    CHECK(take() == -EPROTO); /* readable after writable */
}

static void test_used_ring_and_wrapping(void)
{
    begin(true);
    for (uint32_t round = 0; round < 70000; round++) {
        uint16_t head = (uint16_t)(round % NUM);
        descs[head] = data(0, 10, WRITE, 0);
        offer(head);
        if (take() != 0) {
            CHECK(false);
            return;
        }
        v9_vring_push(&ring, chain.head, round);
        const uint32_t *element = (const uint32_t *)(used + 2) + 2 * (round % NUM);
        if (used[1] != (uint16_t)(round + 1) || element[0] != head || element[1] != round) {
            CHECK(false);
            return;
        }
    }
    CHECK(ring.last_avail == (uint16_t)70000);
}

static void test_signals_by_event(void)
{
    uint16_t *used_event = &avail[2 + NUM];

    begin(true);
    used_event = &avail[2 + NUM];
    ring.must_signal = true;
    *used_event = 100;
    CHECK(v9_vring_should_signal(&ring)); /* once after every start */
    for (uint16_t i = 0; i < 300; i++) {
        v9_vring_push(&ring, 0, 0);
        CHECK(v9_vring_should_signal(&ring) == (i == 100));
    }
    *used_event = 305;
    for (int i = 0; i < 10; i++)
        v9_vring_push(&ring, 0, 0);
    CHECK(v9_vring_should_signal(&ring)); /* 300 to 310 in one go */
    CHECK(!v9_vring_should_signal(&ring));
}

static void test_signals_by_flag(void)
{
    begin(false);
    v9_vring_push(&ring, 0, 0);
    CHECK(v9_vring_should_signal(&ring));
    avail[0] = 1;
    v9_vring_push(&ring, 0, 0);
    CHECK(!v9_vring_should_signal(&ring));
}

static void test_asking_for_kicks(void)
{
    uint16_t *avail_event;

    begin(true);
    avail_event = used + 2 + 4 * NUM;
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(v9_vring_arm(&ring)); /* something is there: do not sleep */
    CHECK(take() == 0 && !v9_vring_arm(&ring) && *avail_event == 1);
    begin(false);
    v9_vring_disarm(&ring);
    CHECK(used[0] == 1);
    CHECK(!v9_vring_arm(&ring) && used[0] == 0);
}

int main(void)
{
    CHECK(v9_mem_init() == 0);
    test_mapping();
    test_direct_chain();
    test_indirect_longer_than_the_ring();
    test_unusable_buffers();
    test_broken();
    test_used_ring_and_wrapping();
    test_signals_by_event();
    test_signals_by_flag();
    test_asking_for_kicks();
    v9_mem_clear(&mem);
    return check_report();
}
