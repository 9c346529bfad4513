#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

void v9_arena_init(struct v9_arena *arena, void *base, size_t size)
{
    *arena = (struct v9_arena){.used = 1};
    v9_arena_place(arena, base, size);
}

void v9_arena_place(struct v9_arena *arena, void *base, size_t size)
{
    const size_t units = size / V9_ARENA_UNIT;

    arena->base = base;
    arena->units = units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
    if (!arena->used || arena->used > arena->units)
        arena->used = arena->units;
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

/* ---- after a death --------------------------------------------------------------------------- */

bool v9_arena_marks_init(struct v9_arena_marks *marks, const struct v9_arena *arena)
{
    marks->kept = calloc(arena->used / 64 + 1, sizeof(uint64_t));
    marks->heads = calloc(arena->used / 64 + 1, sizeof(uint64_t));
    return marks->kept && marks->heads;
}

void v9_arena_marks_free(struct v9_arena_marks *marks)
{
    free(marks->kept);
    free(marks->heads);
}

static bool is_set(const uint64_t *bits, uint32_t at)
{
    return bits[at / 64] >> at % 64 & 1;
}

static void set(uint64_t *bits, uint32_t at)
{
    bits[at / 64] |= (uint64_t)1 << at % 64;
}

bool v9_arena_holds(const struct v9_arena *arena, uint32_t at, size_t size)
{
    const uint32_t units = units_for(size);

    return at && units && units < V9_ARENA_SIZES && at < arena->used && units <= arena->used - at;
}

bool v9_arena_mark(const struct v9_arena *arena, struct v9_arena_marks *marks, uint32_t at,
                   size_t size)
{
    const uint32_t end = at + units_for(size);

    if (!v9_arena_holds(arena, at, size))
        return false;
    for (uint32_t unit = at; unit < end; unit++)
        if (is_set(marks->kept, unit))
            return false;
    for (uint32_t unit = at; unit < end; unit++)
        set(marks->kept, unit);
    return true;
}

void v9_arena_mark_head(struct v9_arena_marks *marks, uint32_t at)
{
    set(marks->heads, at);
}

bool v9_arena_is_head(const struct v9_arena *arena, const struct v9_arena_marks *marks, uint32_t at)
{
    return at < arena->used && is_set(marks->heads, at);
}

void v9_arena_keep(struct v9_arena *arena, const struct v9_arena_marks *marks)
{
    uint32_t end, units;

    memset(arena->free, 0, sizeof(arena->free));
    while (arena->used > 1 && !is_set(marks->kept, arena->used - 1))
        arena->used--;
    for (uint32_t at = 1; at < arena->used; at = end) {
        end = at + 1;
        if (is_set(marks->kept, at))
            continue;
        while (!is_set(marks->kept, end))
            end++;
        for (; at < end; at += units) {
            units = end - at < V9_ARENA_SIZES ? end - at : V9_ARENA_SIZES - 1;
            push(arena, at, units);
        }
    }
}
