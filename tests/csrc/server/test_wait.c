// sources: server/wait.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Threads that wait for requests: none is missed between polling and sleeping. How long they poll
 * is in test_adaptive_poll.c.
 */
#define _GNU_SOURCE
#include "server/wait.h"

#include <sched.h>

#include "server/served.h"

enum { ROUNDS = 1000, EVENT_IDX = 29 };

/* One request after the other, each kicked only if the device asks for it. */
static void miss_none(uint32_t threads, uint32_t poll_us, bool event_idx)
{
    conf.threads = threads;
    conf.poll_us = poll_us;
    create_device();
    create_memory();
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    CHECK(v9_device_set_export(dev, 0, export) == 0);
    set_up_ring((uint64_t)event_idx << EVENT_IDX);
    start_ring(kick_fd);
    send(0, AT_ONCE, 0);
    wait_for_used(1);
    for (uint16_t i = 1; i < ROUNDS; i++) {
        offer_to(0, event_idx, kick_fd);
        wait_for_used((uint16_t)(i + 1));
    }
    CHECK(stats().requests == ROUNDS && reply_in(0) == AT_ONCE + 1);
    stop();
}

TEST(a_thread_that_sleeps_misses_no_request)
{
    miss_none(1, 0, false);
}

TEST(a_thread_that_sleeps_misses_no_event)
{
    miss_none(1, 0, true);
}

TEST(a_thread_that_polls_misses_no_request)
{
    miss_none(1, 20, true);
}

TEST(threads_that_share_a_ring_miss_no_request)
{
    miss_none(3, 20, false);
}

TEST(the_guest_keeps_a_cpu)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t all, one;

    CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
    CHECK(v9_wait_pollers_max() < (uint32_t)online);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
    CHECK(v9_wait_pollers_max() == (online > 1)); /* started on one CPU of several */
    CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
}
