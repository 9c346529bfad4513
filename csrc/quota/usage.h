/*
 * account: what each file counts for in the usage of a quota (quota/quota.h, which holds the lock).
 *
 * Accounts are found by device and inode number. One that somebody refers to stays. One that nobody
 * does is remembered in the order in which they were left, until its place is needed.
 */
#ifndef V9_QUOTA_USAGE_H
#define V9_QUOTA_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { V9_UNCOUNTED = -1 };

struct v9_usage {
    uint64_t st_dev, st_ino;
    int64_t counted; /* bytes that the usage has of it; V9_UNCOUNTED: it was not changed yet */
    uint64_t looked; /* seq of the look that told so */
    uint32_t refs;
    uint32_t next;         /* in the bucket's chain or the free list; 0 ends it */
    uint32_t older, newer; /* among those that nobody refers to */
    bool gone;             /* it has no names */
};

/* Entry 0 is none, and both ends of the list of those that nobody refers to. */
struct v9_usages {
    uint32_t max, used, free, mask; /* entries; ever handed out; first free one; buckets - 1 */
    uint32_t *buckets;
    struct v9_usage *entries;
    void *map;
    size_t map_size;
};

/* 0 or -errno. Memory is taken as it is needed. */
int v9_usages_init(struct v9_usages *all, uint32_t max);
void v9_usages_destroy(struct v9_usages *all);
/* The index, or 0. A file that has names never is one that has lost them (`gone`); one without may
 * not be known as such. */
uint32_t v9_usages_find(const struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone);
/* One more reference of an account that is found or made; 0 where there is no room. */
uint32_t v9_usages_hold(struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone);
/* Nobody refers to it any more. */
void v9_usages_leave(struct v9_usages *all, uint32_t index);
/* Frees one that is not in the list. */
void v9_usages_forget(struct v9_usages *all, uint32_t index);

#endif
