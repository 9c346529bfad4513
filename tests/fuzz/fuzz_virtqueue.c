// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/iov.c
/*
 * Rings of both layouts full of random descriptors, heads and tables: chains stay within their
 * bounds and name nothing outside guest memory, and every ring ends empty or broken. Between the
 * taking of a chain and its return the ring is stopped and started anew, with another set-up, good
 * or bad: what is written then lies within the ring as it is now, and nothing is written for a
 * chain of an earlier one. First with a guest that holds still while its ring is read, so that a
 * seed says everything; then with one that goes on writing meanwhile. SEED and RINGS in the
 * environment set the seed and the number of rings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "virtio/iov.h"
#include "virtio/virtqueue.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { NUM = 16, MEMORY = 1 << 16, RINGS = 15000, AVAIL_AT = 0x1000, USED_AT = 0x2000 };
enum { HELD = 6, STEPS = 200 };

static struct v9_mem mem;
static struct v9_virtqueue ring;
static struct v9_virtqueue_setup setup;
static struct v9_chain held[HELD]; /* in flight, of this ring or of earlier ones */
static uint32_t held_count;
static uint8_t *guest;
static bool still = true; /* nobody else writes */
static atomic_bool quiet; /* the other thread is to end */
static unsigned long taken, refused, stale, restarts, bad_setups;
static _Thread_local uint64_t random_state;
static uint64_t seed;
static long rings;

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 0) : usual;
}

SET_UP()
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    seed = setting("SEED", 1);
    rings = (long)setting("RINGS", RINGS);
    random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    CHECK(v9_mem_init() == 0 && ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
}

TEAR_DOWN()
{
    v9_mem_clear(&mem);
}

/* xorshift64*: both threads have their own, and a seed means the same everywhere. */
static uint32_t random_number(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)(random_state * 0x2545f4914f6cdd1dull >> 32);
}

static uint32_t below(uint32_t bound)
{
    return random_number() % bound;
}

/* A descriptor that is nearly right, so that checks behind the first are reached. */
static void write_desc(uint8_t *at)
{
    uint64_t gpa = below(8) ? GPA + below(MEMORY) : (uint64_t)random_number() << below(33);
    uint32_t len = below(8) ? below(512) * (below(2) ? 16 : 1) : random_number();
    uint16_t flags = (uint16_t)(below(16) ? below(4) : below(65536));
    uint16_t next = (uint16_t)(below(16) ? below(NUM) : below(65536));

    if (!below(6))
        flags = 4;
    if (!below(40))
        gpa = ~(uint64_t)below(4096);
    memcpy(at, &gpa, 8);
    memcpy(at + 8, &len, 4);
    memcpy(at + 12, &flags, 2);
    memcpy(at + 14, &next, 2);
}

static void scramble(void)
{
    for (uint32_t at = 0; at < NUM * 16; at += 16)
        write_desc(guest + at);
    for (int i = 0; i < 40; i++)
        write_desc(guest + 0x4000 + below(0x800) * 16);
    for (uint32_t at = AVAIL_AT + 4; at < AVAIL_AT + 4 + NUM * 2; at += 2) {
        uint16_t head = (uint16_t)(below(30) ? below(NUM) : below(65536));
        memcpy(guest + at, &head, 2);
    }
}

/* The same descriptors as a packed ring has them: id and flags in place of flags and next, most of
 * them available under either wrap counter. */
static void scramble_packed(void)
{
    scramble();
    for (uint32_t at = 0; at < NUM * 16; at += 16) {
        uint16_t flags;
        memcpy(&flags, guest + at + 12, 2);
        flags |= below(4) ? 1 << 7 : below(2) ? 1 << 15 : 0;
        memcpy(guest + at + 14, &flags, 2);
    }
    for (uint32_t at = 0x4000; at < 0x4000 + 0x800 * 16; at += 16)
        memcpy(guest + at + 14, guest + at + 12, 2);
}

static void *go_on_writing(void *seed)
{
    random_state = *(const uint64_t *)seed;
    while (!quiet) {
        write_desc(guest + below(NUM) * 16);
        write_desc(guest + 0x4000 + below(0x800) * 16);
        if (!below(4))
            guest[AVAIL_AT + below(4 + NUM * 2)] = (uint8_t)below(NUM);
    }
    return NULL;
}

/* Every segment is guest memory, all of it. */
static void check_segments(const struct v9_chain *chain)
{
    for (uint32_t i = 0; i < chain->readable_count + chain->writable_count; i++) {
        const uint8_t *base = chain->iov[i].iov_base;
        CHECK(base >= guest && base < guest + MEMORY);
        CHECK(chain->iov[i].iov_len && chain->iov[i].iov_len <= (size_t)(guest + MEMORY - base));
    }
}

