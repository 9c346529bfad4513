/*
 * dentry: the names by which the guest has reached the files that its fids stand for.
 *
 * A dentry is one name: a component in the directory of another dentry, up to that of an export's
 * root. It knows the inode that the name led to last, and when that was checked. Fids that were
 * reached by one name share its dentry. A *fixed* dentry is not looked up any more: it is an
 * export's root, or what the guest itself has removed or renamed over, which stays the file that it
 * was.
 *
 * The guest's own renames move a dentry, and with it all dentries below. A change by others on the
 * host is noticed when the name is looked up (p9/lookup.c), which binds the dentry to another
 * inode.
 *
 * A walk of several names makes one dentry, whose text has several components. It is split into one
 * for each before anything is done to it, so a walk that is clunked at once costs nothing for the
 * directories between.
 *
 * Dentries lie in the fid table's arena, are named by their offset, and are guarded by the table's
 * lock. Whoever holds a reference may read and write `checked` without it.
 */
#ifndef V9_FID_DENTRY_H
#define V9_FID_DENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/hash_table.h"
#include "base/ticks.h"
#include "fid/inode.h"

struct v9_dentry {
    uint64_t checked;         /* v9_dentry_now() of when the name led to the inode; 0: never */
    uint64_t settled;         /* the file's ctime then, if only a change can make it another */
    uint32_t parent;          /* 0: the root of an export */
    struct v9_link link;      /* while it is hashed */
    uint32_t refs;            /* fids, dentries below it, and who looks at it */
    uint32_t rebound;         /* v9_dentries.rebound when `settled` was read */
    uint32_t inode;           /* index + 1, with a reference; 0: not known, or an export's root */
    struct v9_list_link list; /* while it has several components (`compound`) */
    uint32_t far;             /* where the text is that has no room here; 0: it has */
    uint16_t size, room;      /* of the text, and for it, without the NUL */
    uint16_t export;
    bool fixed, hashed, compound;
    bool gone; /* fixed, since the guest has removed it: there is nothing below it */
    char text[];
};

/* A change of a dentry's name, which is made as a whole even if the process dies in it. */
struct v9_dentry_change {
    uint32_t at; /* the dentry; 0: none is due */
    uint32_t parent, far;
    uint16_t size;
};

struct v9_dentries {
    struct v9_arena *arena;
    struct v9_inodes *inodes;
    struct v9_hash names;
    uint64_t key;             /* odd and random: no guest knows which names share a bucket */
    struct v9_list compounds; /* those of several components */
    uint32_t count;
    uint32_t rebound; /* names that were found to lead elsewhere */
    struct v9_dentry_change change;
    uint32_t roots[V9_EXPORTS_MAX]; /* 0: not made yet */
};

/* How a file was reached: by `text`, of one component or several, from a dentry that the caller
 * keeps, or from the root of an export. */
struct v9_route {
    uint32_t from;    /* a dentry; 0: it is not known by which name */
    int32_t root;     /* index of the export whose root it is instead; -1: none */
    uint32_t ups;     /* directories to go up first */
    uint32_t size;    /* of the text; 0: it is where the route begins */
    const char *text; /* components with a slash between them; need not end with NUL */
    uint64_t now;     /* v9_dentry_now() of before it was looked at */
};

/* Begins an empty table, in zeros, or one that is recovered then: the roots, and a change of a name
 * that is due, stay. `heads` are `buckets` zeros. */
void v9_dentries_init(struct v9_dentries *dentries, struct v9_arena *arena,
                      struct v9_inodes *inodes, uint32_t *heads, uint32_t buckets, uint64_t key);

static inline struct v9_dentry *v9_dentry_at(const struct v9_dentries *dentries, uint32_t at)
{
    return v9_arena_at(dentries->arena, at);
}

/* The time, and how long a look is believed. */
enum { V9_BELIEF = V9_TICKS, V9_SETTLED_BELIEF = 20 * V9_BELIEF };
static inline uint64_t v9_dentry_now(void)
{
    return v9_ticks_now();
}

/* Whether a dentry need not be looked up. A reference is held, the lock need not be. */
static inline bool v9_dentry_is_fresh(const struct v9_dentry *dentry, uint64_t now)
{
    return now - __atomic_load_n(&dentry->checked, __ATOMIC_RELAXED) < V9_BELIEF ||
           __atomic_load_n(&dentry->fixed, __ATOMIC_RELAXED);
}

/* The ctime that proves, if the inode still has it, that the inode still has this name. 0: there is
 * none, since the name was not looked up for too long, or one above it was found replaced. */
uint64_t v9_dentry_settled(const struct v9_dentries *dentries, uint32_t at, uint32_t inode,
                           uint64_t now);
/* The text, with a NUL. */
const char *v9_dentry_text(const struct v9_dentries *dentries, const struct v9_dentry *dentry);
/* The dentry that a route leads to, with one more reference; 0: none, or no room. */
uint32_t v9_dentry_follow(struct v9_dentries *dentries, const struct v9_route *route);
/* The dentry of a component in the directory of another; 0: there is none. */
uint32_t v9_dentry_find(const struct v9_dentries *dentries, uint32_t parent, const char *name);
/* Drops a reference. With the last one the dentry ends: its inode's descriptors go to *spare, and
 * a reference of its parent is to be dropped next, which is returned; else 0. */
uint32_t v9_dentry_drop(struct v9_dentries *dentries, uint32_t at, struct v9_deferred *deferred);
/* The name leads to this inode now, of which a reference is taken over; that of the old one is
 * dropped. */
void v9_dentry_bind(struct v9_dentries *dentries, uint32_t at, uint32_t inode, uint64_t now,
                    struct v9_deferred *deferred);
/* Whether a dentry stands for this inode: its own one, or one of the same file. */
bool v9_dentry_is(const struct v9_dentries *dentries, uint32_t at, uint32_t inode);
/* Splits the dentries of several components. */
void v9_dentry_split_all(struct v9_dentries *dentries);
/* ---- after a death (fid/recover.h) ---- */

/* Finishes a change of names, and empties the table but for the roots, whose pieces it marks in
 * `marks` (base/arena.h). */
void v9_dentries_recover(struct v9_dentries *dentries, struct v9_arena_marks *marks);
/*
 * Enters a dentry and those above it, marks their pieces, and adds a reference; false where it is
 * not whole. One that is not whole above it is left out: what is below stays what it is. `turn`,
 * from 1, is another one in each call. The inode of each gets a reference (v9_inode_recover).
 */
bool v9_dentry_recover(struct v9_dentries *dentries, struct v9_arena_marks *marks, uint32_t at,
                       uint32_t turn);
/* A name of a directory stands for what it was: the guest has removed it (`gone`), or renamed it to
 * where it is not known. */
void v9_dentry_lose(struct v9_dentries *dentries, uint32_t parent, const char *name, bool gone);
/* The guest has renamed. The caller holds `parent`. `again`: a process that died may have entered
 * it already. */
void v9_dentry_move(struct v9_dentries *dentries, uint32_t parent, const char *old, uint32_t into,
                    const char *name, bool again);

#endif
