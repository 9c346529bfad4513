// sources: server/ring_setup.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * How the frontend sets up a ring, starts it, and stops it; and its descriptors for kicks, calls
 * and errors. Of a ring that was set up well the test sees that its requests are answered.
 */
#define _GNU_SOURCE
#include "server/served.h"

#define PACKED (1ull << 34)
#define INDIRECT_BIT (1ull << 28)
enum { AVAIL_FLAG = 1 << 7, USED_FLAG = 1 << 15 };
enum { LONG_MS = 60000 }; /* more than any request here takes */

static const char *reason;

static void begin_device(void)
{
    create_device();
    create_memory();
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    CHECK(v9_device_set_export(dev, 0, export) == 0);
}

static uint32_t stop_ring(void)
{
    v9_ring_pause(dev);
    return v9_ring_drain(dev, LONG_MS);
}

/* ---- set-up ------------------------------------------------------------------------------------
 */

TEST(a_ring_that_runs_is_not_set_up)
{
    serve();
    CHECK(v9_device_set_features(dev, PACKED) == -EBUSY);
    CHECK(v9_ring_set_num(dev, 2 * NUM) == -EBUSY && v9_ring_set_num(dev, 0) == -EBUSY);
    CHECK(v9_ring_set_base(dev, 5) == -EBUSY && v9_ring_set_base(dev, UINT32_MAX) == -EBUSY);
    CHECK(v9_ring_set_addr(dev, UVA, UVA, UVA) == -EBUSY);
    exchange(0);
    CHECK(stop_ring() == 1); /* and nothing of it shows after the next start */
    start_ring(kick_fd);
    exchange(1);
    CHECK(stop_ring() == 2);
    CHECK(v9_ring_set_num(dev, 2 * NUM) == 0);
    stop();
}

/* A value that is refused leaves the one before. */
TEST(each_value_is_checked_alone)
{
    begin_device();
    set_up_ring(0);
    CHECK(v9_ring_set_num(dev, 0) == -EINVAL && v9_ring_set_num(dev, NUM - 1) == -EINVAL);
    CHECK(v9_ring_set_num(dev, 65536) == -EINVAL && v9_ring_set_base(dev, 65536) == -EINVAL);
    start_ring(kick_fd);
    exchange(0);
    CHECK(stop_ring() == 1);
    CHECK(v9_ring_set_num(dev, 32768) == 0 && v9_ring_set_base(dev, 65535) == 0);
    CHECK(v9_device_set_features(dev, PACKED) == 0);
    CHECK(v9_ring_set_num(dev, NUM - 1) == 0 && v9_ring_set_base(dev, UINT32_MAX) == 0);
    CHECK(v9_ring_set_num(dev, 32769) == -EINVAL);
    stop();
}

static void refuse_to_start(const char *words)
{
    if (!CHECK(v9_ring_set_kick(dev, kick_fd, &reason) == -EINVAL && reason &&
               strstr(reason, words)))
        fprintf(stderr, "%s instead of %s\n", reason ? reason : "a start", words);
    CHECK(!v9_ring_is_started(dev));
}

TEST(a_split_ring_is_checked_as_a_whole_when_it_starts)
{
    begin_device();
    refuse_to_start("its size was not set");
    set_up_ring(0);
    CHECK(v9_ring_set_addr(dev, UVA + 8, UVA + USED_AT, UVA + AVAIL_AT) == 0);
    refuse_to_start("aligned to 16, 2 and 4 bytes");
    CHECK(v9_ring_set_addr(dev, UVA + DESC_AT, UVA + MEMORY - 4, UVA + AVAIL_AT) == 0);
    refuse_to_start("outside guest memory");
    CHECK(v9_ring_set_addr(dev, GPA + DESC_AT, GPA + USED_AT, GPA + AVAIL_AT) == 0);
    refuse_to_start("outside guest memory");
    CHECK(v9_device_set_features(dev, PACKED) == 0 && v9_ring_set_num(dev, NUM - 1) == 0);
    CHECK(v9_device_set_features(dev, 0) == 0);
    refuse_to_start("a power of two");
    set_up_ring(0);
    start_ring(kick_fd);
    CHECK(v9_ring_is_started(dev));
    exchange(0);
    stop();
}

TEST(a_packed_ring_is_checked_as_a_whole_when_it_starts)
{
    begin_device();
    set_up_ring(PACKED);
    CHECK(v9_ring_set_base(dev, NUM) == 0);
    refuse_to_start("its base lies behind its end");
    CHECK(v9_ring_set_base(dev, NUM << 16) == 0);
    refuse_to_start("its base lies behind its end");
    CHECK(v9_ring_set_base(dev, 0) == 0);
    CHECK(v9_ring_set_addr(dev, UVA + DESC_AT, UVA + USED_AT + 2, UVA + AVAIL_AT) == 0);
    refuse_to_start("aligned to 16, 4 and 4 bytes");
    stop();
}

