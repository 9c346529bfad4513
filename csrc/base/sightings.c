#include "base/sightings.h"

#include <stddef.h>

enum { SLOT_BITS = 10, DESCRIPTORS = 4096 };

/*
 * A slot keeps one sighting of the names that hash to it. `state` counts in its lower part the
 * threads that have the slot, for a change or to enter something, and above that how often one of
 * them came. Who came to an empty slot has it alone until another one comes, and only then reads or
 * writes the sighting, which is good while `state` is that of when it was written.
 */
static struct slot {
    _Alignas(64) uint64_t state;
    uint64_t good;  /* the state in which the sighting is good */
    uint64_t ended; /* v9_ticks_now() of when the last change has */
    uint64_t dir;
    struct v9_sighting seen;
    uint32_t name;
} slots[1 << SLOT_BITS];

enum { THREADS = (1 << 16) - 1, COMING = (1 << 16) + 1 }; /* in `state` */

/* How often descriptors were closed whose number is this one, or that one plus DESCRIPTORS. */
static uint32_t closed[DESCRIPTORS];

uint32_t v9_sightings_hash(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash;
}

static struct slot *slot_of(uint32_t name)
{
    return &slots[(name * 0x9E3779B1u) >> (32 - SLOT_BITS)];
}

static uint64_t directory(int32_t fd)
{
    return (uint64_t)__atomic_load_n(&closed[(uint32_t)fd % DESCRIPTORS], __ATOMIC_RELAXED) << 32 |
           (uint32_t)fd;
}

void v9_sightings_forget(int32_t fd)
{
    __atomic_add_fetch(&closed[(uint32_t)fd % DESCRIPTORS], 1, __ATOMIC_RELAXED);
}

/* Leaves a slot whose state has been `state` since this thread came, with a sighting if it was
 * alone all the time. */
static void leave(struct slot *slot, uint64_t state, uint64_t dir, uint32_t name,
                  const struct v9_sighting *seen)
{
    const bool alone =
        (state & THREADS) == 1 && __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == state;

    if (seen && alone) {
        slot->dir = dir;
        slot->name = name;
        slot->seen = *seen;
        slot->good = state - 1;
    }
    __atomic_sub_fetch(&slot->state, 1, __ATOMIC_RELEASE);
}

void v9_sightings_absent(int32_t dir_fd, const char *name, uint64_t at)
{
    const uint32_t hash = v9_sightings_hash(name);
    const struct v9_sighting none = {.at = at};
    struct slot *slot = slot_of(hash);
    uint64_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

    if (state & THREADS || at <= __atomic_load_n(&slot->ended, __ATOMIC_RELAXED))
        return;
    if (__atomic_compare_exchange_n(&slot->state, &state, state + COMING, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED))
        leave(slot, state + COMING, directory(dir_fd), hash, &none);
}

bool v9_sightings_begin(int32_t dir_fd, const char *name, struct v9_name_change *change,
                        struct v9_sighting *seen)
{
    const uint32_t hash = v9_sightings_hash(name);
    struct slot *slot = slot_of(hash);
    const uint64_t before = __atomic_fetch_add(&slot->state, COMING, __ATOMIC_ACQ_REL);

    *change = (struct v9_name_change){before + COMING, directory(dir_fd), hash};
    if (before & THREADS || slot->good != before || slot->dir != change->dir || slot->name != hash)
        return false;
    *seen = slot->seen;
    return v9_ticks_now() - seen->at < V9_SIGHTING_LASTS;
}

bool v9_sightings_are_unchanged(const struct v9_name_change *change, uint64_t since)
{
    const struct slot *slot = slot_of(change->name);
    const uint64_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

    /* Who has left has noted before when that was. */
    return (state & THREADS) == 1 && __atomic_load_n(&slot->ended, __ATOMIC_RELAXED) < since;
}

void v9_sightings_end(const struct v9_name_change *change, const struct v9_sighting *left)
{
    struct slot *slot = slot_of(change->name);

    __atomic_store_n(&slot->ended, v9_ticks_now(), __ATOMIC_RELAXED);
    leave(slot, change->state, change->dir, change->name, left);
}
