// sources: base/hash_table.c
/*
 * Buckets: a table that grows finds exactly what is in it, the newest first of those with one hash,
 * whatever comes and goes; and has no more buckets in use than it had entries.
 */
#include "base/hash_table.h"

#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

enum { ENTRIES = 6000, BUCKETS = 4096, TURNS = 60000, SAME = 7, STRIDE = 16, BASE = 1 };

static struct {
    _Alignas(STRIDE) struct v9_link link;
    uint32_t age; /* 0: it is not in the table */
} entries[ENTRIES];
static uint32_t heads[BUCKETS];
static struct v9_hash buckets;

/* Several have each hash; the hashes differ in all bits. */
static uint32_t hash_of(uint32_t at)
{
    return at / SAME * 0x9E3779B9u;
}

/* Whether those of a hash, which are in the table, are in its chain in the order of their age. */
static bool is_right(uint32_t hash)
{
    uint32_t age = UINT32_MAX, expected = 0, before = 0;

    for (uint32_t at = BASE; at <= ENTRIES; at++)
        expected += entries[at - BASE].age && hash_of(at) == hash;
    for (uint32_t at = *v9_hash_head(&buckets, hash); at; at = entries[at - BASE].link.next) {
        const uint32_t own = entries[at - BASE].age;
        if (!own || entries[at - BASE].link.before != before)
            return false;
        before = at;
        if (hash_of(at) != hash)
            continue;
        if (own >= age)
            return false;
        age = own;
        expected--;
    }
    return expected == 0;
}

TEST(a_growing_table_finds_what_is_in_it_the_newest_first)
{
    uint32_t most = 0;

    buckets = v9_hash_of(heads, BUCKETS, &entries[0].link, sizeof(entries[0]), BASE);
    srand(1);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        /* It fills first, and half of it goes and comes then. */
        const uint32_t at = BASE + (turn <= ENTRIES ? turn - 1 : (uint32_t)rand() % ENTRIES);
        if (entries[at - BASE].age) {
            v9_hash_take_out(&buckets, at);
            entries[at - BASE].age = 0;
        } else {
            v9_hash_enter(&buckets, at, hash_of(at));
            entries[at - BASE].age = turn;
        }
        most = buckets.count > most ? buckets.count : most;
        CHECK(buckets.used <= (most > V9_BUCKETS_MIN ? most : V9_BUCKETS_MIN));
        if (turn % 16 == 0 || turn < 64)
            CHECK(is_right(hash_of(at)));
    }
    CHECK(buckets.used == BUCKETS);
    for (uint32_t at = BASE; at <= ENTRIES; at += SAME)
        CHECK(is_right(hash_of(at)));
}
