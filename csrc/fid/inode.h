/*
 * inode: the host files that fids stand for.
 *
 * A inode is one file, reached through one export. Fids of one file share its inode, and with it
 * the O_PATH descriptor; so a clone costs no system call, and a thousand users of a file hold one
 * descriptor. A inode is found by what tells files apart for certain while a descriptor of the one
 * is held: device, mount, inode number and birth time.
 *
 * The descriptor names the file by the way in which it was reached (proc(5): /proc/self/fd shows a
 * path). Where that matters, in sessions whose requests remove or rename a file by its fid, inodes
 * are not shared: each walk makes its own. Elsewhere the newest way counts: a file whose time of
 * change is another one may have other names, and gets the descriptor of the latest walk.
 *
 * A bucket's chain has those that may be looked for: shared inodes, and parked ones, which are
 * brought back before their file loses a name. A guest may have any number of inodes of one file
 * that are not shared; awake they are in no chain, and none costs more to enter or to leave it than
 * another.
 *
 * A inode outlives its last fid for a while (fid/cached.h), with its descriptor, so that the next
 * walk to the file need not open it: it has no references then, and is in a list of its own.
 *
 * Under pressure for descriptors a inode that no request uses is parked (fid/evict.h): it has no
 * descriptors then, but a way to its file (fid/recipe.h). Nodes that have theirs form a list, by
 * which those are found that have not been used for long.
 *
 * Nodes live in the fid table's arena and are guarded by its lock; fields that never change while
 * a fid holds the inode may be read without it.
 */
#ifndef V9_FID_INODE_H
#define V9_FID_INODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/budget.h"
#include "base/hash_table.h"
#include "fid/evicted.h"
#include "quota/quota.h"
#include "vhost9p.h"

/* Two cache lines: what every request looks at, and what finds the inode again. */
struct v9_inode {
    _Alignas(64) uint16_t export;    /* index of the device's export */
    uint16_t mode;                   /* st_mode when it was walked to: the file type holds */
    uint16_t changing;               /* fid/known_size.h: requests at work that change the size */
    bool shared;                     /* later walks may find it */
    bool btime_conclusive;           /* parked: the key still stands for this file alone */
    bool recent;                     /* used since it was looked at for parking */
    bool parking : 1, returning : 1; /* a thread gives the descriptors up; gets them back */
    bool openable;     /* path_fd has told itself that it is a regular file or a directory */
    bool lasting;      /* may linger: a walk would have met it, and it lost no name since */
    uint32_t refs;     /* fids, and walks that stand on it; 0: it lingers */
    uint32_t pins;     /* of those, the ones in use */
    int32_t path_fd;   /* O_PATH; -1: parked, which no pinned one is */
    int32_t meta_fd;   /* metadata file (mapped/mapped.h), -1: none, or not known yet */
    uint32_t account;  /* quota/quota.h; 0: its export has no quota */
    uint32_t opens;    /* of those fids, those that are open */
    uint32_t way;      /* parked: where in inodes->park */
    struct v9_qid qid; /* when it was last walked to: the path and the type hold (v9_inode_qid) */
    union {
        uint32_t left; /* it lingers: v9_cached_now() of when that began */
        uint32_t
            walked; /* it does not: its fids that a walk of names has made (fid/known_size.h) */
    };
    uint32_t older, newer; /* index + 1 in its list of those with descriptors */
    struct v9_link link;   /* by the key; `next` is index + 1 in the free list */

    uint64_t st_dev, st_ino, mnt_id, btime; /* with export: the key; btime in ns, 0 if unknown */
    uint64_t changed;                       /* ctime in ns, when it was last walked to */
    uint64_t told; /* fid/known_size.h: the client's size + 1; 0: not known */
};
_Static_assert(sizeof(struct v9_inode) == 128, "a inode is two cache lines");

/* A file that was just reached. */
struct v9_found {
    int32_t path_fd, meta_fd; /* meta_fd -1: none */
    uint32_t export;
    const struct v9_attr *attr;
};

/* Nodes with descriptors, from the one that was not used for longest. */
struct v9_inode_list {
    uint32_t oldest, newest; /* index + 1 */
    uint32_t count;
};

struct v9_inodes {
    uint32_t max;         /* capacity of entries */
    uint32_t count, used; /* live inodes; entries ever handed out */
    uint32_t free;        /* index + 1 of the first free entry */
    bool unshared;        /* each walk makes a inode of its own */
    struct v9_hash files;
    struct v9_inode *entries;
    v9_quota *quotas[V9_EXPORTS_MAX]; /* by the export's index; NULL: none */
    uint64_t keeps[V9_EXPORTS_MAX];   /* likewise; the mount whose inodes may linger; 0: none */
    struct v9_inode_list awake;       /* those with references */
    struct v9_inode_list lingering;   /* those without */
    uint32_t lasting[2];              /* how many may linger, or do: of files, of directories */
    uint32_t misses;                  /* of v9_inodes_meet (v9_inodes_may_meet) */
    struct v9_evicted park;
    uint32_t account; /* that the descriptors count to (base/budget.h) */
};

