// sources: base/arena.c
/*
 * The arena: pieces of all sizes come and go, and none touches another. What was given back can be
 * had again, in whatever sizes.
 */
#define _GNU_SOURCE
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

TEST(pieces_keep_their_contents_while_others_come_and_go)
{
    enum { SIZE = 6 << 20, PIECES = 400, ROUNDS = 50000 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    struct v9_arena arena;
    struct {
        uint32_t at;
        size_t size;
    } pieces[PIECES] = {{0, 0}};
    unsigned seed = 1, full = 0;

    memset(base, 0, SIZE);
    v9_arena_init(&arena, base, SIZE);
    CHECK(v9_arena_take(&arena, 0) == 0 && v9_arena_take(&arena, V9_ARENA_PIECE + 1) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        const int which = rand_r(&seed) % PIECES;
        if (pieces[which].at) { /* what was put in is still there */
            const uint8_t *piece = v9_arena_at(&arena, pieces[which].at);
            bool same = true;
            for (size_t k = 0; k < pieces[which].size; k += 7)
                same = same && piece[k] == (uint8_t)which;
            CHECK(same);
            v9_arena_give(&arena, pieces[which].at, pieces[which].size);
        }
        pieces[which].size = 1 + rand_r(&seed) % (i % 2 ? 200 : V9_ARENA_PIECE);
        pieces[which].at = v9_arena_take(&arena, pieces[which].size);
        full += !pieces[which].at;
        if (pieces[which].at)
            memset(v9_arena_at(&arena, pieces[which].at), which, pieces[which].size);
    }
    CHECK(full > 0 && full < ROUNDS / 2); /* it was full at times, and then had room again */
    free(base);
}

/* A guest that asks for each size in turn, and gives it back, has as much room as before. */
TEST(room_is_not_lost_to_sizes_that_were_given_back)
{
    enum { SIZE = 6 << 20, STEP = 1 << 10 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    struct v9_arena arena;
    uint32_t at, held = 0;

    v9_arena_init(&arena, base, SIZE);
    for (int round = 0; round < 3; round++)
        for (size_t size = STEP; size <= V9_ARENA_PIECE; size += STEP) {
            at = v9_arena_take(&arena, size);
            CHECK(at);
            memset(v9_arena_at(&arena, at), 1, size);
            v9_arena_give(&arena, at, size);
        }
    while (v9_arena_take(&arena, V9_ARENA_PIECE))
        held++;
    CHECK(held >= SIZE / V9_ARENA_PIECE - 2);
    free(base);
}

TEST(joining_leaves_what_is_in_use)
{
    enum { SIZE = 1 << 20, PIECES = SIZE / 64 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    static uint32_t all[PIECES];
    struct v9_arena arena;
    uint32_t count = 0, larger = 0;

    v9_arena_init(&arena, base, SIZE);
    while ((all[count] = v9_arena_take(&arena, 64)))
        memset(v9_arena_at(&arena, all[count]), (int)count % 251, 64), count++;
    CHECK(!v9_arena_take(&arena, 128));
    for (uint32_t i = 0; i < count; i++)
        if (i % 4 < 2)
            v9_arena_give(&arena, all[i], 64);
    while (v9_arena_take(&arena, 128))
        larger++;
    CHECK(larger == (count + 2) / 4);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; i % 4 >= 2 && k < 64; k++)
            CHECK(((uint8_t *)v9_arena_at(&arena, all[i]))[k] == i % 251);
    free(base);
}

static size_t resident(void *base, size_t size)
{
    static unsigned char pages[4096];
    size_t count = 0;

    CHECK(mincore(base, size, pages) == 0);
    for (size_t i = 0; i < size / 4096; i++)
        count += pages[i] & 1;
    return count;
}

TEST(memory_goes_back_behind_the_last_piece)
{
    enum { SIZE = 4 << 20, KEPT = 100 };
    uint8_t *base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct v9_arena arena;
    uint32_t first, at;

    v9_arena_init(&arena, base, SIZE);
    first = v9_arena_take(&arena, KEPT);
    memset(v9_arena_at(&arena, first), 7, KEPT);
    for (int i = 0; i < 1000; i++) {
        at = v9_arena_take(&arena, 4000);
        memset(v9_arena_at(&arena, at), 1, 4000);
    }
    for (int i = 0; i < 1000; i++)
        v9_arena_give(&arena, at - (uint32_t)i * 250, 4000);
    CHECK(resident(base, SIZE) > 900);
    v9_arena_trim(&arena);
    CHECK(resident(base, SIZE) < 5);
    for (int i = 0; i < KEPT; i++)
        CHECK(((uint8_t *)v9_arena_at(&arena, first))[i] == 7);
    CHECK(v9_arena_take(&arena, V9_ARENA_PIECE));
    munmap(base, SIZE);
}
