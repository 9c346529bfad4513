// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * The packed virtqueue against this file's driver, valid and invalid.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "driver.h"
#include "virtio/virtqueue.h"

enum { AVAIL = 1 << 7, USED = 1 << 15 };
#define FRESH 0x80008000u /* the base of a ring that nobody has used */
enum { ENABLE = 0, DISABLE = 1, DESC = 2 };

/* As struct desc, but the last two are buffer id and flags. */
static uint16_t place;           /* the driver's next descriptor, */
static bool wrap_counter = true; /* and its wrap counter */
static uint16_t *driver_event, *device_event;

static void begin_packed(bool event_idx)
{
    begin(event_idx);
    setup.packed = true;
    setup.base = FRESH;
    start();
    driver_event = (uint16_t *)(guest + AVAIL_AT);
    device_event = (uint16_t *)(guest + USED_AT);
    place = 0;
    wrap_counter = true;
}

/* Writes the driver's next descriptor. */
static void put(uint32_t offset, uint32_t len, uint16_t id, uint16_t flags)
{
    flags |= wrap_counter ? AVAIL : USED;
    descs[place] = (struct desc){GPA + DATA_AT + offset, len, id, flags};
    if (++place == NUM) {
        place = 0;
        wrap_counter = !wrap_counter;
    }
}

static bool is_used(uint16_t at, bool wrapped)
{
    const uint16_t flags = descs[at].next;
    return !!(flags & AVAIL) == wrapped && !!(flags & USED) == wrapped;
}

TEST(a_packed_ring_starts_only_where_all_its_parts_are_in_memory)
{
    begin_packed(true);
    const struct v9_virtqueue_setup good = setup;

    setup.num = 7; /* any size will do */
    start();
    setup.desc_uva += 8;
    refuse("aligned");
    setup = good;
    setup.avail_uva += 2;
    refuse("aligned");
    setup = good;
    setup.used_uva = UVA + MEMORY - 4;
    start();
    setup.used_uva += 4;
    refuse("outside");
    setup = good;
    setup.desc_uva = UVA + MEMORY - 16 * (NUM - 1);
    refuse("outside");
    setup = good;
    setup.used_uva = UVA + MEMORY - 4; /* four bytes for the one, a whole ring for the other */
    start();
    setup.packed = false;
    setup.base = 0;
    refuse("outside");
}

TEST(a_base_holds_both_indexes_and_wrap_counters)
{
    begin_packed(true);
    v9_virtqueue_stop(&ring);
    CHECK(ring.setup.base == FRESH);
    setup.base = 3 | 5u << 16 | 0x80000000u;
    start();
    CHECK(ring.pop_at.index.value == 3 && !ring.pop_at.wrap_counter);
    CHECK(ring.push_at.index.value == 5 && ring.push_at.wrap_counter);
    v9_virtqueue_stop(&ring);
    CHECK(ring.setup.base == setup.base);
    setup.base = NUM;
    refuse("base");
    setup.base = NUM << 16;
    refuse("base");
}

/* User Mode Linux sets 0 for an unused ring. A frontend whose ring was used for exactly one round
 * sets it, too, and continues from there. */
TEST(a_base_of_zero_starts_a_fresh_ring)
{
    begin_packed(true);
    setup.base = 0;
    start();
    put(0, 10, 1, WRITE);
    CHECK(take() == 0 && chain.head == 1);
    CHECK(v9_virtqueue_push(&ring, &chain, 0) && is_used(0, true));
    for (int i = 1; i < NUM; i++) {
        put(0, 10, 2, WRITE);
        CHECK(take() == 0 && v9_virtqueue_push(&ring, &chain, 0));
    }
    v9_virtqueue_stop(&ring);
    CHECK(ring.setup.base == 0);
    start();
    CHECK(!ring.pop_at.wrap_counter && v9_virtqueue_peek(&ring) == 0);
    put(0, 10, 3, WRITE);
    CHECK(take() == 0 && chain.head == 3);
}

/* A chain of the ring before, which took more descriptors than this one has. */
TEST(a_chain_in_flight_when_the_ring_stops_is_never_pushed)
{
    begin_packed(true);
    for (uint16_t i = 0; i < NUM; i++)
        put(0, 10, i, (uint16_t)(WRITE | (i + 1 < NUM ? NEXT : 0)));
    CHECK(take() == 0 && chain.slots == NUM);
    memset(guest, 0, AVAIL_AT);
    setup.num = 2;
    start();
    CHECK(!v9_virtqueue_push(&ring, &chain, 10));
    CHECK(ring.push_at.index.value == 0 && !descs[0].next);
}

