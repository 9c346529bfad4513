// sources: vring.c guest_mem.c iov.c
/*
 * Rings full of random descriptors, heads and tables, changing while they are read: nothing outside
 * guest memory is touched (the sanitizers watch), chains stay within their bounds, and every ring
 * ends empty or broken. Takes a seed as its argument.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "iov.h"
#include "vring.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { NUM = 16, MEMORY = 1 << 16, ROUNDS = 40000, AVAIL_AT = 0x1000, USED_AT = 0x2000 };

static struct v9_mem mem;
static struct v9_chain chain;
static uint8_t *guest;

static uint32_t below(uint32_t bound)
{
    return (uint32_t)rand() % bound;
}

/* A descriptor that is nearly right, so that checks behind the first are reached. */
static void write_desc(uint8_t *at)
{
    uint64_t addr = below(8) ? GPA + below(MEMORY) : (uint64_t)rand() << below(40);
    uint32_t len = below(8) ? below(512) * (below(2) ? 16 : 1) : (uint32_t)rand() << 1;
    uint16_t flags = (uint16_t)(below(16) ? below(4) : below(65536));
    uint16_t next = (uint16_t)(below(16) ? below(NUM) : below(65536));

    if (!below(6))
        flags = 4;
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

static void use_chain(void)
{
    static uint8_t copy[MEMORY];
    const struct iovec *writable = chain.iov + chain.readable_count;

    CHECK(chain.readable_count + chain.writable_count <= V9_CHAIN_MAX);
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
    uint16_t head, idx = (uint16_t)(below(20) ? below(NUM + 1) : below(65536));
    int found;

    scramble();
    memcpy(guest + AVAIL_AT + 2, &idx, 2);
    CHECK(v9_vring_map(&ring, &mem) == 0);
    for (int steps = 0; (found = v9_vring_peek(&ring, &head)) == 1; steps++) {
        if (!CHECK(steps <= 3 * 65536))
            break;
        if (v9_vring_take(&ring, &mem, head, &chain) == 0) {
            use_chain(); /* may write over the ring itself */
            v9_vring_push(&ring, chain.head, below(1 << 20));
            v9_vring_should_signal(&ring);
        }
        if (steps > 64) {
            memcpy(guest + AVAIL_AT + 2, &ring.last_avail, 2);
        }
    }
    CHECK(found == 0 || (found == -EPROTO && ring.broken));
    v9_vring_arm(&ring);
}

int main(int argc, char **argv)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    srand(argc > 1 ? (unsigned)atoi(argv[1]) : 1);
    CHECK(v9_mem_init() == 0 && ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
    for (int i = 0; i < ROUNDS; i++)
        one_ring(NUM);
    v9_mem_clear(&mem);
    return check_report();
}
