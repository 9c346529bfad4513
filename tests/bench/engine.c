/*
 * Runs a workload over a ring and measures it: see engine.h.
 *
 * All lanes begin together. Whenever requests have come back, each one's lane makes its next
 * request or begins its next operation, and what was made is published at once with one kick at
 * most, as a guest does whose interrupt handler wakes several processes.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "histogram.h"
#include "tree.h"

static const struct protocol *protocol;
static struct ring *ring;
static struct lane *lanes;
static int tree_fd;
static struct histogram latencies;
static uint64_t begun; /* operations of this run */
static bool trying;
static int refused; /* errno */

static const struct operation *operation(void)
{
    return &protocol->operations[run.workload];
}

static unsigned add_payload(struct segment *segments, const struct lane *lane)
{
    unsigned count = 0;

    for (uint32_t at = 0; at < lane->payload; at += PAGE) {
        uint32_t left = lane->payload - at;

        segments[count++] =
            (struct segment){lane->data + at, left < PAGE ? left : PAGE, lane->way == PAYLOAD_IN};
    }
    return count;
}

/* Puts the lane's request into the ring: a page a segment, as the guests' drivers do. */
static void submit(struct lane *lane)
{
    struct segment segments[TABLE_SIZE];
    unsigned count = 0;

    segments[count++] = (struct segment){lane->out, lane->head, false};
    if (lane->way == PAYLOAD_OUT)
        count += add_payload(segments + count, lane);
    if (!lane->silent)
        segments[count++] = (struct segment){lane->in, lane->in_size, true};
    if (lane->way == PAYLOAD_IN)
        count += add_payload(segments + count, lane);
    ring_add(ring, lane->index, lane->table, segments, count);
}

/* The next lane whose request has come back and looks right, or null. */
static struct lane *next_answered(void)
{
    uint32_t written;
    int slot = ring_pop(ring, &written);

    if (slot < 0)
        return NULL;
    if (slot >= MAX_LANES || !lanes[slot].busy)
        broken("slot %d came back, which was not under way", slot);
    lanes[slot].busy = false;
    lanes[slot].written = written;
    if (lanes[slot].silent ? written != 0 : written > lanes[slot].in_size + lanes[slot].payload)
        wrong(&lanes[slot], "%u bytes came back", written);
    if (!lanes[slot].silent)
        protocol->check(&lanes[slot]);
    lanes[slot].step++;
    return &lanes[slot];
}

void engine_call(struct lane *lane)
{
    submit(lane);
    lane->busy = true;
    ring_publish(ring);
    while (next_answered() != lane)
        __builtin_ia32_pause();
}

void engine_try(struct lane *lane, bool (*step)(struct lane *lane))
{
    trying = true;
    lane->step = 0;
    while (!refused && step(lane))
        engine_call(lane); /* counts the steps */
    lane->step = 0;
    trying = false;
}

void engine_take_error(const struct lane *lane, unsigned request, int error)
{
    if (!trying || (error != ENOSYS && error != EOPNOTSUPP))
        wrong(lane, "request %u got error %d", request, error);
    refused = error;
}

void engine_open(const struct protocol *spoken, struct ring *over, struct lane *with, int tree)
{
    protocol = spoken;
    ring = over;
    lanes = with;
    tree_fd = tree;
    tree_note_size(tree);
    protocol->begin(&lanes[0]);
}

/* Whether there is time for another operation; there is for one, however slow the machine. */
static bool may_begin(uint64_t started, uint64_t time)
{
    if (begun && time - started >= run.limit)
        return false;
    if (run.workload == FIDS_FILL || run.workload == DEVICES_FIRST)
        return run.fresh < run.size;
    return run.workload < FRESH_STAT || run.fresh < tree_fresh_count(run.workload);
}

/* Whether the lane has begun another operation, and has a request to submit. */
static bool begin(struct lane *lane, uint64_t started)
{
    uint64_t time = now();

    if (run.think) {
        for (uint64_t until = time + run.think; time < until; time = now())
            __builtin_ia32_pause();
    }
    if (!may_begin(started, time))
        return false;
    begun++;
    lane->step = 0;
    lane->began = time;
    return operation()->step(lane);
}

