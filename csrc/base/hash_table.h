/*
 * buckets: a hash table that is as large as what is in it.
 *
 * A table for a million entries that holds ten must not cost what a million does: each look at a
 * bucket that nobody has looked at for a while is a miss in every cache, and takes a page. So only
 * as many buckets are in use as there are entries (linear hashing: W. Litwin, 1980). With each
 * entry too many one more bucket comes into use, which gets its part of one other's chain. So no
 * entry waits for all the others.
 *
 * A chain is linked both ways, and entries keep their order in it when it is divided. They are
 * named by numbers, which say where their links are. The caller has a lock.
 */
#ifndef V9_BASE_HASH_TABLE_H
#define V9_BASE_HASH_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum { V9_BUCKETS_MIN = 1024 }; /* in use from the start: a page */

/* Of an entry that is in the table. */
struct v9_link {
    uint32_t next, before; /* in the chain; 0: none */
    uint32_t hash;
};

struct v9_hash {
    uint32_t *heads;
    uint32_t used, max; /* how many are in use, how many there may be: a power of two */
    uint32_t mask;      /* the least one, of a power of two, that has room for `used` */
    uint32_t count;     /* entries */
    uint8_t *links;     /* the link of the entry that is called `base` */
    size_t stride;      /* from one entry's link to the next one's */
    uint32_t base;
};

/* `heads` are `max` zeros. */
static inline struct v9_hash v9_hash_of(uint32_t *heads, uint32_t max, void *links, size_t stride,
                                        uint32_t base)
{
    const uint32_t used = max < V9_BUCKETS_MIN ? max : V9_BUCKETS_MIN;
    return (struct v9_hash){heads, used, max, used - 1, 0, links, stride, base};
}

static inline uint32_t *v9_hash_head(const struct v9_hash *buckets, uint32_t hash)
{
    const uint32_t at = hash & buckets->mask;
    return &buckets->heads[at < buckets->used ? at : at & buckets->mask >> 1];
}

/* Enters what is not in the table; and takes out what is. */
void v9_hash_enter(struct v9_hash *buckets, uint32_t at, uint32_t hash);
void v9_hash_take_out(struct v9_hash *buckets, uint32_t at);

#endif
