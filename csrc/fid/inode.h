/*
 * inode: the host files that fids stand for, and their descriptors.
 *
 * An inode is one file, reached through one export. Fids of one file share its inode, and with it
 * the O_PATH descriptor: a clone costs no system call, and a thousand users of a file hold one
 * descriptor. The table finds an inode by what identifies a file while a descriptor of it is held:
 * device, mount, inode number and birth time (btime).
 *
 * An inode is in one of three states:
 *
 *   open     it has references and a descriptor; in the list `open`, least recently used first
 *   cached   it has no references and keeps its descriptor for a grace period; in the list `cached`
 *   evicted  it has references and no descriptor, but a recipe to reopen it (fid/recipe.h)
 *
 * Cached: a stat by the guest is a walk, a request for attributes and a clunk, and guests ask for
 * the same files again. The next walk finds a cached inode by a stat of the name
 * (v9_inodes_lookup), which costs a third of opening and closing. Cached inodes must not keep what
 * the host wants to be rid of, so only inodes on the mount of the export's root are cached. A file
 * that the host deletes keeps its blocks for the grace period: a second at most. When the guest
 * takes a file's name away, its cached inode is dropped at once, or with the last fid
 * (fid/renames.h); everything cached is dropped with the session. Inodes with a quota's account or
 * a metadata file are never cached. Nothing is cached while more than half of the device's share
 * of descriptors is in use (base/budget.h).
 *
 * The descriptor names the file by the path by which it was reached (proc(5): /proc/self/fd). In
 * sessions whose requests remove or rename a file by its fid that matters, so inodes are not shared
 * there: each walk makes its own. Elsewhere the newest path counts: a file whose ctime has changed
 * may have other names, and gets the descriptor of the latest walk.
 *
 * A hash chain has the inodes that may be looked up: shared ones, and evicted ones, which are
 * restored before their file loses a name. Open inodes that are not shared are in no chain; a guest
 * may have any number of them for one file, and none makes another slower.
 *
 * Inodes live in the fid table's arena and are guarded by its lock. Fields that never change while
 * a fid refers to the inode may be read without it.
 */
#ifndef V9_FID_INODE_H
#define V9_FID_INODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/budget.h"
#include "base/hash_table.h"
#include "base/index_list.h"
#include "fid/api.h"
#include "fid/deferred.h"
#include "fid/recipe_store.h"

enum { V9_CACHED_MAX = 4096 }; /* inodes of one table */

/* Two cache lines: what every request looks at, and what finds the inode again. */
struct v9_inode {
    _Alignas(64) uint16_t export; /* index of the device's export */
    uint16_t mode;                /* st_mode when it was walked to: the file type holds */
    uint16_t resizing;            /* requests at work that change the size (fid/known_size.h) */
    bool shared;                  /* later walks may find it */
    bool btime_conclusive;        /* evicted: the key still identifies this file alone */
    bool used_lately;             /* used since the eviction clock passed it */
    bool evicting : 1;            /* a thread is evicting it */
    bool restoring : 1;           /* a thread is reopening it */
    bool keeps_version : 1;       /* the client knows it by qid.version (fid/forget.h) */
    bool openable;                /* path_fd is known to be a regular file or a directory */
    bool cacheable;               /* a walk would find it, and it has lost no name since */
    uint32_t refs;                /* fids, and walks that are at it; 0: cached */
    uint32_t pins;                /* of those, the ones in use */
    int32_t path_fd;              /* O_PATH; -1: evicted, which no pinned one is */
    int32_t meta_fd;              /* metadata file (mapped/mapped.h), -1: none, or not known yet */
    uint32_t account;             /* quota/quota.h; 0: its export has no quota */
    uint32_t open_fids;           /* of those fids, the open ones */
    uint32_t recipe;              /* evicted: where its recipe is in inodes->recipes */
    struct v9_qid qid; /* when it was last walked to: path and type hold (v9_inode_qid) */
    union {
        uint32_t cached_since; /* cached: v9_sweeper_now() of when that began */
        uint32_t walked_fids;  /* else: its fids that a walk of names made (fid/known_size.h) */
    };
    struct v9_list_link lru; /* in the list of its state */
    struct v9_link link;     /* by the key; `next` is index + 1 in the free list */

    uint64_t st_dev, st_ino, mnt_id, btime; /* with export: the key; btime in ns, 0 if unknown */
    uint64_t ctime;                         /* in ns, when it was last walked to */
    uint64_t known_size; /* the client's size + 1; 0: not known (fid/known_size.h) */
};
_Static_assert(sizeof(struct v9_inode) == 128, "an inode is two cache lines");

/* A file that was just reached. */
struct v9_found {
    int32_t path_fd, meta_fd; /* meta_fd -1: none */
    uint32_t export;
    const struct v9_attr *attr;
};

struct v9_inodes {
    uint32_t max;         /* capacity of entries */
    uint32_t count, used; /* live inodes; entries ever handed out */
    uint32_t free;        /* index + 1 of the first free entry */
    bool unshared;        /* each walk makes an inode of its own */
    struct v9_hash files;
    struct v9_inode *entries;
    v9_quota *quotas[V9_EXPORTS_MAX];       /* by the export's index; NULL: none */
    uint64_t cached_mounts[V9_EXPORTS_MAX]; /* likewise: the mount that is cached; 0: none */
    uint32_t exports; /* how many are served, for who recovers; 0: not known */
    struct v9_list open, cached;
    uint32_t cacheable[2]; /* how many are cacheable: of files, of directories */
    uint32_t misses;       /* of v9_inodes_lookup (v9_inodes_worth_lookup) */
    struct v9_recipe_store recipes;
    uint32_t account; /* whose descriptors these are (base/budget.h) */
};

