// sources: server/workers.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Threads that serve a ring: each request is answered, here or by Python, also while another one
 * hangs.
 */
#define _GNU_SOURCE
#include "server/served.h"

TEST(requests_are_answered_in_c)
{
    serve();
    add_fid(ROOT, "");
    send(0, P9_TSTATFS, ROOT);
    wait_for_used(1);
    CHECK(reply_in(0) == P9_TSTATFS + 1);
    send(1, P9_TCLUNK, ROOT);
    wait_for_used(2);
    send(2, P9_TCLUNK, ROOT);
    wait_for_used(3);
    CHECK(reply_in(1) == P9_TCLUNK + 1 && reply_in(2) == -EBADF);
    CHECK(stats().requests == 3 && stats().upcalls == 0 && stats().fids == 0);
    stop();
}

TEST(what_is_pythons_is_answered_by_python)
{
    serve();
    send(0, AT_ONCE, 0);
    wait_for_used(1);
    CHECK(reply_in(0) == AT_ONCE + 1);
    CHECK(stats().requests == 1 && stats().upcalls == 1 && stats().inflight == 0);
    stop();
}

/* The serving thread sleeps: it has to wake up to call the driver. */
TEST(what_python_answers_later_is_signalled)
{
    serve();
    send(0, LATER, 0);
    wait_for(waits_fd);
    send(1, AT_ONCE, 0);
    wait_for_used(1);
    CHECK(reply_in(1) == AT_ONCE + 1 && reply_in(0) == 0 && stats().inflight == 1);
    CHECK(answer_later(0) == 0);
    wait_for_used(2);
    CHECK(reply_in(0) == LATER + 1 && stats().inflight == 0);
    CHECK(answer_later(0) == -ESTALE);
    stop();
}

/* The device has one thread to serve with. */
TEST(a_request_that_hangs_does_not_hold_others_up)
{
    serve();
    send(0, HANGS, 0);
    wait_for(waits_fd);
    send(1, AT_ONCE, 0);
    wait_for_used(1);
    CHECK(reply_in(1) == AT_ONCE + 1 && reply_in(0) == 0);
    notify(release_fd);
    wait_for_used(2);
    CHECK(reply_in(0) == HANGS + 1);
    stop();
}

/* Of the threads that are back, one goes on and one stays to spare. */
TEST(requests_hang_one_after_the_other)
{
    const uint32_t most = 3; /* a runner, a watchdog and a spare */

    serve();
    for (uint16_t i = 0; i < SLOTS; i++) {
        send(i, HANGS, 0);
        wait_for(waits_fd);
    }
    CHECK(stats().threads >= SLOTS);
    for (uint16_t i = 0; i < SLOTS; i++)
        notify(release_fd);
    wait_for_used(SLOTS);
    for (uint16_t i = 0; i < SLOTS; i++)
        CHECK(reply_in(i) == HANGS + 1);
    while (stats().threads > most)
        pause_briefly();
    send(0, AT_ONCE, 0);
    wait_for_used(SLOTS + 1);
    CHECK(reply_in(0) == AT_ONCE + 1);
    stop();
}

TEST(python_hears_that_a_ring_is_broken)
{
    serve();
    offer_to(NUM, false, kick_fd); /* no index of a descriptor */
    expect_broken("a head is no index");
    CHECK(stats().broken && stats().requests == 0);
    stop();
}

TEST(threads_that_have_nothing_to_do_end)
{
    conf.threads = 4;
    create_device();
    CHECK(stats().threads == conf.threads + 1);
    stop();
}
