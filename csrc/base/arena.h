/*
 * arena: pieces of memory of any size within one flat arena, named by offset.
 *
 * A piece is so many units of 16 bytes. Freed pieces wait in a list per size; a request takes from
 * the list of its size, else from what was never used, else from a list of larger ones, whose rest
 * goes to the list of its size. Nothing is joined again: what is kept here are paths, whose sizes
 * come back. Its owner's lock guards it.
 */
#ifndef V9_BASE_ARENA_H
#define V9_BASE_ARENA_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

enum {
    V9_ARENA_UNIT = 16,
    V9_ARENA_PIECE = 3 * PATH_MAX, /* bytes of the largest piece */
    V9_ARENA_SIZES = V9_ARENA_PIECE / V9_ARENA_UNIT + 1,
};

struct v9_arena {
    uint8_t *base;                 /* of all offsets */
    uint32_t units, used;          /* capacity; units ever handed out, the first of them never */
    uint32_t free[V9_ARENA_SIZES]; /* by size in units: offset of the first free piece; 0: none */
};

/* `base` is aligned to V9_ARENA_UNIT, all zero, and outlives the arena. */
void v9_arena_init(struct v9_arena *arena, void *base, size_t size);
/* A piece for `size` bytes (1 to V9_ARENA_PIECE): its offset in units, or 0 where there is none. */
uint32_t v9_arena_take(struct v9_arena *arena, size_t size);
/* Gives a piece back that was taken for `size` bytes. */
void v9_arena_give(struct v9_arena *arena, uint32_t at, size_t size);
static inline void *v9_arena_at(const struct v9_arena *arena, uint32_t at)
{
    return arena->base + (size_t)at * V9_ARENA_UNIT;
}

#endif
