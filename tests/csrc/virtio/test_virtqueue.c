// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * The split virtqueue against this file's driver, valid and invalid: how a ring is mapped and its
 * chains are popped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "driver.h"
#include "virtio/virtqueue.h"

TEST(a_ring_starts_only_where_all_its_parts_are_in_memory)
{
    const uint32_t bad_sizes[] = {0, 3, 65536};

    begin(true);
    const struct v9_virtqueue_setup good = setup;
    for (int i = 0; i < 3; i++) {
        setup.num = bad_sizes[i];
        refuse("size");
    }
    setup = good;
    setup.base = 65536;
    refuse("base");
    setup.base = 65535;
    start();
    CHECK(ring.last_avail == 65535);
    setup = good;
    setup.desc_uva += 8;
    refuse("aligned");
    /* Each part, at the end of memory, and as little beyond it as its alignment allows. */
    setup = good;
    setup.desc_uva = UVA + MEMORY - 16 * NUM;
    start();
    setup.desc_uva += 16;
    refuse("outside");
    setup = good;
    setup.avail_uva = UVA + MEMORY - (4 + 2 * NUM + 2);
    start();
    setup.avail_uva += 2;
    refuse("outside");
    setup = good;
    setup.used_uva = UVA + MEMORY - (4 + 8 * NUM + 4);
    start();
    setup.used_uva += 4;
    refuse("outside");
    setup = good;
    setup.desc_uva = UVA - 16;
    refuse("outside");
    setup = good;
    used[1] = 77;
    start();
    CHECK(ring.used_idx == 77);
}

/* Aligned for the frontend, askew in our memory: the region's offset decides. */
TEST(a_ring_misaligned_in_our_memory_is_refused)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    begin(true);
    v9_mem_clear(&mem);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY - 8, UVA, 8, fd) == 0);
    refuse("aligned");
    CHECK(!ring.desc && !ring.avail && !ring.used);
    close(fd);
}

/* A chain in flight when a ring stops is never pushed to a later one. */
TEST(a_chain_in_flight_when_the_ring_stops_is_never_pushed)
{
    begin(true);
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(take() == 0);
    v9_virtqueue_stop(&ring);
    CHECK(ring.setup.base == 1);
    CHECK(!v9_virtqueue_push(&ring, &chain, 5) && used[1] == 0);
    setup.num = NUM / 2;
    setup.base = ring.setup.base;
    start();
    CHECK(!v9_virtqueue_push(&ring, &chain, 5) && used[1] == 0 && ring.used_idx == 0);
    offer(0);
    CHECK(take() == 0 && v9_virtqueue_push(&ring, &chain, 5) && used[1] == 1);
}

/* Memory is removed and added again under a running ring. The ring continues where it was, whatever
 * the driver has written into its used index meanwhile. */
TEST(a_running_ring_goes_on_after_its_memory_was_replaced)
{
    begin(true);
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(take() == 0);
    v9_virtqueue_unmap(&ring);
    CHECK(ring.running && !v9_virtqueue_is_live(&ring) && !v9_virtqueue_push(&ring, &chain, 1));
    used[1] = 99;
    v9_virtqueue_remap(&ring, &mem);
    CHECK(v9_virtqueue_is_live(&ring) && v9_virtqueue_push(&ring, &chain, 1) && used[1] == 1);
    v9_virtqueue_stop(&ring);
    v9_virtqueue_remap(&ring, &mem);
    CHECK(!v9_virtqueue_is_live(&ring)); /* a stopped one is not mapped */
}

/* Whether a child ends by touching a byte. */
static bool is_fatal(volatile uint8_t *at)
{
    const struct rlimit no_core = {0, 0};
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        *at = 1;
        _exit(0);
    }
    return CHECK(child > 0 && waitpid(child, &status, 0) == child) && WIFSIGNALED(status) &&
           WTERMSIG(status) == SIGSEGV;
}

/* Accesses around the pages of each part fault, though the guest's memory continues there. */
TEST(nothing_beside_the_parts_of_a_ring_can_be_touched)
{
    const uint64_t page = 4096, beyond = 30000 * 16;

    begin(true);
    uint8_t *parts[] = {(uint8_t *)ring.desc, ring.avail, ring.used};
    for (int i = 0; i < 3; i++) {
        CHECK(!is_fatal(parts[i]) && !is_fatal(parts[i] + page - 1));
        CHECK(is_fatal(parts[i] - 1) && is_fatal(parts[i] + page) && is_fatal(parts[i] + beyond));
    }
    v9_virtqueue_stop(&ring);
    CHECK(is_fatal(parts[0]));
}

TEST(a_direct_chain_is_popped)
{
    begin(true);
    CHECK(v9_virtqueue_peek(&ring) == 0);
    descs[3] = data(0, 10, NEXT, 5);
    descs[5] = data(10, 20, NEXT, 1); /* touches the first: merged */
    descs[1] = data(30, 0, NEXT, 7);  /* empty: skipped */
    descs[7] = data(30, 40, WRITE | NEXT, 0);
    descs[0] = data(500, 50, WRITE, 0);
    offer(3);
    CHECK(v9_virtqueue_peek(&ring) == 1 && ring.last_avail == 0);
    CHECK(take() == 0 && ring.last_avail == 1 && chain.head == 3 && !chain.error);
    CHECK(chain.readable_count == 1 && chain.readable_size == 30);
    CHECK(chain.writable_count == 2 && chain.writable_size == 90);
    CHECK(chain.iov[1].iov_base == guest + DATA_AT + 30);
}

