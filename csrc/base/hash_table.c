#include "base/hash_table.h"

static struct v9_link *link_at(const struct v9_hash *buckets, uint32_t at)
{
    return (struct v9_link *)(void *)(buckets->links + (at - buckets->base) * buckets->stride);
}

/* Takes an entry out of the chain that begins at `head`. */
static void unlink_from(const struct v9_hash *buckets, uint32_t *head, const struct v9_link *link)
{
    *(link->before ? &link_at(buckets, link->before)->next : head) = link->next;
    if (link->next)
        link_at(buckets, link->next)->before = link->before;
}

/* One more bucket comes into use. What it gets has been in the one whose number lacks its highest
 * bit. */
static void grow(struct v9_hash *buckets)
{
    const uint32_t young = buckets->used++;
    uint32_t *old, at, next, last = 0;

    if (young > buckets->mask)
        buckets->mask = buckets->mask << 1 | 1;
    buckets->heads[young] = 0; /* after a death it holds what it held */
    old = &buckets->heads[young & buckets->mask >> 1];
    for (at = *old; at; at = next) {
        struct v9_link *link = link_at(buckets, at);
        next = link->next;
        if ((link->hash & buckets->mask) != young)
            continue;
        unlink_from(buckets, old, link);
        link->before = last;
        link->next = 0;
        *(last ? &link_at(buckets, last)->next : &buckets->heads[young]) = at;
        last = at;
    }
}

void v9_hash_enter(struct v9_hash *buckets, uint32_t at, uint32_t hash)
{
    struct v9_link *link = link_at(buckets, at);
    uint32_t *head;

    if (++buckets->count > buckets->used && buckets->used < buckets->max)
        grow(buckets);
    head = v9_hash_head(buckets, hash);
    *link = (struct v9_link){*head, 0, hash};
    if (*head)
        link_at(buckets, *head)->before = at;
    *head = at;
}

void v9_hash_take_out(struct v9_hash *buckets, uint32_t at)
{
    const struct v9_link *link = link_at(buckets, at);

    unlink_from(buckets, v9_hash_head(buckets, link->hash), link);
    buckets->count--;
}
