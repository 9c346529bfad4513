// sources: base/arena.c
/*
 * What is known of an open stream (struct v9_stream), whose process died at any instruction while
 * it stored that. tests/p9/test_stream.py says what a reader finds then.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "fid/fid_table.h"
#include "stepped.h"

static const struct v9_stream before = {1000, 0, 20, 7, V9_STREAM_WAITS | V9_STREAM_INSIDE};
static const struct v9_stream after = {5000, 20, 29, 9, V9_STREAM_WAITS | V9_STREAM_LOST};
static struct v9_stream *shared;

static void store(void)
{
    v9_stream_store(shared, &after);
}

/* What is stored after so many stores, in their order. */
static struct v9_stream after_stores(int count)
{
    struct v9_stream state = before;

    if (count > 0)
        state.start = after.start ^ (uint64_t)1 << 63;
    if (count > 1)
        state.lost = after.lost;
    if (count > 2)
        state.end = after.end;
    if (count > 3)
        state.last = after.last;
    if (count > 4)
        state.more = after.more;
    if (count > 5)
        state.start = after.start;
    return state;
}

static bool is_stored(const struct v9_stream *state)
{
    return state->start == shared->start && state->lost == shared->lost &&
           state->end == shared->end && state->last == shared->last && state->more == shared->more;
}

TEST(each_part_is_stored_in_its_turn)
{
    pid_t child;
    int stores = 0;

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    *shared = before;
    child = stepped_start(store);
    while (stepped_once(child)) {
        struct v9_stream now = after_stores(stores), next = after_stores(stores + 1);
        stores += !is_stored(&now) && is_stored(&next);
        now = after_stores(stores);
        if (!CHECK(is_stored(&now)))
            break;
    }
    stepped_kill(child);
    CHECK(stores == 6);
    munmap(shared, sizeof(*shared));
}

TEST(a_start_that_stays_leads_somewhere_all_the_time)
{
    struct v9_stream at = before, to = before;

    to.end = 40;
    v9_stream_store(&at, &to);
    CHECK(at.start == before.start && at.end == 40);
}