TEST(an_indirect_table_may_be_longer_than_the_ring)
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
TEST(a_chain_may_end_in_an_indirect_table)
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

TEST(a_chain_of_more_than_the_maximum_breaks_the_ring)
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
TEST(a_buffer_may_cross_regions_and_a_table_may_not)
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
TEST(too_many_segments_fail_the_request_alone)
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
TEST(a_ring_in_truncated_memory_reads_as_zeros)
{
    int fd;

    begin(true);
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(v9_virtqueue_peek(&ring) == 1);
    fd = mem.regions[0].fd;
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(take() != 0 && mem.faulted); /* idx reads 0: nothing there */
    CHECK(v9_virtqueue_pop(&ring, &mem, &chain) == 0 && chain.writable_size == 0);
    give_back(0, 0);
    v9_virtqueue_should_signal(&ring);
    v9_virtqueue_enable_notification(&ring);
    mem.faulted = false;
}

TEST(a_buffer_outside_memory_fails_the_request_alone)
{
    begin(true);
    descs[0] = (struct desc){GPA + MEMORY, 10, NEXT, 1}; /* behind memory */
    descs[1] = data(0, 100, WRITE, 0);
    offer(0);
    CHECK(take() == 0 && chain.error == -EFAULT && chain.writable_size == 100);
    descs[1] = data(0, 5, NEXT, 2); /* nor is what can be read behind a hole */
    descs[2] = data(0, 100, WRITE, 0);
    offer(0);
    CHECK(take() == 0 && chain.error == -EFAULT && !chain.cut);
    CHECK(chain.readable_size == 0 && chain.writable_size == 100);
    descs[0] = data(0, 10, NEXT, 1);
    descs[1] = data(10, 10, WRITE | NEXT, 2);
    descs[2] = (struct desc){GPA + MEMORY - 5, 10, WRITE | NEXT, 3};
    descs[3] = data(10, 10, WRITE, 0);
    offer(0);
    CHECK(take() == 0 && chain.error == -EFAULT && chain.readable_size == 10);
    CHECK(chain.writable_size == 10); /* buffers after a hole are not usable */
    CHECK(!ring.broken);
}

static const struct desc indirect = {GPA + TABLE_AT, 32, INDIRECT, 0};

static void too_many_available(void)
{
    avail[1] = NUM + 1;
}

static void head_outside(void)
{
    avail[2] = NUM;
}

static void next_outside(void)
{
    descs[0] = data(0, 10, NEXT, NUM);
}

static void next_outside_indirect(void)
{
    descs[0] = indirect, table[1].flags = NEXT, table[1].next = 2;
}

static void loop(void)
{
    descs[0] = data(0, 10, NEXT, 0);
}

static void loop_of_nothing(void)
{
    descs[0] = data(0, 0, NEXT, 0);
}

static void loop_indirect(void)
{
    descs[0] = indirect, table[1].flags |= NEXT, table[1].next = 1;
}

static void table_in_table(void)
{
    descs[0] = indirect, table[0] = indirect, table[0].gpa += 32;
    table[2] = table[3] = data(0, 10, WRITE, 0);
}

static void table_with_next(void)
{
    descs[0] = indirect, descs[0].flags |= NEXT, descs[0].next = 1;
}

static void table_not_negotiated(void)
{
    descs[0] = indirect, ring.setup.indirect = false;
}

static void table_of_nothing(void)
{
    descs[0] = indirect, descs[0].len = 0;
}

static void table_and_a_bit(void)
{
    descs[0] = indirect, descs[0].len = 33;
}

static void table_outside(void)
{
    descs[0] = indirect, descs[0].gpa = GPA + MEMORY - 16;
}

static void wrapping_buffer(void)
{
    descs[0] = (struct desc){UINT64_MAX - 3, 10, 0, 0};
}

static void readable_after_writable(void)
{
    descs[0] = data(0, 10, WRITE | NEXT, 1);
}

static void readable_after_empty_writable(void)
{
    descs[0] = data(0, 0, WRITE | NEXT, 1);
}

/* Each breaks the ring: a reason is given, and nothing more is taken. */
TEST(every_violation_breaks_the_ring_with_its_reason)
{
    const struct {
        void (*spoil)(void);
        const char *reason; /* words of it */
    } cases[] = {
        {too_many_available, "more chains available"},
        {head_outside, "head"},
        {next_outside, "outside its table"},
        {next_outside_indirect, "outside its table"},
        {loop, "loop"},
        {loop_of_nothing, "loop"},
        {loop_indirect, "loop"},
        {table_in_table, "in an indirect table"},
        {table_with_next, "with a next"},
        {table_not_negotiated, "not negotiated"},
        {table_of_nothing, "length"},
        {table_and_a_bit, "length"},
        {table_outside, "outside memory"},
        {wrapping_buffer, "wraps around"},
        {readable_after_writable, "after a writable"},
        {readable_after_empty_writable, "after a writable"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        begin(true);
        descs[0] = data(0, 10, 0, 0);
        descs[1] = data(10, 10, 0, 0);
        table[0] = data(0, 10, NEXT, 1);
        table[1] = data(10, 10, WRITE, 0);
        avail[1] = 1;
        cases[i].spoil();
        CHECK(take() == -EPROTO);
        if (!CHECK(ring.broken && strstr(ring.broken, cases[i].reason)))
            fprintf(stderr, "%s instead of %s\n", ring.broken, cases[i].reason);
        CHECK(take() == -EPROTO);
    }
}