/* What is to be closed (-1: none) and released (0: none) once the lock is released. */
struct v9_inode_fds {
    int32_t path_fd, meta_fd;
    uint32_t account;
    v9_quota *quota;
    int32_t anchor_fd; /* of a mount on which nothing is parked any more */
    bool lingers;      /* a inode began to linger */
};
#define V9_INODE_FDS_NONE ((struct v9_inode_fds){-1, -1, 0, NULL, -1, false})

/*
 * The inode of a file, with one more reference: index + 1, or 0 where the table is full. Takes the
 * descriptors of `found` over: they are the inode's now, or in *spare. So it does with *account, if
 * that is 0 afterwards; exports with a quota need one (v9_quota_acquire).
 */
uint32_t v9_inodes_hold(struct v9_inodes *inodes, const struct v9_found *found, uint32_t *account,
                        struct v9_inode_fds *spare);
/*
 * The inode of a file that a stat by name has just told of, with one more reference, if there is
 * one with a descriptor that need not be renewed; else 0.
 */
uint32_t v9_inodes_meet(struct v9_inodes *inodes, uint32_t export, const struct v9_attr *attr);
/* Whether a descriptor of a file that lingers stands for the name that a walk has come by. A file
 * of several is opened by each, for requests that remove or rename it by its fid. */
bool v9_inodes_has_one_name(const struct v9_attr *attr);
/*
 * Whether it is worth a stat to try that, and to let the file linger to be met next time. Where it
 * is mostly in vain, as for names that were never looked up before, it is worth it for a sample of
 * names only, which tells when that changes.
 */
bool v9_inodes_may_meet(const struct v9_inodes *inodes, uint32_t export, uint64_t dir,
                        const char *name);
/* Whether inodes of an export outlive their fids. */
static inline bool v9_inodes_keep(const struct v9_inodes *inodes, uint32_t export)
{
    return inodes->keeps[export] != 0 && !__atomic_load_n(&inodes->unshared, __ATOMIC_RELAXED);
}
/* A inode may linger from now on, or may not. */
void v9_inode_set_lasting(struct v9_inodes *inodes, uint32_t index, bool lasting);
/* Ends a inode that lingers. */
void v9_inode_end(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare);
/* Drops a reference. The descriptors of a inode that ends go to *spare. */
void v9_inodes_drop(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare);
/* A inode that is not used, whose way is stored as `way`, gives its descriptors up to *spare. */
void v9_inode_park(struct v9_inodes *inodes, uint32_t index, uint32_t way,
                   struct v9_inode_fds *spare);
/* A parked inode has a descriptor again, which is its own now. */
void v9_inode_wake(struct v9_inodes *inodes, uint32_t index, int32_t path_fd,
                   struct v9_inode_fds *spare);
/* Moves a inode to the list's end. */
void v9_inode_renew(struct v9_inodes *inodes, uint32_t index);
/* The next inode of a file after `index` (0: the first), whatever its export; 0: no more. */
uint32_t v9_inodes_of(struct v9_inodes *inodes, uint64_t st_dev, uint64_t st_ino, uint32_t index);
/* Of a inode that is referred to: its version may be renewed any time. */
static inline struct v9_qid v9_inode_qid(const struct v9_inode *inode)
{
    const uint32_t version = __atomic_load_n(&inode->qid.version, __ATOMIC_RELAXED);
    return (struct v9_qid){inode->qid.type, version, inode->qid.path};
}
/* With the lock held. */
static inline void v9_inode_renew_version(struct v9_inode *inode, uint32_t version)
{
    __atomic_store_n(&inode->qid.version, version, __ATOMIC_RELAXED);
}
static inline struct v9_identity v9_inode_identity(const struct v9_inode *inode)
{
    return (struct v9_identity){inode->st_dev, inode->st_ino, inode->mnt_id, inode->btime};
}
/* Whether two inodes are of one file, as long as what tells that is certain of both. */
bool v9_inodes_are_same(const struct v9_inodes *inodes, uint32_t one, uint32_t other);
/* Whether this is the file that a inode stands for; never, where that is not certain. */
bool v9_inode_is(const struct v9_inodes *inodes, uint32_t index, const struct v9_attr *attr);
void v9_inode_fds_close(const struct v9_inode_fds *spare);
/* Gives a inode its metadata file unless it has one already: what is to be closed then, else -1.
 * Needs no lock, only a reference. */
int32_t v9_inode_adopt(struct v9_inode *inode, int32_t meta_fd);

#endif