/* Whether there is such an export, as far as that is known after a death. */
static inline bool v9_inodes_has_export(const struct v9_inodes *inodes, uint32_t export)
{
    return export < V9_EXPORTS_MAX && (!inodes->exports || export < inodes->exports);
}

/* Whether an inode cannot be reopened, ever (fid/lost.h). */
static inline bool v9_inode_is_lost(const struct v9_inode *inode)
{
    return inode->path_fd < 0 && inode->recipe == V9_RECIPE_NONE;
}

/* `entries` are `max` zeros, `heads` as many as the hash table's buckets. */
void v9_inodes_init(struct v9_inodes *inodes, struct v9_inode *entries, uint32_t max,
                    uint32_t *heads, uint32_t buckets);

static inline struct v9_inode *v9_inode_at(const struct v9_inodes *inodes, uint32_t index)
{
    return &inodes->entries[index - 1];
}

/*
 * The inode of a file, with one more reference: index + 1, or 0 where the table is full. Takes over
 * the descriptors of `found`: they are the inode's now, or deferred. It takes over *account if that
 * is 0 afterwards; exports with a quota need one (v9_quota_acquire).
 */
uint32_t v9_inodes_acquire(struct v9_inodes *inodes, const struct v9_found *found,
                           uint32_t *account, struct v9_deferred *deferred);
/*
 * The inode of a file that a stat by name has just described, with one more reference, if there is
 * one whose descriptor need not be replaced; else 0.
 */
uint32_t v9_inodes_lookup(struct v9_inodes *inodes, uint32_t export, const struct v9_attr *attr);
/*
 * Whether v9_inodes_lookup is worth a stat of this name, and the file worth caching for the next
 * time. Where lookups mostly fail, as for names that are used once, they are worth it for a sample
 * of names only, which notices when that changes.
 */
bool v9_inodes_worth_lookup(const struct v9_inodes *inodes, uint32_t export, uint64_t dir,
                            const char *name);
/* Whether the descriptor of a cached file stands for the name that a walk has come by. A file of
 * several names is opened by each, for requests that remove or rename it by its fid. */
bool v9_inodes_has_one_name(const struct v9_attr *attr);
/* Whether inodes of an export are cached after their last fid. */
static inline bool v9_inodes_may_cache(const struct v9_inodes *inodes, uint32_t export)
{
    return inodes->cached_mounts[export] != 0 &&
           !__atomic_load_n(&inodes->unshared, __ATOMIC_RELAXED);
}
void v9_inode_set_cacheable(struct v9_inodes *inodes, uint32_t index, bool cacheable);
/* Drops a cached inode. */
void v9_inode_uncache(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred);
/* Drops a reference. With the last one the inode is cached, or ends. */
void v9_inodes_release(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred);
/* Evicts an inode that nobody uses, whose recipe is stored as `recipe`. */
void v9_inode_evict(struct v9_inodes *inodes, uint32_t index, uint32_t recipe,
                    struct v9_deferred *deferred);
/* Gives an evicted inode a descriptor, which it takes over. */
void v9_inode_restore(struct v9_inodes *inodes, uint32_t index, int32_t path_fd,
                      struct v9_deferred *deferred);
/* Without inodes: returns the memory of the entries to the kernel. */
void v9_inodes_trim(struct v9_inodes *inodes);

/* ---- after a death (fid/recover.h) ---- */

/* Forgets all inodes, lists and counts. */
void v9_inodes_recover_begin(struct v9_inodes *inodes);
/* Adds a reference to an inode: enters it with the first one. False where it is not whole. Marks
 * its recipe in `marks` (base/arena.h). */
bool v9_inode_recover(struct v9_inodes *inodes, struct v9_arena_marks *marks, uint32_t index);
/* Gives the inodes of an export accounts of its quota, in which files without names count again. No
 * request runs yet. */
void v9_inodes_hold_accounts(struct v9_inodes *inodes, uint32_t export);
/* Frees the others. */
void v9_inodes_recover_end(struct v9_inodes *inodes);

/* The next inode of a file after `index` (0: the first), whatever its export; 0: no more. */
uint32_t v9_inodes_of_file(struct v9_inodes *inodes, uint64_t st_dev, uint64_t st_ino,
                           uint32_t index);
/* Of an inode that the caller refers to: its version may be renewed any time. */
static inline struct v9_qid v9_inode_qid(const struct v9_inode *inode)
{
    const uint32_t version = __atomic_load_n(&inode->qid.version, __ATOMIC_RELAXED);
    return (struct v9_qid){inode->qid.type, version, inode->qid.path};
}
/* With the lock held. */
static inline void v9_inode_renew_version(struct v9_inode *inode, uint32_t version)
{
    if (!inode->keeps_version)
        __atomic_store_n(&inode->qid.version, version, __ATOMIC_RELAXED);
}
static inline struct v9_identity v9_inode_identity(const struct v9_inode *inode)
{
    return (struct v9_identity){inode->st_dev, inode->st_ino, inode->mnt_id, inode->btime};
}
/* Whether two inodes are of one file; false where the key does not say so for certain. */
bool v9_inodes_are_same(const struct v9_inodes *inodes, uint32_t one, uint32_t other);
/* Whether an inode is of this file; false where the key does not say so for certain. */
bool v9_inode_is_file(const struct v9_inodes *inodes, uint32_t index, const struct v9_attr *attr);
/* Gives an inode its metadata file unless it has one: what the caller has to close then, else -1.
 * Needs no lock, only a reference. */
int32_t v9_inode_adopt(struct v9_inode *inode, int32_t meta_fd);

#endif
