/*
 * Rings of both layouts as a hostile guest and frontend make them, from the bytes of an input.
 * Chains stay within their bounds and name nothing outside guest memory. Between the taking of a
 * chain and its return the ring is stopped and started anew, with another set-up, good or bad: what
 * is written then lies within the ring as it is now, and names the chain; nothing is written for a
 * chain of an earlier one.
 */
#ifndef FUZZ_RINGS_H
#define FUZZ_RINGS_H

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/iov.h"
#include "virtio/virtqueue.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { NUM = 8, MEMORY = 1 << 14, AVAIL_AT = 0x400, USED_AT = 0x800, TABLES_AT = 0x1000 };
enum { HELD = 6, TABLE_DESCS = 64 };

static struct v9_mem mem;
static struct v9_virtqueue ring;
static struct v9_virtqueue_setup setup;
static struct v9_chain held[HELD]; /* in flight, of this ring or of earlier ones */
static uint32_t held_count;
static uint8_t *guest;
static bool guest_is_still = true; /* nobody else writes */
static unsigned long taken, refused, stale, bad_setups;

static inline void create_guest(void)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(v9_mapping_init() == 0 && ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&mem, GPA, MEMORY);
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

/* A descriptor that is nearly right, so that checks behind the first are reached: in four bytes; or
 * a wrong one, in two more and what they ask for. */
static inline void write_desc(struct fuzz_input *in, uint8_t *at, bool packed)
{
    const uint8_t how = fuzz_byte(in), next_and_wrap = fuzz_byte(in);
    uint64_t gpa = GPA + fuzz_byte(in) * (uint64_t)(MEMORY / 256);
    uint32_t len = fuzz_byte(in) * 16u;
    uint16_t flags = how & 7, next = next_and_wrap & (NUM * 2 - 1);

    if (how & 1 << 3)
        gpa = fuzz_take(in, 8);
    if (how & 1 << 4)
        len = (uint32_t)fuzz_take(in, 4);
    if (how & 1 << 5)
        flags = (uint16_t)fuzz_take(in, 2);
    if (how & 1 << 6)
        next = (uint16_t)fuzz_take(in, 2);
    if (how & 1 << 7)
        gpa = GPA + TABLES_AT + (gpa & 0x3f0);
    if (packed) /* the wrap counters that make it available or used */
        flags |= (uint16_t)((next_and_wrap & 0x40) << 1 | (next_and_wrap & 0x80) << 8);
    memcpy(at, &gpa, 8);
    memcpy(at + 8, &len, 4);
    memcpy(at + 12, packed ? &next : &flags, 2);
    memcpy(at + 14, packed ? &flags : &next, 2);
}

static inline void write_ring(struct fuzz_input *in)
{
    uint8_t count = fuzz_byte(in) % TABLE_DESCS;

    for (uint32_t i = 0; i < NUM; i++)
        write_desc(in, guest + i * 16, setup.packed);
    for (uint32_t i = 0; i < count; i++)
        write_desc(in, guest + TABLES_AT + i * 16, setup.packed);
    for (uint32_t i = 0; !setup.packed && i < NUM; i++) {
        const uint8_t which = fuzz_byte(in);
        const uint16_t head = which < 0xf0 ? which % NUM : which;
        memcpy(guest + AVAIL_AT + 4 + i * 2, &head, 2);
    }
}

/* Any two bytes of the ring, its event areas and its indices; the tables. */
static inline void write_anywhere(struct fuzz_input *in)
{
    const uint16_t at = (uint16_t)fuzz_take(in, 2) % (MEMORY - 1), value = fuzz_byte(in);

    memcpy(guest + at, &value, 2);
}

/* ---- the frontend ------------------------------------------------------------------------------
 */

/* A set-up that is nearly right; its parts may overlap. */
static inline void choose_setup(struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in), wrong = fuzz_byte(in);

    setup = (struct v9_virtqueue_setup){.num = how & 1 ? fuzz_below(in, NUM) + 1 : NUM,
                                        .base = how & 2 ? 0x80008000 : 0,
                                        .desc_uva = UVA,
                                        .avail_uva = UVA + AVAIL_AT,
                                        .used_uva = UVA + USED_AT,
                                        .event_idx = how & 4,
                                        .indirect = how & 8,
                                        .packed = how & 16};
    if (how & 32)
        setup.base = (uint32_t)fuzz_take(in, 4) & (setup.packed ? UINT32_MAX : UINT16_MAX);
    if (wrong & 1)
        setup.num = (uint32_t)fuzz_take(in, 3);
    if (wrong & 2)
        setup.base = (uint32_t)fuzz_take(in, 4);
    if (wrong & 4)
        setup.desc_uva = UVA + MEMORY - 16 * fuzz_below(in, NUM + 1);
    if (wrong & 8)
        setup.used_uva = UVA + MEMORY - 4 * fuzz_below(in, NUM + 1);
    if (wrong & 16)
        setup.avail_uva = UVA + fuzz_take(in, 2);
    if (wrong & 32)
        setup.desc_uva = fuzz_take(in, 8);
}