TEST(a_direct_chain_is_popped_and_pushed)
{
    begin_packed(true);
    CHECK(v9_virtqueue_peek(&ring) == 0);
    put(0, 10, 77, NEXT);
    put(10, 20, 78, NEXT); /* touches the first: merged */
    put(30, 40, 79, WRITE | NEXT);
    put(500, 50, 5, WRITE);
    CHECK(v9_virtqueue_peek(&ring) == 1);
    CHECK(take() == 0 && chain.head == 5 && chain.slots == 4 && ring.pop_at.index.value == 4);
    CHECK(chain.readable_count == 1 && chain.readable_size == 30);
    CHECK(chain.writable_count == 2 && chain.writable_size == 90);
    CHECK(v9_virtqueue_peek(&ring) == 0);
    v9_virtqueue_push(&ring, &chain, 60);
    CHECK(is_used(0, true) && !is_used(1, true) && ring.push_at.index.value == 4);
    CHECK(descs[0].flags == 5 && descs[0].len == 60); /* id */
}

TEST(an_indirect_table_is_popped)
{
    begin_packed(true);
    table[0] = (struct desc){GPA + DATA_AT, 10, 9, WRITE * 0};
    table[1] = (struct desc){GPA + DATA_AT + 100, 20, 9, WRITE | NEXT}; /* NEXT means nothing */
    table[2] = (struct desc){GPA + DATA_AT + 200, 30, 9, WRITE};
    descs[0] = (struct desc){GPA + TABLE_AT, 3 * sizeof(*table), 6, INDIRECT | AVAIL};
    CHECK(take() == 0 && chain.head == 6 && chain.slots == 1);
    CHECK(chain.readable_size == 10 && chain.writable_size == 50);
}

TEST(a_used_descriptor_is_marked_written_only_with_data)
{
    begin_packed(true);
    put(0, 10, 1, WRITE);
    put(0, 10, 2, WRITE);
    CHECK(take() == 0);
    v9_virtqueue_push(&ring, &chain, 0);
    CHECK(!(descs[0].next & WRITE));
    CHECK(take() == 0);
    v9_virtqueue_push(&ring, &chain, 1);
    CHECK(descs[1].next & WRITE);
}

/* Chains of 1 to 3 descriptors go round and round, and come back in another order. */
TEST(wrap_counters_flip_at_the_end_of_the_ring)
{
    static struct v9_chain two[2];
    uint16_t used_place = 0;
    bool used_wrap_counter = true;

    begin_packed(true);
    for (uint32_t round = 0; round < 10000; round++) {
        const uint16_t ids[2] = {(uint16_t)(2 * round), (uint16_t)(2 * round + 1)};
        for (int i = 0; i < 2; i++) {
            const uint32_t length = 1 + (round + (uint32_t)i * 2) % 3;
            for (uint32_t k = 0; k < length; k++)
                put(k * 100, 10, ids[i], (uint16_t)(WRITE | (k + 1 < length ? NEXT : 0)));
            if (!CHECK(v9_virtqueue_peek(&ring) == 1 &&
                       v9_virtqueue_pop(&ring, &mem, &two[i]) == 0) ||
                !CHECK(two[i].head == ids[i] && two[i].writable_size == 10 * length))
                return;
        }
        if (!CHECK(v9_virtqueue_peek(&ring) == 0))
            return;
        for (int i = 1; i >= 0; i--) {
            v9_virtqueue_push(&ring, &two[i], round);
            if (!CHECK(is_used(used_place, used_wrap_counter)) ||
                !CHECK(descs[used_place].flags == ids[i] && descs[used_place].len == round))
                return;
            used_place = (uint16_t)(used_place + two[i].slots);
            used_wrap_counter ^= used_place >= NUM;
            used_place %= NUM;
        }
    }
}

