/*
 * arena: allocates pieces of any size within one flat area, and names them by offset.
 *
 * Sizes are rounded up to units of 16 bytes. There is a list of freed pieces for each size. A
 * request takes a piece from the list of its size, else unused memory, else a larger freed piece,
 * whose rest goes to the list of the rest's size. The same sizes come back most often, so freed
 * neighbours are joined only when nothing else is left, and much was freed since the last time: a
 * guest that asks for one size after the other does not lose the room of those that it has given
 * back. The owner's lock guards the arena.
 */
#ifndef V9_BASE_ARENA_H
#define V9_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    V9_ARENA_UNIT = 16,
    V9_ARENA_PIECE = 72 << 10, /* bytes of the largest piece: an attribute's value with its name */
    V9_ARENA_SIZES = V9_ARENA_PIECE / V9_ARENA_UNIT + 1,
};

struct v9_arena {
    uint8_t *base;                 /* of offset 0 */
    uint32_t units, used;          /* capacity; how far it was ever used; offset 0 never is */
    uint32_t freed;                /* units, since neighbours were joined */
    uint32_t free[V9_ARENA_SIZES]; /* by size in units: offset of the first free piece; 0: none */
};

/* `base` is aligned to V9_ARENA_UNIT, all zero, and outlives the arena. */
void v9_arena_init(struct v9_arena *arena, void *base, size_t size);
/* Allocates `size` bytes (1 to V9_ARENA_PIECE): the offset in units, or 0 where no room is left. */
uint32_t v9_arena_take(struct v9_arena *arena, size_t size);
/* Frees a piece that was allocated for `size` bytes. */
void v9_arena_give(struct v9_arena *arena, uint32_t at, size_t size);
/* Returns to the kernel what lies behind the last piece. */
void v9_arena_trim(struct v9_arena *arena);
/* Returns the whole pages of a range to the kernel, which reads as zeros from then on. Without
 * effect on memory that is not shared (MAP_SHARED, with this process alone or with others). */
void v9_memory_return(void *from, void *to);

/* ---- after a death: what is kept ---- */

/* Where an arena lies, and that it ends there; the rest is as it was. */
void v9_arena_place(struct v9_arena *arena, void *base, size_t size);

/* A bit for each unit that was ever used. */
struct v9_arena_marks {
    uint64_t *kept;  /* units that a piece occupies */
    uint64_t *heads; /* where pieces of a kind begin, whose owner has to know them again */
};

/* Marks without any; false: no memory. */
bool v9_arena_marks_init(struct v9_arena_marks *marks, const struct v9_arena *arena);
void v9_arena_marks_free(struct v9_arena_marks *marks);
/* Whether a piece lies in what was ever used. */
bool v9_arena_holds(const struct v9_arena *arena, uint32_t at, size_t size);
/* Marks a piece; false where it lies outside, or overlaps one that is marked. */
bool v9_arena_mark(const struct v9_arena *arena, struct v9_arena_marks *marks, uint32_t at,
                   size_t size);
/* Marks a piece's begin; whether that was done. */
void v9_arena_mark_head(struct v9_arena_marks *marks, uint32_t at);
bool v9_arena_is_head(const struct v9_arena *arena, const struct v9_arena_marks *marks,
                      uint32_t at);
/* Frees whatever is not marked; the free lists are made anew. */
void v9_arena_keep(struct v9_arena *arena, const struct v9_arena_marks *marks);
static inline void *v9_arena_at(const struct v9_arena *arena, uint32_t at)
{
    return arena->base + (size_t)at * V9_ARENA_UNIT;
}

#endif
