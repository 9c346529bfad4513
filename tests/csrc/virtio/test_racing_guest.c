// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * The rings of tests/fuzz/rings.h under a guest that goes on writing while they are read: what was
 * checked is what is used. Inputs are random. SEED and RINGS in the environment set the seed and
 * the number of rings.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "fuzz/input.h"
#include "fuzz/rings.h"

enum { RINGS = 15000, INPUT = 400 };

static atomic_bool quiet; /* the other thread is to end */
static _Thread_local uint64_t random_state;

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 0) : usual;
}

/* xorshift64*: both threads have their own, and a seed means the same everywhere. */
static uint64_t random_number(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1dull;
}

/* Most bytes are 0 and most bits are clear, since most of those that are set make something wrong.
 */
static struct fuzz_input random_input(uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        const uint64_t r = random_number();
        bytes[i] = (uint8_t)(r & 1 ? 0 : r & 6 ? r >> 56 & r >> 48 : r >> 56);
    }
    return (struct fuzz_input){bytes, bytes + size};
}

static void *go_on_writing(void *seed)
{
    uint8_t bytes[64];

    random_state = *(const uint64_t *)seed;
    while (!quiet) {
        struct fuzz_input in = random_input(bytes, sizeof(bytes));
        write_desc(&in, guest + fuzz_below(&in, NUM) * 16, fuzz_byte(&in) & 1);
        write_desc(&in, guest + TABLES_AT + fuzz_below(&in, TABLE_DESCS) * 16, false);
        write_anywhere(&in);
    }
    return NULL;
}

TEST(random_rings_of_a_guest_that_goes_on_writing_stay_within_bounds)
{
    const uint64_t rings = setting("RINGS", RINGS);
    uint64_t other = 2 * setting("SEED", 1) + 2;
    uint8_t bytes[INPUT];
    pthread_t thread;

    random_state = other - 1;
    guest_is_still = false;
    create_guest();
    CHECK(pthread_create(&thread, NULL, go_on_writing, &other) == 0);
    for (uint64_t i = 0; i < rings; i++) {
        struct fuzz_input in = random_input(bytes, sizeof(bytes));
        run_rings(&in);
    }
    quiet = true;
    pthread_join(thread, NULL);
    CHECK(!mem.faulted);
    CHECK(taken > rings / 8 && refused > rings / 8 && stale > rings / 32 && bad_setups > rings / 8);
    v9_mem_clear(&mem);
}
