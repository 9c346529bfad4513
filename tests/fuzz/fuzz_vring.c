// sources: vring.c vring_split.c vring_packed.c guest_mem.c iov.c
/*
 * Rings of both layouts full of random descriptors, heads and tables: chains stay within their
 * bounds and name nothing outside guest memory, and every ring ends empty or broken. First with a
 * guest that holds still while its ring is read, so that a seed says everything; then with one that
 * goes on writing meanwhile. Takes a seed and a number of rings as its arguments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "iov.h"
#include "vring.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { NUM = 16, MEMORY = 1 << 16, RINGS = 40000, AVAIL_AT = 0x1000, USED_AT = 0x2000 };

static struct v9_mem mem;
static struct v9_chain chain;
static uint8_t *guest;
static atomic_bool quiet; /* the other thread is to end */
static unsigned long taken, refused;
static _Thread_local uint64_t random_state;

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
    uint64_t addr = below(8) ? GPA + below(MEMORY) : (uint64_t)random_number() << below(33);
    uint32_t len = below(8) ? below(512) * (below(2) ? 16 : 1) : random_number();
    uint16_t flags = (uint16_t)(below(16) ? below(4) : below(65536));
    uint16_t next = (uint16_t)(below(16) ? below(NUM) : below(65536));

    if (!below(6))
        flags = 4;
    if (!below(40))
        addr = ~(uint64_t)below(4096);
    memcpy(at, &addr, 8);
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
 * them available in one turn or the other. */
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
static void check_segments(void)
{
    for (uint32_t i = 0; i < chain.readable_count + chain.writable_count; i++) {
        const uint8_t *base = chain.iov[i].iov_base;
        CHECK(base >= guest && base < guest + MEMORY);
        CHECK(chain.iov[i].iov_len && chain.iov[i].iov_len <= (size_t)(guest + MEMORY - base));
    }
}

static void use_chain(void)
{
    static uint8_t copy[MEMORY];
    const struct iovec *writable = chain.iov + chain.readable_count;

    if (!CHECK(chain.readable_count + chain.writable_count <= V9_CHAIN_MAX))
        return;
    check_segments();
    CHECK(v9_iov_size(chain.iov, chain.readable_count) == chain.readable_size);
    CHECK(v9_iov_size(writable, chain.writable_count) == chain.writable_size);
    v9_iov_gather(chain.iov, chain.readable_count, 0, copy, sizeof(copy));
    v9_iov_scatter(writable, chain.writable_count, 0, copy, sizeof(copy));
}

static void one_ring(uint32_t num)
{
    struct v9_vring ring = {.num = num,
                            .desc_uva = UVA,
                            .avail_uva = UVA + AVAIL_AT,
                            .used_uva = UVA + USED_AT,
                            .event_idx = below(2),
                            .indirect = below(8)};
    uint16_t idx = (uint16_t)(below(20) ? below(NUM + 1) : below(65536));
    int found;

    if (below(2)) {
        v9_vring_set_packed(&ring, true);
        scramble_packed();
    } else {
        scramble();
        memcpy(guest + AVAIL_AT + 2, &idx, 2);
    }
    CHECK(v9_vring_map(&ring, &mem) == 0);
    for (int steps = 0; (found = v9_vring_peek(&ring)) == 1; steps++) {
        if (!CHECK(steps <= 3 * 65536))
            break;
        if (v9_vring_take(&ring, &mem, &chain) == 0) {
            taken++;
            use_chain(); /* may write over the ring itself */
            v9_vring_push(&ring, &chain, below(1 << 20));
            v9_vring_should_signal(&ring);
        }
        if (steps > 64 && ring.packed)
            return; /* the other thread makes one after the other available */
        if (steps > 64)
            memcpy(guest + AVAIL_AT + 2, &ring.last_avail, 2);
    }
    refused += found != 0;
    CHECK(found == 0 || (found == -EPROTO && ring.broken));
    v9_vring_arm(&ring);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, other = seed + 1;
    const long rings = argc > 2 ? atol(argv[2]) : RINGS;
    int fd = memfd_create("guest", MFD_CLOEXEC);
    pthread_t thread;

    random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    CHECK(v9_mem_init() == 0 && ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    for (long i = 0; i < rings; i++)
        one_ring(NUM);
    CHECK(taken > (unsigned long)rings / 4 && refused > (unsigned long)rings / 4);
    CHECK(pthread_create(&thread, NULL, go_on_writing, &other) == 0);
    for (long i = 0; i < rings; i++)
        one_ring(NUM);
    quiet = true;
    pthread_join(thread, NULL);
    CHECK(!mem.faulted);
    v9_mem_clear(&mem);
    return check_report();
}