/* Stops the ring and starts it with another set-up, which may be refused. */
static inline void restart(struct fuzz_input *in)
{
    uint16_t idx;

    choose_setup(in);
    write_ring(in);
    idx = (uint16_t)(setup.base + fuzz_byte(in) % (NUM + 2));
    if (!setup.packed)
        memcpy(guest + AVAIL_AT + 2, &idx, 2);
    if (v9_virtqueue_start(&ring, &setup, &mem)) {
        bad_setups++;
        CHECK(!v9_virtqueue_is_live(&ring) && !ring.running);
    } else {
        CHECK(v9_virtqueue_is_live(&ring));
    }
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* Every segment is guest memory, all of it. */
static inline void check_segments(const struct v9_chain *chain)
{
    for (uint32_t i = 0; i < chain->readable_count + chain->writable_count; i++) {
        const uint8_t *base = chain->iov[i].iov_base;
        CHECK(base >= guest && base < guest + MEMORY);
        CHECK(chain->iov[i].iov_len && chain->iov[i].iov_len <= (size_t)(guest + MEMORY - base));
    }
}

static inline size_t size_of(const struct iovec *iov, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

/* Copies what it has to where it can be written, which may be the ring itself. */
static inline void use_chain(const struct v9_chain *chain)
{
    static uint8_t copy[MEMORY];
    const struct iovec *writable = chain->iov + chain->readable_count;

    CHECK(chain->readable_count + chain->writable_count <= V9_CHAIN_MAX);
    check_segments(chain);
    CHECK(size_of(chain->iov, chain->readable_count) == chain->readable_size);
    CHECK(size_of(writable, chain->writable_count) == chain->writable_size);
    v9_iov_gather(chain->iov, chain->readable_count, 0, copy, sizeof(copy));
    v9_iov_scatter(writable, chain->writable_count, 0, copy, sizeof(copy));
}

/* Of a copy of memory, clears what the ring as it is now has for the device to write. */
static inline void clear_rings(uint8_t *copy)
{
    if (setup.packed)
        memset(copy + (setup.desc_uva - UVA), 0, 16 * setup.num);
    memset(copy + (setup.used_uva - UVA), 0, setup.packed ? 4 : 6 + 8 * setup.num);
}

/* A push is one element of the used ring, or one descriptor of a packed one: the chain's. */
static inline void check_pushed(const struct v9_chain *chain, uint32_t written, uint16_t used_idx,
                                struct v9_place at)
{
    const uint8_t *used = guest + (setup.used_uva - UVA);
    struct v9_desc desc;
    uint32_t element[2];
    uint16_t idx;

    if (setup.packed) {
        memcpy(&desc, guest + (setup.desc_uva - UVA) + at.index.value * sizeof(desc), sizeof(desc));
        CHECK(desc.flags_or_id == chain->head && desc.len == written);
        CHECK(!(desc.next_or_flags & 1 << 7) == !at.wrap_counter);
        CHECK(!(desc.next_or_flags & 1 << 15) == !at.wrap_counter);
        return;
    }
    memcpy(&idx, used + 2, sizeof(idx));
    memcpy(element, used + 4 + used_idx % setup.num * sizeof(element), sizeof(element));
    CHECK(idx == (uint16_t)(used_idx + 1));
    CHECK(element[0] == chain->head && element[1] == written);
}

static inline void check_written(uint8_t before[MEMORY], bool pushed)
{
    static uint8_t after[MEMORY];

    memcpy(after, guest, MEMORY);
    if (pushed) {
        clear_rings(before);
        clear_rings(after);
    }
    CHECK(!memcmp(before, after, MEMORY));
}

static inline void give_back(const struct v9_chain *chain, uint32_t written)
{
    static uint8_t before[MEMORY];
    const bool belongs = v9_virtqueue_is_live(&ring) && chain->generation == ring.generation;
    const uint16_t used_idx = ring.used_idx;
    const struct v9_place at = ring.push_at;
    bool pushed;

    memcpy(before, guest, MEMORY);
    pushed = v9_virtqueue_push(&ring, chain, written);
    CHECK(pushed == belongs);
    stale += !pushed;
    if (guest_is_still && pushed)
        check_pushed(chain, written, used_idx, at);
    if (guest_is_still)
        check_written(before, pushed);
    if (pushed)
        v9_virtqueue_should_signal(&ring);
}

/* Takes a chain, uses it and keeps it. False: none came. */
static inline bool take_one(void)
{
    const int found = v9_virtqueue_peek(&ring);

    if (found == 1 && v9_virtqueue_pop(&ring, &mem, &held[held_count]) == 0) {
        taken++;
        use_chain(&held[held_count++]);
        return true;
    }
    refused += ring.broken != NULL;
    CHECK(found == 0 || (v9_virtqueue_peek(&ring) == -EPROTO && ring.broken));
    return false;
}

static inline void step(struct fuzz_input *in)
{
    const uint8_t what = fuzz_byte(in);
    const uint32_t which = held_count ? what / 16 % held_count : 0;

    if (what % 16 == 15) {
        restart(in);
    } else if (what % 16 == 14) {
        write_anywhere(in);
    } else if (what % 16 == 13 && v9_virtqueue_is_live(&ring)) {
        v9_virtqueue_disable_notification(&ring);
    } else if (held_count == HELD || (held_count && what & 8)) {
        give_back(&held[which], (uint32_t)fuzz_take(in, 2));
        held[which] = held[--held_count];
    } else if (v9_virtqueue_is_live(&ring) && !take_one()) {
        v9_virtqueue_enable_notification(&ring);
    }
}

/* What an input says, from an empty memory on. */
static inline void run_rings(struct fuzz_input *in)
{
    if (guest_is_still)
        memset(guest, 0, MEMORY);
    held_count = 0;
    restart(in);
    while (fuzz_left(in))
        step(in);
    while (held_count)
        give_back(&held[--held_count], 0);
    v9_virtqueue_stop(&ring);
}

#endif
