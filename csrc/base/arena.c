#include "base/arena.h"

#include <string.h>

void v9_arena_init(struct v9_arena *arena, void *base, size_t size)
{
    const size_t units = size / V9_ARENA_UNIT;

    *arena = (struct v9_arena){.base = base, .used = 1};
    arena->units = units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
}

static uint32_t units_for(size_t size)
{
    return (uint32_t)((size + V9_ARENA_UNIT - 1) / V9_ARENA_UNIT);
}

/* A free piece begins with the offset of the next one of its size. */
static void push(struct v9_arena *arena, uint32_t at, uint32_t units)
{
    memcpy(v9_arena_at(arena, at), &arena->free[units], sizeof(arena->free[units]));
    arena->free[units] = at;
}

static uint32_t pop(struct v9_arena *arena, uint32_t units)
{
    const uint32_t at = arena->free[units];

    memcpy(&arena->free[units], v9_arena_at(arena, at), sizeof(arena->free[units]));
    return at;
}

uint32_t v9_arena_take(struct v9_arena *arena, size_t size)
{
    const uint32_t units = units_for(size);
    uint32_t at;

    if (!units || units >= V9_ARENA_SIZES)
        return 0;
    if (arena->free[units])
        return pop(arena, units);
    if (units <= arena->units - arena->used) {
        at = arena->used;
        arena->used += units;
        return at;
    }
    for (uint32_t larger = units + 1; larger < V9_ARENA_SIZES; larger++)
        if (arena->free[larger]) {
            at = pop(arena, larger);
            push(arena, at + units, larger - units);
            return at;
        }
    return 0;
}

void v9_arena_give(struct v9_arena *arena, uint32_t at, size_t size)
{
    push(arena, at, units_for(size));
}
