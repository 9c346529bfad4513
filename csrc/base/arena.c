#define _GNU_SOURCE
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { JOIN_PART = 8 }; /* of all units: so many were freed since neighbours were joined last */

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

static bool is_set(const uint64_t *bits, uint32_t at)
{
    return bits[at / 64] >> at % 64 & 1;
}

static void set(uint64_t *bits, uint32_t at)
{
    bits[at / 64] |= (uint64_t)1 << at % 64;
}

static void clear(uint64_t *bits, uint32_t at)
{
    bits[at / 64] &= ~((uint64_t)1 << at % 64);
}

/* Joins free pieces that are neighbours; false: no memory. It takes as long as the arena is large,
 * so that is not done for each request (JOIN_PART). */
static bool join(struct v9_arena *arena)
{
    const size_t words = arena->used / 64 + 1;
    struct v9_arena_marks marks = {.kept = malloc(words * sizeof(uint64_t))};

    if (!marks.kept)
        return false;
    memset(marks.kept, 0xff, words * sizeof(uint64_t));
    for (uint32_t units = 1; units < V9_ARENA_SIZES; units++)
        while (arena->free[units]) {
            const uint32_t at = pop(arena, units);
            for (uint32_t unit = at; unit < at + units; unit++)
                clear(marks.kept, unit);
        }
    v9_arena_keep(arena, &marks);
    v9_arena_marks_free(&marks);
    return true;
}

static uint32_t take(struct v9_arena *arena, uint32_t units)
{
    uint32_t at;

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

uint32_t v9_arena_take(struct v9_arena *arena, size_t size)
{
    const uint32_t units = units_for(size);
    uint32_t at;

    if (!units || units >= V9_ARENA_SIZES)
        return 0;
    at = take(arena, units);
    if (!at && arena->freed >= units && arena->freed >= arena->units / JOIN_PART && join(arena))
        at = take(arena, units);
    return at;
}

void v9_arena_give(struct v9_arena *arena, uint32_t at, size_t size)
{
    const uint32_t units = units_for(size);

    push(arena, at, units);
    arena->freed = units > UINT32_MAX - arena->freed ? UINT32_MAX : arena->freed + units;
}

void v9_memory_return(void *from, void *to)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = ((uintptr_t)from + page - 1) / page * page;
    const uintptr_t end = (uintptr_t)to / page * page;

    if (start < end)
        madvise((void *)start, end - start, MADV_REMOVE); /* else it stays, which does no harm */
}

void v9_arena_trim(struct v9_arena *arena)
{
    const uint32_t before = arena->used;

    if (join(arena))
        v9_memory_return(v9_arena_at(arena, arena->used), v9_arena_at(arena, before));
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
    arena->freed = 0;
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
