/*
 * hash_table: a hash table that uses only as much memory as its entries need.
 *
 * A table for a million entries that holds ten must not cost what a million do: each access to a
 * bucket that was not used for a while misses every cache, and takes a page. So only as many
 * buckets are in use as there are entries (linear hashing: W. Litwin, 1980). Whenever entries
 * outnumber buckets, one more bucket comes into use, and gets its part of another one's chain. So
 * no insertion ever waits for a rehash of the whole table.
 *
 * Chains are linked both ways, and entries keep their order when a chain is split. An entry is
 * named by a number, which also locates its links. The caller holds a lock.
 */
#ifndef V9_BASE_HASH_TABLE_H
#define V9_BASE_HASH_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { V9_BUCKETS_MIN = 1024 }; /* in use from the start: a page */

/* The part of an entry that the table uses. */
struct v9_link {
    uint32_t next, before; /* in the chain; 0: none */
    uint32_t hash;
};

struct v9_hash {
    uint32_t *heads;
    uint32_t used, max; /* buckets in use, and at most: a power of two */
    uint32_t mask;      /* of the smallest power of two that is not below `used` */
    uint32_t count;     /* entries */
    uint8_t *links;     /* the link of entry number `base` */
    size_t stride;      /* from one entry's link to the next one's */
    uint32_t base;
};

/* `heads` are `max` zeros. */
static inline struct v9_hash v9_hash_of(uint32_t *heads, uint32_t max, void *links, size_t stride,
                                        uint32_t base)
{
    const uint32_t used = max < V9_BUCKETS_MIN ? max : V9_BUCKETS_MIN;
    return (struct v9_hash){heads, used, max, used - 1, 0, (uint8_t *)links, stride, base};
}

/* Empties a table, whatever it contains. */
static inline void v9_hash_clear(struct v9_hash *buckets)
{
    memset(buckets->heads, 0, buckets->used * sizeof(*buckets->heads));
    *buckets =
        v9_hash_of(buckets->heads, buckets->max, buckets->links, buckets->stride, buckets->base);
}

static inline uint32_t *v9_hash_head(const struct v9_hash *buckets, uint32_t hash)
{
    const uint32_t at = hash & buckets->mask;
    return &buckets->heads[at < buckets->used ? at : at & buckets->mask >> 1];
}

/* Enters an entry that is not in the table; takes out one that is. */
void v9_hash_enter(struct v9_hash *buckets, uint32_t at, uint32_t hash);
void v9_hash_take_out(struct v9_hash *buckets, uint32_t at);

#endif
