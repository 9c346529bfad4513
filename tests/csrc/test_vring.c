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
    ring.desc_uva = UVA - 16;
    CHECK(v9_vring_map(&ring, &mem) == -EFAULT);
    ring = good;
    used[1] = 77;
    CHECK(v9_vring_map(&ring, &mem) == 0 && ring.used_idx == 77);
}

/* Aligned for the frontend, askew in our memory: the region's offset decides. */
static void test_mapping_askew(void)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    begin(true);
    v9_mem_clear(&mem);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY - 1, UVA, 1, fd) == 0);
    CHECK(v9_vring_map(&ring, &mem) == -EINVAL && !ring.desc && !ring.avail && !ring.used);
    close(fd);
}

/* A frontend that announces another size under a running ring gets it with the next mapping. */
static void test_another_size(void)
{
    uint16_t head;

    begin(true);
    ring.num = 32768;
    avail[1] = NUM + 1;
    CHECK(v9_vring_peek(&ring, &head) == -EPROTO);
    begin(true);
    ring.num = 32768;
    avail[1] = 1;
    avail[2] = NUM;
    CHECK(v9_vring_peek(&ring, &head) == -EPROTO);
    begin(true);
    ring.num = 32768;
    ring.used_idx = NUM;
    v9_vring_push(&ring, 5, 6);
    CHECK(used[1] == NUM + 1 && used[2] == 5);
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

/* Tables lie at any address; the flag that marks buffers writable says nothing about a table. */
static void test_indirect_at_the_end(void)
{
    const struct desc last[] = {data(100, 7, NEXT, 1), data(200, 9, WRITE, 0)};

    begin(true);
    memcpy(guest + TABLE_AT + 3, last, sizeof(last));
    descs[1] = data(0, 5, NEXT, 4);
    descs[4] = (struct desc){GPA + TABLE_AT + 3, sizeof(last), INDIRECT | WRITE, 0};
    offer(1);
    CHECK(take() == 0 && !chain.error);
    CHECK(chain.readable_count == 2 && chain.readable_size == 12 && chain.writable_size == 9);
}

static void test_chain_bound(void)
{
    for (uint16_t length = V9_CHAIN_MAX; length <= V9_CHAIN_MAX + 1; length++) {
        begin(true);
        for (uint16_t i = 0; i < length; i++)
            table[i] = data(i * 2u, 1, i < length - 1 ? NEXT : WRITE, (uint16_t)(i + 1));
        descs[0] = (struct desc){GPA + TABLE_AT, length * 16u, INDIRECT, 0};
        offer(0);
        CHECK(take() == (length > V9_CHAIN_MAX ? -EPROTO : 0));
    }
}

/* The memory of two regions, which touch for the guest: a buffer may cross the border, and takes
 * two segments; a table may not. */
static void test_border_of_regions(void)
{
    const uint64_t border = GPA + MEMORY;
    int fd = memfd_create("more", MFD_CLOEXEC);

    begin(true);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, border, MEMORY, UVA + 16ull * MEMORY, 0, fd) == 0);
    close(fd);
    descs[0] = (struct desc){border - 10, 30, WRITE, 0};
    offer(0);
    CHECK(take() == 0 && !chain.error && chain.writable_size == 30);
    CHECK(chain.iov[0].iov_base == guest + MEMORY - 10);
    descs[0] = (struct desc){border - 16, 32, INDIRECT, 0};
    offer(0);
    CHECK(take() == -EPROTO);
}

/* Buffers across the border of two regions, until there are more segments than a request may have:
 * the part that is full ends there. */
static void test_too_many_segments(void)
{
    const uint64_t border = GPA + MEMORY;
    int fd = memfd_create("more", MFD_CLOEXEC);

    begin(true);
    CHECK(ftruncate(fd, 2 << 12) == 0);
    /* The offset keeps the two from being neighbours in our memory, too. */
    CHECK(v9_mem_add(&mem, border, 1 << 12, UVA + 16ull * MEMORY, 1 << 12, fd) == 0);
    close(fd);
    for (uint16_t i = 0; i < 600; i++)
        table[i] = (struct desc){border - 1, 2, NEXT, (uint16_t)(i + 1)};
    table[599].flags = 0;
    descs[0] = (struct desc){GPA + TABLE_AT, 600 * 16, INDIRECT, 0};
    offer(0);
    CHECK(take() == 0 && !ring.broken && chain.error == -E2BIG && !chain.cut);
    CHECK(chain.readable_count == V9_CHAIN_MAX && chain.readable_size == V9_CHAIN_MAX);
    for (uint16_t i = 10; i < 600; i++)
        table[i].flags |= WRITE;
    offer(0);
    CHECK(take() == 0 && !ring.broken && chain.error == -E2BIG && chain.cut);
    CHECK(chain.readable_count == 20 && chain.writable_count == V9_CHAIN_MAX - 20);
}

/* The frontend takes the ring's own memory away: zeros are read, nothing crashes. */
static void test_truncated_ring(void)
{
    uint16_t head;
    int fd;

    begin(true);
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(v9_vring_peek(&ring, &head) == 1);
    fd = mem.regions[0].fd;
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(take() != 0 && mem.faulted); /* idx reads 0: nothing there */
    CHECK(v9_vring_take(&ring, &mem, 0, &chain) == 0 && chain.writable_size == 0);
    v9_vring_push(&ring, 0, 0);
    v9_vring_should_signal(&ring);
    v9_vring_arm(&ring);
    mem.faulted = false;
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
    begin(true);
    descs[0] = data(0, 0, WRITE | NEXT, 1);
    descs[1] = data(10, 10, 0, 0);
    offer(0);
    CHECK(take() == -EPROTO); /* also where the writable one is empty */
}

/* Chains that were taken in one order and are returned in another; idx wraps around meanwhile. */
static void test_out_of_order(void)
{
    const uint32_t *element;

    begin(true);
    ring.last_avail = avail[1] = 65534;
    ring.used_idx = used[1] = 65534;
    for (uint16_t head = 0; head < 4; head++) {
        descs[head] = data(0, 10, WRITE, 0);
        offer(head);
    }
    for (int i = 0; i < 4; i++)
        CHECK(take() == 0);
    CHECK(take() == -EAGAIN && ring.last_avail == 2);
    for (uint16_t head = 4; head-- > 0;)
        v9_vring_push(&ring, head, head * 10u);
    CHECK(used[1] == 2);
    for (uint32_t i = 0; i < 4; i++) {
        element = (const uint32_t *)(used + 2) + 2 * ((65534 + i) % NUM);
        CHECK(element[0] == 3 - i && element[1] == (3 - i) * 10);
    }
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

    begin(true); /* the same where the index wraps around */
    ring.used_idx = ring.signalled = used[1] = 65530;
    *used_event = 2;
    for (uint16_t i = 0; i < 20; i++) {
        v9_vring_push(&ring, 0, 0);
        CHECK(v9_vring_should_signal(&ring) == (i == 8));
    }
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
    test_mapping_askew();
    test_another_size();
    test_direct_chain();
    test_indirect_longer_than_the_ring();
    test_indirect_at_the_end();
    test_chain_bound();
    test_border_of_regions();
    test_too_many_segments();
    test_truncated_ring();
    test_unusable_buffers();
    test_broken();
    test_used_ring_and_wrapping();
    test_out_of_order();
    test_signals_by_event();
    test_signals_by_flag();
    test_asking_for_kicks();
    v9_mem_clear(&mem);
    return check_report();
}