static size_t size_of(const struct iovec *iov, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

static void use_chain(const struct v9_chain *chain)
{
    static uint8_t copy[MEMORY];
    const struct iovec *writable = chain->iov + chain->readable_count;

    if (!CHECK(chain->readable_count + chain->writable_count <= V9_CHAIN_MAX))
        return;
    check_segments(chain);
    CHECK(size_of(chain->iov, chain->readable_count) == chain->readable_size);
    CHECK(size_of(writable, chain->writable_count) == chain->writable_size);
    v9_iov_gather(chain->iov, chain->readable_count, 0, copy, sizeof(copy));
    v9_iov_scatter(writable, chain->writable_count, 0, copy, sizeof(copy));
}

/* ---- the frontend ------------------------------------------------------------------------------
 */

/* A set-up that is nearly right; its parts may overlap. */
static void random_setup(void)
{
    const bool packed = below(2);
    const uint32_t num = packed ? 1 + below(NUM) : 1u << below(5);
    uint32_t base =
        packed ? below(num) | below(num) << 16 | below(2) << 15 | below(2) << 31 : below(65536);

    setup = (struct v9_virtqueue_setup){.num = below(12) ? num : random_number() % 70000,
                                        .base = below(12) ? base : random_number(),
                                        .desc_uva = UVA,
                                        .avail_uva = UVA + AVAIL_AT,
                                        .used_uva = UVA + USED_AT,
                                        .event_idx = below(2),
                                        .indirect = below(8),
                                        .packed = packed};
    if (packed && below(2))
        setup.base = 0x80008000; /* as a driver begins */
    if (!below(12))
        setup.desc_uva = UVA + MEMORY - 16 * below(NUM + 1);
    if (!below(12))
        setup.used_uva = UVA + MEMORY - 4 * below(NUM + 1);
}

/* The bytes from `at` on that the ring as it is now has for the device to write. */
static bool is_rings(uint32_t at)
{
    const uint64_t desc = setup.desc_uva - UVA, used = setup.used_uva - UVA;
    const uint64_t desc_size = setup.packed ? 16ull * setup.num : 0;
    const uint64_t used_size = setup.packed ? 4 : 6 + 8ull * setup.num;

    return at - desc < desc_size || at - used < used_size;
}

/* Stops the ring and starts it with another set-up, which may be refused. */
static void restart(void)
{
    uint16_t idx = (uint16_t)(below(20) ? below(NUM + 1) : below(65536));

    restarts++;
    random_setup();
    if (setup.packed) {
        scramble_packed();
    } else {
        scramble();
        idx = (uint16_t)(idx + setup.base);
        memcpy(guest + AVAIL_AT + 2, &idx, 2);
    }
    if (v9_virtqueue_start(&ring, &setup, &mem)) {
        bad_setups++;
        CHECK(!v9_virtqueue_is_live(&ring) && !ring.running);
    } else {
        CHECK(v9_virtqueue_is_live(&ring));
    }
}

/* ---- the device --------------------------------------------------------------------------------
 */

static void give_back(const struct v9_chain *chain, uint32_t written)
{
    static uint8_t before[MEMORY];
    const bool belongs = v9_virtqueue_is_live(&ring) && chain->generation == ring.generation;
    bool pushed;

    if (still)
        memcpy(before, guest, MEMORY);
    pushed = v9_virtqueue_push(&ring, chain, written);
    CHECK(pushed == belongs);
    stale += !pushed;
    for (uint32_t at = 0; still && at < MEMORY; at++)
        if (before[at] != guest[at] && !CHECK(pushed && is_rings(at)))
            break;
    if (pushed)
        v9_virtqueue_should_signal(&ring);
}

/* Takes a chain, uses it (which may write over the ring itself) and keeps it. False: none came. */
static bool take_one(void)
{
    const int found = v9_virtqueue_peek(&ring);

    if (found == 1 && v9_virtqueue_pop(&ring, &mem, &held[held_count]) == 0) {
        taken++;
        use_chain(&held[held_count++]);
        return true;
    }
    refused += ring.broken != NULL;
    CHECK(found == 0 || (v9_virtqueue_peek(&ring) == -EPROTO && ring.broken));
    v9_virtqueue_enable_notification(&ring);
    return false;
}

static void one_ring(void)
{
    restart();
    for (int step = 0; step < STEPS; step++) {
        const uint32_t which = held_count ? below(held_count) : 0;
        if (!below(10)) {
            restart();
        } else if (held_count == HELD || (held_count && below(2))) {
            give_back(&held[which], below(1 << 20));
            held[which] = held[--held_count];
        } else if (!v9_virtqueue_is_live(&ring) || !take_one()) {
            break;
        }
    }
}

static void fuzz(void)
{
    for (long i = 0; i < rings; i++)
        one_ring();
}

TEST(random_rings_of_a_guest_that_holds_still_stay_within_bounds)
{
    fuzz();
    CHECK(taken > (unsigned long)rings / 4 && refused > (unsigned long)rings / 8);
    CHECK(stale > (unsigned long)rings / 16 && bad_setups > (unsigned long)rings / 16);
}

TEST(random_rings_of_a_guest_that_goes_on_writing_stay_within_bounds)
{
    uint64_t other = seed + 1;
    pthread_t thread;

    still = false;
    CHECK(pthread_create(&thread, NULL, go_on_writing, &other) == 0);
    fuzz();
    quiet = true;
    pthread_join(thread, NULL);
    CHECK(!mem.faulted);
}