TEST(every_violation_breaks_the_ring)
{
    begin_packed(true); /* a chain that never ends */
    for (int i = 0; i < NUM; i++)
        put(0, 1, 0, NEXT);
    CHECK(take() == -EPROTO && ring.broken && v9_virtqueue_peek(&ring) == -EPROTO);
    begin_packed(true); /* readable after writable */
    put(0, 1, 0, WRITE | NEXT);
    put(0, 1, 0, 0);
    CHECK(take() == -EPROTO);
    begin_packed(true); /* an indirect one within a chain, first and second */
    put(0, 16, 0, INDIRECT | NEXT);
    put(0, 1, 0, WRITE);
    CHECK(take() == -EPROTO);
    begin_packed(true);
    put(0, 1, 0, NEXT);
    put(0, 16, 0, INDIRECT);
    CHECK(take() == -EPROTO);
    begin_packed(true); /* in a table */
    table[0] = (struct desc){GPA + TABLE_AT, 16, 0, INDIRECT};
    descs[0] = (struct desc){GPA + TABLE_AT, 16, 0, INDIRECT | AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(true); /* a table of no length, of an odd one, outside memory, not negotiated */
    descs[0] = (struct desc){GPA + TABLE_AT, 0, 0, INDIRECT | AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(true);
    descs[0] = (struct desc){GPA + TABLE_AT, 17, 0, INDIRECT | AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(true);
    descs[0] = (struct desc){GPA + MEMORY - 16, 32, 0, INDIRECT | AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(true);
    ring.setup.indirect = false;
    descs[0] = (struct desc){GPA + TABLE_AT, 16, 0, INDIRECT | AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(
        true); /* a buffer that wraps around; one outside memory is the request's trouble */
    descs[0] = (struct desc){UINT64_MAX, 2, 0, AVAIL};
    CHECK(take() == -EPROTO);
    begin_packed(true);
    descs[0] = (struct desc){GPA + MEMORY, 2, 0, AVAIL};
    CHECK(take() == 0 && chain.error == -EFAULT);
}

static void give(uint16_t slots)
{
    static struct v9_chain done;
    done.generation = ring.generation;
    done.slots = slots;
    CHECK(v9_virtqueue_push(&ring, &done, 1));
}

TEST(the_driver_is_called_where_its_event_asks_for_it)
{
    begin_packed(true);
    driver_event[1] = DISABLE;
    give(1);
    CHECK(!v9_virtqueue_should_signal(&ring));
    driver_event[1] = ENABLE;
    give(1);
    CHECK(v9_virtqueue_should_signal(&ring));
    /* Two done; wanted: when descriptor 3 of this round is. */
    driver_event[0] = 3 | 1 << 15;
    driver_event[1] = DESC;
    give(1);
    CHECK(!v9_virtqueue_should_signal(&ring));
    give(1);
    CHECK(v9_virtqueue_should_signal(&ring));
    give(1);
    CHECK(!v9_virtqueue_should_signal(&ring)); /* once */
    /* Over the end: 5 to 2 of the next round passes 6 of this one, and 1 of the next. */
    driver_event[0] = 6 | 1 << 15;
    give(5);
    CHECK(ring.push_at.index.value == 2 && !ring.push_at.wrap_counter);
    CHECK(v9_virtqueue_should_signal(&ring));
    begin_packed(true);
    driver_event[1] = DESC;
    driver_event[0] = 1;
    give(5);
    CHECK(!v9_virtqueue_should_signal(&ring));
    give(5);
    CHECK(v9_virtqueue_should_signal(&ring));
    driver_event[0] = 7;
    give(5);
    CHECK(!v9_virtqueue_should_signal(&ring));
    begin_packed(false); /* without EVENT_IDX a place means nothing */
    driver_event[1] = DISABLE;
    give(1);
    CHECK(!v9_virtqueue_should_signal(&ring));
    ring.must_signal = true;
    CHECK(v9_virtqueue_should_signal(&ring) && !v9_virtqueue_should_signal(&ring));
}

TEST(kicks_are_asked_for_before_sleeping)
{
    begin_packed(true);
    v9_virtqueue_disable_notification(&ring);
    CHECK(device_event[1] == DISABLE);
    put(0, 10, 0, WRITE);
    CHECK(v9_virtqueue_enable_notification(&ring)); /* something is there: do not sleep */
    CHECK(take() == 0 && !v9_virtqueue_enable_notification(&ring));
    CHECK(device_event[0] == (1 | 1 << 15) && device_event[1] == DESC);
    for (int i = 1; i < NUM; i++) {
        put(0, 10, 0, WRITE);
        CHECK(take() == 0);
    }
    CHECK(!v9_virtqueue_enable_notification(&ring) && device_event[0] == 0);
    begin_packed(false);
    v9_virtqueue_disable_notification(&ring);
    CHECK(!v9_virtqueue_enable_notification(&ring) && device_event[1] == ENABLE);
}

/* A chain that waits while the memory table changes gets its buffers back at their new addresses,
 * though its descriptors were overwritten; or it stays detached. */
TEST(a_detached_chain_finds_its_buffers_again)
{
    int fd = memfd_create("more", MFD_CLOEXEC);

    begin_packed(true);
    put(0, 10, 3, NEXT);
    put(500, 20, 3, WRITE | NEXT);
    put(600, 30, 3, WRITE);
    CHECK(take() == 0);
    memset(descs, 0xff, NUM * sizeof(*descs));
    v9_chain_detach(&chain, &mem);
    CHECK(!chain.readable_count && !chain.writable_count && !chain.writable_size);
    v9_chain_detach(&chain, &mem); /* once is enough */
    v9_mem_clear(&mem);
    v9_chain_attach(&chain, &mem);
    CHECK(chain.detached && !chain.writable_size);
    CHECK(ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    v9_chain_attach(&chain, &mem);
    CHECK(!chain.detached && chain.readable_count == 1 && chain.writable_count == 2);
    CHECK(chain.readable_size == 10 && chain.writable_size == 50);
    CHECK(chain.iov[0].iov_base == guest + DATA_AT);
    CHECK(chain.iov[2].iov_base == guest + DATA_AT + 600 && chain.iov[2].iov_len == 30);
}
