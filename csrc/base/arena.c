#include "base/arena.h"

#include <string.h>

void v9_arena_init(struct v9_arena *heap, void *base, size_t size)
{
    const size_t units = size / V9_ARENA_UNIT;

    *heap = (struct v9_arena){.base = base, .used = 1};
    heap->units = units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
}

static uint32_t units_for(size_t size)
{
    return (uint32_t)((size + V9_ARENA_UNIT - 1) / V9_ARENA_UNIT);
}

/* A free piece begins with the offset of the next one of its size. */
static void push(struct v9_arena *heap, uint32_t at, uint32_t units)
{
    memcpy(v9_arena_at(heap, at), &heap->free[units], sizeof(heap->free[units]));
    heap->free[units] = at;
}

static uint32_t pop(struct v9_arena *heap, uint32_t units)
{
    const uint32_t at = heap->free[units];

    memcpy(&heap->free[units], v9_arena_at(heap, at), sizeof(heap->free[units]));
    return at;
}

uint32_t v9_arena_take(struct v9_arena *heap, size_t size)
{
    const uint32_t units = units_for(size);
    uint32_t at;

    if (!units || units >= V9_ARENA_SIZES)
        return 0;
    if (heap->free[units])
        return pop(heap, units);
    if (units <= heap->units - heap->used) {
        at = heap->used;
        heap->used += units;
        return at;
    }
    for (uint32_t larger = units + 1; larger < V9_ARENA_SIZES; larger++)
        if (heap->free[larger]) {
            at = pop(heap, larger);
            push(heap, at + units, larger - units);
            return at;
        }
    return 0;
}

void v9_arena_give(struct v9_arena *heap, uint32_t at, size_t size)
{
    push(heap, at, units_for(size));
}