TEST(indirect_descriptors_are_what_was_negotiated)
{
    begin_device();
    set_up_ring(INDIRECT_BIT);
    start_ring(kick_fd);
    write_request(1, AT_ONCE, "", 0);
    table[0] = data(ROOM, P9_HEADER_SIZE, NEXT, 1);
    table[1] = data(REPLY_AT + ROOM, ROOM, WRITE, 0);
    descs[0] = (struct desc){GPA + TABLE_AT, 2 * sizeof(*table), INDIRECT, 0};
    offer_to(0, false, kick_fd);
    wait_for_used(1);
    CHECK(reply_in(1) == AT_ONCE + 1);
    CHECK(stop_ring() == 1 && v9_device_set_features(dev, 0) == 0);
    start_ring(kick_fd);
    offer_to(0, false, kick_fd);
    expect_broken("indirect");
    stop();
}

/* ---- stop and restart --------------------------------------------------------------------------
 */

/* What the driver sends meanwhile stays in the ring. */
TEST(a_split_ring_goes_on_where_it_was_stopped)
{
    serve();
    for (uint16_t i = 0; i < 5; i++)
        exchange(i % SLOTS);
    v9_ring_pause(dev);
    send(0, AT_ONCE, 0);
    pause_briefly();
    CHECK(v9_ring_drain(dev, LONG_MS) == 5 && used[1] == 5 && !v9_ring_is_started(dev));
    send(1, AT_ONCE, 0);
    pause_briefly();
    CHECK(stop_ring() == 5 && used[1] == 5); /* to stop it once more changes nothing */
    start_ring(kick_fd);
    wait_for_used(7);
    CHECK(reply_in(0) == AT_ONCE + 1 && reply_in(1) == AT_ONCE + 1);
    CHECK(stop_ring() == 7);
    stop();
}

/* As after a migration of the guest: the driver's ring is not at its beginning. */
TEST(a_split_ring_starts_from_the_base_that_was_set)
{
    begin_device();
    avail[1] = used[1] = 65534;
    set_up_ring(0);
    CHECK(v9_ring_set_base(dev, 65534) == 0);
    start_ring(kick_fd);
    for (uint16_t i = 0; i < SLOTS; i++)
        exchange(i);
    CHECK(stop_ring() == 2 && used[1] == 2);
    stop();
}

/* The driver of a packed ring. Its descriptors' last members are buffer id and flags. */
static uint16_t place, slots_in_ring;
static bool wrap_counter;

static void put_packed(struct desc desc, uint16_t id, uint16_t flags)
{
    flags |= wrap_counter ? AVAIL_FLAG : USED_FLAG;
    descs[place].gpa = desc.gpa;
    descs[place].len = desc.len;
    descs[place].flags = id;
    __atomic_store_n(&descs[place].next, flags, __ATOMIC_SEQ_CST);
    if (++place == slots_in_ring) {
        place = 0;
        wrap_counter = !wrap_counter;
    }
}

/* Sends a request that Python answers, in one descriptor of an indirect table. */
static void send_packed(uint16_t slot)
{
    const uint32_t at = slot * (uint32_t)ROOM;

    write_request(slot, AT_ONCE, "", 0);
    table[0] = data(at, P9_HEADER_SIZE, 0, 0);
    table[1] = data(REPLY_AT + at, ROOM, 0, WRITE);
    put_packed((struct desc){.gpa = GPA + TABLE_AT, .len = 2 * sizeof(*table)}, slot, INDIRECT);
    notify(kick_fd);
}

static void exchange_packed(uint16_t slot)
{
    const uint16_t at = place;
    const bool wrapped = wrap_counter;
    uint16_t flags;

    send_packed(slot);
    do {
        wait_for(call_fd);
        flags = __atomic_load_n(&descs[at].next, __ATOMIC_SEQ_CST);
    } while (!!(flags & USED_FLAG) != wrapped || !!(flags & AVAIL_FLAG) != wrapped);
    CHECK(descs[at].flags == slot && reply_in(slot) == AT_ONCE + 1);
}

/* Whose size is no power of two. The base has both places with their wrap counters. */
TEST(a_packed_ring_goes_on_where_it_was_stopped)
{
    begin_device();
    slots_in_ring = NUM - 1;
    wrap_counter = true;
    set_up_ring(PACKED | INDIRECT_BIT);
    CHECK(v9_ring_set_num(dev, slots_in_ring) == 0);
    start_ring(kick_fd);
    for (uint16_t i = 0; i < 3; i++)
        exchange_packed(i);
    CHECK(stop_ring() == 0x80038003);
    send_packed(0);
    pause_briefly();
    CHECK(stop_ring() == 0x80038003);
    start_ring(kick_fd);
    wait_for(call_fd);
    CHECK(reply_in(0) == AT_ONCE + 1);
    for (uint16_t i = 0; i < slots_in_ring; i++)
        exchange_packed(i % SLOTS);
    CHECK(stop_ring() == 0x00040004);              /* a round and four: the other wrap counter */
    CHECK(v9_ring_set_base(dev, 0x00040004) == 0); /* as QEMU sets it */
    start_ring(kick_fd);
    exchange_packed(0);
    CHECK(stop_ring() == 0x00050005);
    stop();
}

