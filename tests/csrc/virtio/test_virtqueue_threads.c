// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * A driver in its own thread. First both sides sleep whenever the rules allow it: no kick and no
 * signal is lost (nothing else would end the poll), and no reply is seen before it is written. Then
 * the critical race, repeated: one side raises its index while the other goes to sleep. At least
 * one of them must notice; without the full barrier, a processor lets both miss it.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "virtio/iov.h"
#include "virtio/virtqueue.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { NUM = 4, REQUESTS = 150000, NEXT = 1, WRITE = 2, PATIENCE_MS = 60000 };
enum { AVAIL_AT = 0x1000, USED_AT = 0x2000, DATA_AT = 0x3000, MEMORY = 0x4000 };

struct desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next;
};

static struct v9_mem mem;
static struct v9_virtqueue ring;
static uint8_t *guest;
static int kick_fd, call_fd;
static bool event_idx;

static uint16_t load(const uint16_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void raise_fd(int fd)
{
    const uint64_t one = 1;
    CHECK(write(fd, &one, sizeof(one)) == sizeof(one));
}

static bool wait_for(int fd)
{
    struct pollfd item = {fd, POLLIN, 0};
    uint64_t count;
    return CHECK(poll(&item, 1, PATIENCE_MS) == 1) && read(fd, &count, sizeof(count)) > 0;
}

/* ---- the driver: one readable and one writable byte string for each request ------------------ */

struct driver {
    uint16_t *avail, *used;
    uint16_t idx, seen; /* made available; taken back */
};

/* Request n: asks for n + 1. */
static void offer(struct driver *driver, uint32_t n)
{
    const uint16_t pair = (uint16_t)(driver->idx % (NUM / 2)), head = (uint16_t)(pair * 2);
    struct desc *descs = (struct desc *)guest;
    const uint64_t at = DATA_AT + pair * 16ull;
    const uint16_t old = driver->idx;
    bool wanted;

    memcpy(guest + at, &n, 4);
    descs[head] = (struct desc){GPA + at, 4, NEXT, head + 1};
    descs[head + 1] = (struct desc){GPA + at + 8, 4, WRITE, 0};
    driver->avail[2 + old % NUM] = head;
    __atomic_store_n(&driver->avail[1], ++driver->idx, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    wanted = event_idx ? load(&driver->used[2 + 4 * NUM]) == old : !load(&driver->used[0]);
    if (wanted)
        raise_fd(kick_fd);
}

/* Asks for a signal, looks again, and only then sleeps. */
static bool wait_for_used(struct driver *driver)
{
    while (load(&driver->used[1]) == driver->seen) {
        __atomic_store_n(&driver->avail[2 + NUM], driver->seen, __ATOMIC_RELAXED);
        __atomic_store_n(&driver->avail[0], 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (load(&driver->used[1]) == driver->seen && !wait_for(call_fd))
            return false;
        if (!event_idx)
            __atomic_store_n(&driver->avail[0], 1, __ATOMIC_RELAXED);
    }
    return true;
}

static void *drive(void *argument)
{
    struct driver driver = {(uint16_t *)(guest + AVAIL_AT), (uint16_t *)(guest + USED_AT), 0, 0};
    uint32_t sent = 0, done = 0, reply;

    (void)argument;
    while (done < REQUESTS) {
        while (sent < REQUESTS && sent - done < NUM / 2)
            offer(&driver, sent++);
        if (!wait_for_used(&driver))
            break;
        memcpy(&reply, guest + DATA_AT + done % (NUM / 2) * 16 + 8, 4);
        if (reply != done + 1) {
            CHECK(reply == done + 1);
            break;
        }
        driver.seen++;
        done++;
    }
    CHECK(done == REQUESTS);
    return NULL;
}

/* ---- the device ------------------------------------------------------------------------------ */

static bool answer(void)
{
    static struct v9_chain chain;
    uint32_t number;

    if (!CHECK(v9_virtqueue_pop(&ring, &mem, &chain) == 0))
        return false;
    v9_iov_gather(chain.iov, chain.readable_count, 0, &number, 4);
    number++;
    v9_iov_scatter(chain.iov + chain.readable_count, chain.writable_count, 0, &number, 4);
    v9_virtqueue_push(&ring, &chain, 4);
    return true;
}

static void serve(void)
{
    uint32_t served = 0;

    while (served < REQUESTS) {
        v9_virtqueue_disable_notification(&ring);
        for (; v9_virtqueue_peek(&ring) == 1; served++) {
            if (!answer())
                return;
            if (v9_virtqueue_should_signal(&ring))
                raise_fd(call_fd);
        }
        if (served < REQUESTS && !v9_virtqueue_enable_notification(&ring) && !wait_for(kick_fd))
            return;
    }
}

/* A new ring in zeroed memory. */
static void begin(bool with_events)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(ftruncate(fd, MEMORY) == 0 && v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    const struct v9_virtqueue_setup setup = {.num = NUM,
                                             .desc_uva = UVA,
                                             .avail_uva = UVA + AVAIL_AT,
                                             .used_uva = UVA + USED_AT,
                                             .event_idx = with_events};
    CHECK(v9_virtqueue_start(&ring, &setup, &mem) == NULL);
    ring.must_signal = false;
}

static void exchange(bool with_events)
{
    pthread_t thread;

    event_idx = with_events;
    kick_fd = eventfd(0, EFD_CLOEXEC);
    call_fd = eventfd(0, EFD_CLOEXEC);
    begin(with_events);
    CHECK(pthread_create(&thread, NULL, drive, NULL) == 0);
    serve();
    pthread_join(thread, NULL);
    CHECK(!ring.broken && ring.last_avail == (uint16_t)REQUESTS);
    v9_mem_clear(&mem);
    close(kick_fd);
    close(call_fd);
}

TEST(no_kick_and_no_call_is_lost_with_event_idx)
{
    exchange(true);
}

TEST(no_kick_and_no_call_is_lost_with_flags)
{
    exchange(false);
}

/* ---- going to sleep -------------------------------------------------------------------------- */

enum { ROUNDS = 300000 };
static _Atomic uint32_t device_round, driver_round; /* the last one that is over */
static atomic_uint ready;                           /* how many have reached the starting line */
static atomic_bool driver_noticed;

/* Both leave the line at the same time, as near as threads can. */
static void line_up(uint32_t round)
{
    ready++;
    for (uint32_t spins = 0; ready < 2 * (round + 1); spins++)
        if (spins % 4096 == 4095)
            sched_yield();
}

static void wait_for_round(_Atomic uint32_t *other, uint32_t round)
{
    for (uint32_t spins = 0; *other <= round; spins++)
        if (spins % 4096 == 4095)
            sched_yield();
}

/* Even rounds: the driver makes a chain available. Odd ones: it asks for a signal. */
static void *race_driver(void *argument)
{
    uint16_t *avail = (uint16_t *)(guest + AVAIL_AT), *used = (uint16_t *)(guest + USED_AT);

    (void)argument;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint16_t idx = (uint16_t)(round / 2);
        line_up(round);
        if (round % 2 == 0) {
            __atomic_store_n(&avail[1], (uint16_t)(idx + 1), __ATOMIC_RELEASE);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            driver_noticed = load(&used[2 + 4 * NUM]) == idx; /* it would kick */
        } else {
            __atomic_store_n(&avail[2 + NUM], idx, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            driver_noticed = load(&used[1]) != idx; /* it would not sleep */
        }
        driver_round++;
        wait_for_round(&device_round, round);
    }
    return NULL;
}

TEST(going_to_sleep_misses_nothing_that_happens_just_then)
{
    static struct v9_chain nothing = {.slots = 1};
    uint32_t missed = 0;
    pthread_t thread;

    begin(true);
    nothing.generation = ring.generation;
    /* As if the last chance had been long ago: only what is written in a round counts in it. */
    __atomic_store_n((uint16_t *)(guest + USED_AT) + 2 + 4 * NUM, UINT16_MAX, __ATOMIC_RELAXED);
    __atomic_store_n((uint16_t *)(guest + AVAIL_AT) + 2 + NUM, UINT16_MAX, __ATOMIC_RELAXED);
    CHECK(pthread_create(&thread, NULL, race_driver, NULL) == 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        bool noticed;
        line_up(round);
        if (round % 2 == 0) {
            noticed = v9_virtqueue_enable_notification(&ring);
        } else {
            v9_virtqueue_push(&ring, &nothing, 0);
            noticed = v9_virtqueue_should_signal(&ring);
        }
        wait_for_round(&driver_round, round);
        missed += !noticed && !driver_noticed;
        ring.last_avail = (uint16_t)(round / 2 + 1);
        device_round++;
    }
    pthread_join(thread, NULL);
    CHECK(missed == 0);
    v9_mem_clear(&mem);
}