static void send_on(struct lane *lane)
{
    submit(lane);
    lane->busy = true;
}

static void run_over_ring(struct outcome *outcome)
{
    uint64_t started = now();
    unsigned active = 0;

    for (unsigned i = 0; i < run.depth; i++) {
        if (!begin(&lanes[i], started))
            continue;
        send_on(&lanes[i]);
        active++;
    }
    ring_publish(ring);
    while (active) {
        struct lane *lane = next_answered();

        if (!lane) {
            ring_publish(ring);
            ring_wait(ring);
            continue;
        }
        if (!operation()->step(lane)) {
            outcome->ops++;
            histogram_add(&latencies, now() - lane->began);
            if (!begin(lane, started)) {
                active--;
                continue;
            }
        }
        send_on(lane);
    }
    outcome->ns = now() - started;
}

static void run_by_itself(struct outcome *outcome)
{
    uint64_t started = now(), time = started, before;

    while (may_begin(started, time)) {
        before = time;
        begun++;
        lanes[0].step = 0;
        operation()->step(&lanes[0]);
        time = now();
        histogram_add(&latencies, time - before);
        outcome->ops++;
        if (run.think)
            for (before = time; time - before < run.think; time = now())
                __builtin_ia32_pause();
    }
    outcome->ns = time - started;
}

static bool writes(void)
{
    return run.workload == WRITE_SMALL || run.workload == WRITE_LARGE;
}

/* Whether files are made in `made`, and removed again. */
static bool makes(void)
{
    return run.workload == CREATE || has_own_file(run.workload);
}

static void before_run(void)
{
    if (run.workload >= FRESH_STAT)
        tree_fresh_make(tree_fd, run.workload);
    if (writes())
        tree_written_begin();
    run.fresh = 0;
    refused = 0;
    for (unsigned i = 0; i < run.depth; i++) {
        lanes[i].random = run.serial * MAX_LANES + i;
        lanes[i].step = 0;
        if (writes())
            tree_block_fill(&lanes[i], io_size());
        if (operation()->prepare)
            operation()->prepare(&lanes[i]);
    }
    if (has_own_file(run.workload))
        engine_try(&lanes[0], operation()->step);
}

static void after_run(void)
{
    for (unsigned i = 0; i < run.depth && operation()->release; i++)
        operation()->release(&lanes[i]);
    if (writes())
        tree_written_check(tree_fd, io_size());
    if (makes() && unlinkat(tree_fd, "made", AT_REMOVEDIR) < 0)
        wrong(NULL, "files that were removed are still there (errno %d)", errno);
    if (makes() && mkdirat(tree_fd, "made", 0755) < 0)
        broken("made cannot be made: errno %d", errno);
    if (run.workload >= FRESH_STAT)
        tree_fresh_remove(tree_fd, run.workload);
}

static void measure_ring(struct outcome *outcome)
{
    ring->kicks = ring->calls = 0;
    ring_wait_by(ring, run.waiting);
    engine_clock(true);
    run_over_ring(outcome);
    engine_clock(false);
    outcome->kicks = ring->kicks;
    outcome->calls = ring->calls;
    ring_wait_by(ring, WAIT_POLL);
}

static void measure_system_calls(struct outcome *outcome)
{
    if (run.depth != 1)
        broken("system calls have depth 1 only");
    engine_clock(true);
    run_by_itself(outcome);
    engine_clock(false);
}

struct outcome engine_run(void)
{
    struct outcome outcome = {0};

    histogram_clear(&latencies);
    begun = 0;
    before_run();
    outcome.refused = refused;
    if (ring && !refused)
        measure_ring(&outcome);
    else if (!refused)
        measure_system_calls(&outcome);
    after_run();
    outcome.mean = histogram_mean(&latencies);
    outcome.p50 = histogram_quantile(&latencies, 0.50);
    outcome.p99 = histogram_quantile(&latencies, 0.99);
    return outcome;
}