TEST(a_base_of_the_other_layout_is_forgotten)
{
    serve();
    for (uint16_t i = 0; i < 5; i++)
        exchange(i % SLOTS);
    CHECK(stop_ring() == 5);
    memset(guest, 0, DATA_AT);
    set_up_ring(PACKED | INDIRECT_BIT);
    start_ring(kick_fd);
    slots_in_ring = NUM;
    wrap_counter = true;
    exchange_packed(0);
    CHECK(stop_ring() == 0x80018001);
    memset(guest, 0, DATA_AT);
    set_up_ring(0);
    start_ring(kick_fd);
    exchange(0);
    CHECK(stop_ring() == 1);
    stop();
}

/* ---- enabled or not ----------------------------------------------------------------------------
 */

TEST(a_ring_that_is_not_enabled_is_not_served)
{
    serve();
    exchange(0);
    CHECK(v9_ring_enable(dev, false) == 0);
    send(1, AT_ONCE, 0);
    pause_briefly();
    CHECK(stats().requests == 1 && used[1] == 1 && v9_ring_is_started(dev));
    CHECK(v9_ring_enable(dev, true) == 0); /* without a kick */
    wait_for_used(2);
    CHECK(reply_in(1) == AT_ONCE + 1);
    stop();
}

/* ---- descriptors -------------------------------------------------------------------------------
 */

/* Sends requests that only `kick` announces, some of them to a thread that sleeps. */
static void serve_kicks(int kick, unsigned count)
{
    uint16_t before;

    for (unsigned i = 0; i < count; i++) {
        before = used[1];
        offer_to(0, false, kick);
        wait_for_used((uint16_t)(before + 1));
        pause_briefly();
    }
}

TEST(a_kick_descriptor_is_replaced_while_the_ring_runs)
{
    const int other = eventfd(0, EFD_CLOEXEC);

    serve();
    exchange(0);
    start_ring(other);
    serve_kicks(other, 3);
    CHECK(v9_ring_set_kick(dev, memory_fd, &reason) == -EPERM &&
          !reason); /* nobody can wait for it */
    CHECK(v9_ring_set_kick(dev, 1000000, &reason) == -EBADF && !reason);
    CHECK(v9_ring_is_started(dev));
    serve_kicks(other, 3);
    CHECK(stop_ring() == 7);
    CHECK(v9_ring_set_kick(dev, memory_fd, &reason) == -EPERM && !v9_ring_is_started(dev));
    stop();
    close(other);
}

TEST(a_ring_without_a_kick_descriptor_is_polled)
{
    serve();
    exchange(0);
    start_ring(-1);
    serve_kicks(-1, 3);
    CHECK(stop_ring() == 4);
    start_ring(-1);
    serve_kicks(-1, 3);
    start_ring(kick_fd);
    serve_kicks(kick_fd, 3);
    stop();
}

TEST(completions_without_a_call_descriptor_are_signalled_to_the_next_one)
{
    const int other = eventfd(0, EFD_CLOEXEC);

    serve();
    CHECK(v9_ring_set_call(dev, -1) == 0);
    send(0, AT_ONCE, 0);
    while (__atomic_load_n(&used[1], __ATOMIC_SEQ_CST) != 1)
        pause_briefly();
    CHECK(v9_ring_set_call(dev, other) == 0);
    wait_for(other);
    CHECK(v9_ring_set_call(dev, 1000000) == -EBADF);
    send(1, AT_ONCE, 0);
    wait_for(other);
    CHECK(reply_in(1) == AT_ONCE + 1);
    stop();
    close(other);
}

/* Stopped and started again, it is whole. */
TEST(the_frontend_hears_of_an_error_by_its_descriptor)
{
    const int err_fd = eventfd(0, EFD_CLOEXEC);

    serve();
    CHECK(v9_ring_set_err(dev, err_fd) == 0 && v9_ring_set_err(dev, 1000000) == -EBADF);
    exchange(0);
    offer_to(NUM, false, kick_fd);
    wait_for(err_fd);
    expect_broken("a head is no index");
    CHECK(stats().broken && stop_ring() == 1 && !stats().broken);
    avail[1] = 1; /* as it was before the error */
    start_ring(kick_fd);
    exchange(1);
    stop();
    close(err_fd);
}

/* The frontend takes guest memory away under a reply, and gives it back. */
TEST(memory_that_was_lost_is_restored_when_the_ring_starts)
{
    serve();
    send(0, HANGS, 0);
    wait_for(waits_fd);
    CHECK(ftruncate(memory_fd, 0) == 0);
    notify(release_fd);
    expect_broken(""); /* depends on which part is missed first */
    CHECK(stop_ring() == 1);
    CHECK(ftruncate(memory_fd, MEMORY) == 0); /* all zeros: a new ring */
    CHECK(v9_ring_set_base(dev, 0) == 0);
    start_ring(kick_fd);
    exchange(1);
    stop();
}
