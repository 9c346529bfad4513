/*
 * usage: what each file counts for in the usage of a quota (quota/quota.h, which holds the lock).
 *
 * Accounts are found by device and inode number. An account with references stays. One without is
 * remembered until its place is needed, the longest unused one first.
 */
#ifndef V9_QUOTA_USAGE_H
#define V9_QUOTA_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { V9_UNCOUNTED = -1 };

struct v9_usage {
    uint64_t st_dev, st_ino;
    int64_t counted; /* bytes of it in the usage; V9_UNCOUNTED: it was not changed yet */
    uint64_t looked; /* sequence number of the look that found so */
    uint32_t refs;
    uint32_t next;         /* in the bucket's chain or the free list; 0 ends it */
    uint32_t older, newer; /* among those without references */
    bool gone;             /* it has no names */
};

/* Entry 0 is no account: it is both ends of the list of those without references. */
struct v9_usages {
    uint32_t max, used, free, mask; /* entries; ever handed out; first free one; buckets - 1 */
    uint32_t *buckets;
    struct v9_usage *entries;
    void *map;
    size_t map_size;
};

/* The memory of so many entries, in bytes. */
size_t v9_usages_size(uint32_t max);
/* 0 or -errno. Memory is taken as it is needed. */
int v9_usages_init(struct v9_usages *all, uint32_t max);
void v9_usages_destroy(struct v9_usages *all);
/* The index, or 0. A file with names is never one that has lost them (`gone`); the account of one
 * without names may not say so yet. */
uint32_t v9_usages_find(const struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone);
/* Adds a reference to an account, which is found or new; 0 where there is no room. */
uint32_t v9_usages_hold(struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone);
/* The last reference has gone. */
void v9_usages_leave(struct v9_usages *all, uint32_t index);
/* Frees one that is not in the list. */
void v9_usages_forget(struct v9_usages *all, uint32_t index);

#endif
