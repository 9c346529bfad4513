// sources: request/reply.c request/request.c request/notify.c request/rate_queue.c
// request/suspects.c base/ virtio/
/*
 * Which requests are blamed for the death of their process, and how far.
 */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "request/suspects.h"
#include "request/trace.h"

enum { MANY = 6 };

static struct v9_device dev;
static struct v9_request slots[V9_SLOTS];
static struct v9_counts counts;

/* Nobody watches. */
void v9_trace_end(struct v9_device *device, const struct v9_request *r, uint32_t size)
{
    (void)device, (void)r, (void)size;
    CHECK(!"a reply is recorded");
}

/* Requests in these states; the others' slots are free. */
static void in_flight(const enum v9_state *states, uint32_t count)
{
    memset(&dev, 0, sizeof(dev));
    memset(slots, 0, sizeof(slots));
    dev.slots = slots;
    dev.counts = &counts;
    dev.slots_used = count;
    for (uint32_t i = 0; i < count; i++) {
        slots[i].slot = i;
        slots[i].state = states[i];
    }
}

/* The process dies once more, while these requests run. */
static void die(uint32_t first, uint32_t end, uint32_t blame)
{
    for (uint32_t i = first; i < end; i++)
        slots[i].state = V9_RUNNING;
    v9_suspects_blame(&dev, blame);
}

TEST(only_requests_that_run_are_blamed)
{
    const enum v9_state states[] = {V9_RUNNING,  V9_AWAY,    V9_LATER, V9_RATE_LIMITED,
                                    V9_FLUSHING, V9_BARRIER, V9_AGAIN, V9_FREE};

    in_flight(states, 8);
    CHECK(v9_suspects_running(&dev) == 2);
    v9_suspects_blame(&dev, V9_BLAME_ALL);
    for (uint32_t i = 0; i < 8; i++)
        CHECK(slots[i].deaths == (i < 2));
}

TEST(nobody_is_blamed_for_a_kill)
{
    in_flight((enum v9_state[]){V9_RUNNING, V9_AWAY}, 2);
    dev.popping = 1;
    CHECK(v9_suspects_running(&dev) == 3);
    v9_suspects_blame(&dev, V9_BLAME_NOBODY);
    CHECK(!slots[0].deaths && !slots[1].deaths && !dev.pop_deaths);
}

TEST(a_death_in_recovery_is_blamed_on_no_request)
{
    in_flight((enum v9_state[]){V9_RUNNING}, 1);
    v9_suspects_blame(&dev, V9_BLAME_NOBODY);
    CHECK(v9_suspects_running(&dev) == 0);
    v9_suspects_blame(&dev, V9_BLAME_ONE);
    CHECK(slots[0].deaths == 0);
}

TEST(a_death_in_recovery_is_blamed_on_no_chain)
{
    const uint32_t first[] = {V9_BLAME_NOBODY, V9_BLAME_ALL, V9_BLAME_ONE};

    for (uint32_t i = 0; i < 3; i++) {
        in_flight((enum v9_state[]){V9_FREE}, 1);
        dev.popping = 1;
        CHECK(v9_suspects_running(&dev) == 1);
        v9_suspects_blame(&dev, first[i]);
        for (int j = 0; j < MANY; j++) {
            CHECK(v9_suspects_running(&dev) == 0);
            v9_suspects_blame(&dev, V9_BLAME_ONE);
        }
        CHECK(dev.pop_deaths == (first[i] != V9_BLAME_NOBODY));
    }
}

TEST(requests_that_run_together_are_never_convicted)
{
    in_flight((enum v9_state[]){V9_RUNNING, V9_RUNNING}, 2);
    for (int i = 0; i < MANY; i++)
        die(0, 2, V9_BLAME_ALL);
    CHECK(v9_request_is_suspect(&slots[0]) && v9_request_is_suspect(&slots[1]));
    die(1, 2, V9_BLAME_ONE);
    CHECK(v9_request_is_suspect(&slots[0]));
    CHECK(slots[1].deaths == V9_DEATHS_MAX && !v9_request_is_suspect(&slots[1]));
}

TEST(the_one_on_trial_is_blamed_alone)
{
    in_flight((enum v9_state[]){V9_RUNNING, V9_RUNNING}, 2);
    for (int i = 0; i < V9_DEATHS_MAX; i++) {
        dev.on_trial = 2;
        dev.popping = 1;
        dev.pop_blamed = false;
        die(0, 2, V9_BLAME_ONE);
        CHECK(!dev.on_trial);
    }
    CHECK(!slots[0].deaths && slots[1].deaths == V9_DEATHS_MAX && !dev.pop_deaths);
}

TEST(a_poison_is_reported_with_its_head)
{
    struct v9_poison poison;

    in_flight((enum v9_state[]){V9_AGAIN, V9_AGAIN, V9_AGAIN}, 3);
    slots[0].deaths = slots[2].deaths = V9_DEATHS_MAX;
    slots[2].convicted = true; /* slot 0 was so before: it was reported */
    slots[2].type = P9_TMKDIR;
    slots[2].tag = 7;
    slots[2].size = slots[2].data_size = sizeof(poison.data) + 100;
    memset(slots[2].data, 'x', slots[2].data_size);
    CHECK(v9_device_poison(&dev, 0, &poison) == 1);
    CHECK(poison.slot == 2 && poison.type == P9_TMKDIR && poison.tag == 7);
    CHECK(poison.size == sizeof(poison.data) + 100 && poison.data_size == sizeof(poison.data));
    CHECK(poison.data[0] == 'x' && poison.data[sizeof(poison.data) - 1] == 'x');
    CHECK(v9_device_poison(&dev, 3, &poison) == 0);
}

TEST(damaged_counts_reach_no_other_memory)
{
    struct v9_poison poison;

    in_flight((enum v9_state[]){V9_RUNNING}, 1);
    dev.slots_used = UINT32_MAX;
    slots[0].data_size = UINT32_MAX;
    die(0, 1, V9_BLAME_ONE);
    slots[0].deaths = UINT8_MAX;
    slots[0].convicted = true;
    die(0, 1, V9_BLAME_ONE);
    CHECK(slots[0].deaths == UINT8_MAX);
    CHECK(v9_device_poison(&dev, 0, &poison) == 1 && poison.data_size == sizeof(poison.data));
}
