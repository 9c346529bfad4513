// sources: base/arena.c
/*
 * The arena: pieces of all sizes come and go, and none touches another.
 */
#define _GNU_SOURCE
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

TEST(pieces_keep_their_contents_while_others_come_and_go)
{
    enum { SIZE = 6 << 20, PIECES = 400 };
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
    for (int i = 0; i < 200000; i++) {
        const int which = rand_r(&seed) % PIECES;
        if (pieces[which].at) { /* what was put in is still there */
            const uint8_t *piece = v9_arena_at(&arena, pieces[which].at);
            for (size_t k = 0; k < pieces[which].size; k += 7)
                CHECK(piece[k] == (uint8_t)which);
            v9_arena_give(&arena, pieces[which].at, pieces[which].size);
        }
        pieces[which].size = 1 + rand_r(&seed) % (i % 2 ? 200 : V9_ARENA_PIECE);
        pieces[which].at = v9_arena_take(&arena, pieces[which].size);
        full += !pieces[which].at;
        if (pieces[which].at)
            memset(v9_arena_at(&arena, pieces[which].at), which, pieces[which].size);
    }
    CHECK(full > 0 && full < 100000); /* it was full at times, and then had room again */
    free(base);
}
