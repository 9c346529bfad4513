// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * The split virtqueue's used ring: when the driver is signalled, and when it is asked for kicks.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "check.h"
#include "driver.h"
#include "virtio/virtqueue.h"

/* Chains that were taken in one order and are returned in another; idx wraps around meanwhile. */
TEST(chains_are_pushed_in_any_order)
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
        give_back(head, head * 10u);
    CHECK(used[1] == 2);
    for (uint32_t i = 0; i < 4; i++) {
        element = (const uint32_t *)(used + 2) + 2 * ((65534 + i) % NUM);
        CHECK(element[0] == 3 - i && element[1] == (3 - i) * 10);
    }
}

TEST(used_elements_wrap_around)
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
        give_back(chain.head, round);
        const uint32_t *element = (const uint32_t *)(used + 2) + 2 * (round % NUM);
        if (used[1] != (uint16_t)(round + 1) || element[0] != head || element[1] != round) {
            CHECK(false);
            return;
        }
    }
    CHECK(ring.last_avail == (uint16_t)70000);
}

TEST(the_driver_is_called_when_used_event_is_passed)
{
    uint16_t *used_event = &avail[2 + NUM];

    begin(true);
    used_event = &avail[2 + NUM];
    ring.must_signal = true;
    *used_event = 100;
    CHECK(v9_virtqueue_should_signal(&ring)); /* once after every start */
    for (uint16_t i = 0; i < 300; i++) {
        give_back(0, 0);
        CHECK(v9_virtqueue_should_signal(&ring) == (i == 100));
    }
    *used_event = 305;
    for (int i = 0; i < 10; i++)
        give_back(0, 0);
    CHECK(v9_virtqueue_should_signal(&ring)); /* 300 to 310 in one go */
    CHECK(!v9_virtqueue_should_signal(&ring));

    begin(true); /* the same where the index wraps around */
    ring.used_idx = used[1] = 65530;
    *used_event = 2;
    for (uint16_t i = 0; i < 20; i++) {
        give_back(0, 0);
        CHECK(v9_virtqueue_should_signal(&ring) == (i == 8));
    }
}

TEST(the_driver_is_called_unless_its_flag_forbids_it)
{
    begin(false);
    give_back(0, 0);
    CHECK(v9_virtqueue_should_signal(&ring));
    avail[0] = 1;
    give_back(0, 0);
    CHECK(!v9_virtqueue_should_signal(&ring));
}

TEST(kicks_are_asked_for_before_sleeping)
{
    uint16_t *avail_event;

    begin(true);
    avail_event = used + 2 + 4 * NUM;
    descs[0] = data(0, 10, WRITE, 0);
    offer(0);
    CHECK(v9_virtqueue_enable_notification(&ring)); /* something is there: do not sleep */
    CHECK(take() == 0 && !v9_virtqueue_enable_notification(&ring) && *avail_event == 1);
    begin(false);
    v9_virtqueue_disable_notification(&ring);
    CHECK(used[0] == 1);
    CHECK(!v9_virtqueue_enable_notification(&ring) && used[0] == 0);
}
