/*
 * fid: what the numbers that the guest chose stand for.
 *
 * A fid stands for a inode, the file, and holds a descriptor of its own once it was opened. It
 * knows the name by which it was reached (fid/dentry.h); until it is opened it stands for what has
 * that name (p9/lookup.c). Entries live in a flat arena. The kernel's client numbers its fids
 * densely, so an entry is nearly always *at home*, at the index that is its number, and one look
 * finds it. The others, *strays*, are found through a chained hash: those whose number is far
 * beyond all others, or whose home is taken.
 *
 * An entry that a request uses is pinned. Tclunk takes the number away at once; the descriptors
 * close with the last pin. A fid that comes to stand for another file (Twalk onto itself, Tlcreate)
 * gets a new entry, so what a pinned entry stands for never changes: only io_fd is set, once, and
 * flags are added.
 *
 * Several threads may be at one number. What they decide by is looked at under the lock that they
 * change it under: a number goes away, gets another entry or a flag only while it is what it was
 * (v9_fids_remove, v9_fids_enter, v9_fids_mark). Who keeps something for a fid elsewhere, as Python
 * does, keeps it by the handle, stores it first, marks the fid then, and takes it back where that
 * fails; a fid that is marked is clunked by its keeper only, number first.
 *
 * Pinned entries have their descriptors; those that nobody pins may be without (fid/evict.h).
 */
#ifndef V9_FID_FID_H
#define V9_FID_FID_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "fid/dentry.h"
#include "inode.h"
#include "vhost9p.h"

enum { V9_IO_EVICTED = -2 }; /* io_fd of a fid that was opened */

/* What every request looks at is one cache line: with a million fids each look is a miss. */
struct v9_fid {
    _Alignas(64) uint32_t number;
    uint32_t next; /* index + 1 in the free list, else of a stray in its chain; 0 ends it */
    uint32_t refs; /* pins, and one for the number while it is entered */
    uint32_t uid;
    uint32_t flags;     /* V9_FID_* */
    uint32_t inode;     /* index + 1; 0: none, an xattr fid */
    int32_t io_fd;      /* -1 until opened; V9_IO_EVICTED, which no pinned one is */
    int32_t io_flags;   /* open(2) flags of io_fd */
    uint32_t caps_seen; /* export/file_caps.h */
    uint32_t io_older;  /* index + 1 in the list of open fids */
    uint32_t io_newer;
    bool io_recent;    /* used since it was looked at for parking */
    bool io_returning; /* a thread opens it again */
    bool entered;      /* its number leads to it */
    bool stray;        /* led to by its bucket's chain */
    bool listed;       /* in the free list: perhaps taken as a home since */
    uint8_t walked;    /* a walk of names has made it: fid/known_size.h */
    uint32_t life;     /* counts the fids that this entry was */
    uint32_t before;   /* index + 1 of the stray before it in its chain; 0 for the first */
    uint32_t dentry;   /* 0: it stands for its inode, whatever has become of the name */
};
_Static_assert(sizeof(struct v9_fid) == 64, "a fid is one cache line");

/* More of a fid that has a directory open; of others it is not touched, and takes no memory. */
struct v9_fid_dir {
    pthread_mutex_t lock; /* lseek and getdents64 belong together */
    uint64_t offset;      /* d_off where io_fd stands */
};

struct v9_fids {
    pthread_mutex_t lock; /* guards the inodes too */
    struct v9_inodes inodes;
    struct v9_dentries dentries;
    uint32_t max, mask; /* capacity of entries; buckets - 1 */
    uint32_t count;     /* entered numbers */
    uint64_t session;   /* how often the table was cleared */
    uint32_t live;      /* entries with references */
    uint32_t homes;     /* no entry with a greater index was ever at home */
    uint32_t strays;    /* of the entered numbers */
    uint32_t free;      /* index + 1 of the first entry that was handed out and is free again */
    uint32_t unused;    /* entries from here on were handed out to strays */
    uint32_t *buckets;  /* index + 1 of the first stray */
    uint64_t key;       /* odd, and drawn by lot: no guest knows which numbers share a bucket */
    struct v9_fid *entries;
    struct v9_fid_dir *dirs; /* by the entry's index */
    void *map;
    size_t map_size;
    int fd;                            /* the arena's memfd */
    v9_export *const *exports;         /* by index; NULL: nothing is parked */
    uint32_t oldest_open, newest_open; /* index + 1: the list of fids with io_fd */
    uint32_t open_count;               /* how many these are */
    pthread_cond_t returned;           /* something parked is back, or cannot be */
    struct v9_shrinker holder;
};

/* The highest among the flags of a v9_fid_new, which become `walked`: a walk of names has made it,
 * or a fid that was made so moves. */
#define V9_FID_WALKED (1u << 30)
#define V9_FID_MOVED (2u << 30)

/* What a fid that is to be entered is, beside the file that it stands for. */
struct v9_fid_new {
    uint32_t number, uid, flags;
    int32_t io_fd, io_flags;      /* io_fd -1: not open */
    const struct v9_route *route; /* NULL: it is not known by which name */
    uint64_t *handle;             /* where to tell its handle; NULL: nowhere */
};

/* `exports`, of the device, by index, outlives the table; NULL: nothing is ever parked. */
int v9_fids_init(struct v9_fids *fids, uint32_t max, v9_export *const *exports);
void v9_fids_destroy(struct v9_fids *fids);
/* -EBADF where the number is not entered; -ESTALE and more where its file cannot be had again. */
int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
/* As v9_fids_pin, but what is parked stays so. */
int v9_fids_pin_parked(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid);
/* What names an entered fid, and no other one, before or after; a number comes to mean others. */
static inline uint64_t v9_fids_handle(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return (uint64_t)fid->life << 32 | (uint32_t)(fid - fids->entries);
}
/* The fid of a handle, which is pinned; else the entry that was. */
static inline struct v9_fid *v9_fids_of(struct v9_fids *fids, uint64_t handle)
{
    return &fids->entries[(uint32_t)handle];
}
/* The handle of an entered fid, which stays parked if it is; -EBADF. */
int v9_fids_find(struct v9_fids *fids, uint32_t number, uint64_t *handle);
/* Adds V9_FID_* flags. -EBADF where the fid is not entered any more, or is in use for something
 * that they do not go with: a value's fid is not open, and a fid for locks is. */
int v9_fids_mark(struct v9_fids *fids, uint64_t handle, uint32_t flags);
/* The flags of a pinned fid. */
static inline uint32_t v9_fid_flags(const struct v9_fid *fid)
{
    return __atomic_load_n(&fid->flags, __ATOMIC_ACQUIRE);
}
/* io_fd of a pinned fid: -1, or a descriptor that stays its own. */
static inline int32_t v9_fid_io(const struct v9_fid *fid)
{
    return __atomic_load_n(&fid->io_fd, __ATOMIC_ACQUIRE);
}
/* Drops a reference that is no pin. */
void v9_fids_release(struct v9_fids *fids, struct v9_fid *fid);
/* The rest of a fid that has a directory open. */
static inline struct v9_fid_dir *v9_fids_dir(struct v9_fids *fids, const struct v9_fid *fid)
{
    return &fids->dirs[fid - fids->entries];
}
/* The file that a pinned fid stands for, or NULL. */
static inline struct v9_inode *v9_fids_node(struct v9_fids *fids, const struct v9_fid *fid)
{
    return fid->inode ? &fids->inodes.entries[fid->inode - 1] : NULL;
}
/*
 * Enters a fid for a file (NULL: none). `instead` is the pinned entry that it replaces, or NULL.
 * -EBADF where the number is taken, or is no longer instead's, which must be neither open nor
 * marked; -EMFILE at the cap. The descriptors are taken over on
 * success only.
 */
int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead);
/* The number of a pinned fid of a directory comes to stand for the file that was made there as
 * `name`, whose attributes are given: as v9_fids_enter, instead of that fid, in the export of this
 * index. Takes the descriptors of `made` over on success. */
int v9_fids_become(struct v9_fids *fids, struct v9_fid *directory, const char *name,
                   const struct v9_created *made, uint32_t export, const struct v9_attr *attr);
/*
 * A walk stands on a file that it has come to, which may linger: its inode, pinned; 0 where the
 * table is full. Takes
 * the descriptors of `found` over on success. v9_fids_meet needs none: 0 where there is no inode.
 */
uint32_t v9_fids_stand(struct v9_fids *fids, const struct v9_found *found);
uint32_t v9_fids_meet(struct v9_fids *fids, uint32_t export, const struct v9_attr *attr);
/* Steps off a inode again. */
void v9_fids_step_off(struct v9_fids *fids, uint32_t inode);
/* Enters a fid, as v9_fids_enter does, for a file that a walk stands on, which steps off on
 * success. `version` is its qid's now. */
int v9_fids_enter_here(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                       uint32_t version, struct v9_fid *instead);
/* Enters one more fid for the file of a pinned one, by its name if `named`; fails as v9_fids_enter.
 */
int v9_fids_clone(struct v9_fids *fids, const struct v9_fid *fid, uint32_t number, bool named);
/* Has the number of a pinned fid stand for what its name leads to now: as v9_fids_enter, instead of
 * that fid; 1 on success, 0 if it does already. */
int v9_fids_move(struct v9_fids *fids, struct v9_fid *fid);
/* Forgets what a name has led to: it has to be stepped to once more. Without the lock. */
void v9_fids_doubt(struct v9_fids *fids, uint32_t dentry);
/* The inode of a file, with a reference; fails as v9_fids_enter. Takes the descriptors over,
 * whether it does or not. */
int v9_fids_hold(struct v9_fids *fids, const struct v9_found *found, uint32_t *inode);
void v9_found_close(const struct v9_found *found);
/* Whether a pinned fid stands for what its name led to when that was looked at last. */
bool v9_fids_is_named(struct v9_fids *fids, const struct v9_fid *fid);
/* The guest has removed an entry of a pinned fid's directory, or the fid's own name (""). */
void v9_fids_lost(struct v9_fids *fids, const struct v9_fid *fid, const char *name);
/* The directory that a dentry, which is neither fixed nor of several components, is in: its
 * descriptor, and the name there. *inode is its inode, pinned, to be stepped off, also where this
 * fails; 0: none, the export's root. The lock is held, but released meanwhile. */
int32_t v9_fids_hold_above(struct v9_fids *fids, uint32_t at, char name[V9_NAME_SIZE],
                           uint32_t *inode);
/* The same of a pinned fid's own name, without the lock. -ENOENT where the guest has removed it,
 * or it led to another file when it was looked at last, -ENODATA where it is not known. What the
 * host has by that name now is to be looked at. */
int32_t v9_fids_own_name(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE],
                         uint32_t *inode);
/* It has renamed one, to `new` in the directory of another pinned fid; NULL: in its own. */
void v9_fids_renamed(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                     const struct v9_fid *into, const char *new);
/* Drops a reference of a dentry, and of those above it that end with it. Without the lock. */
void v9_fids_drop_dentry(struct v9_fids *fids, uint32_t dentry);
/* Whether a pinned fid stands for a name. One that is in use for something stays what it is. */
static inline bool v9_fid_is_by_name(const struct v9_fid *fid)
{
    return fid->dentry && v9_fid_io(fid) == -1 && !v9_fid_flags(fid);
}
/* Publishes the descriptor of a pinned entry; -EBADF where it has one already, or is a value's. */
int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags);
/* Takes a number away. -EBADF; -EBUSY where the fid is marked. */
int v9_fids_remove(struct v9_fids *fids, uint32_t number);
/* Takes the number away from a fid, marked or not. -EBADF where it has none any more. */
int v9_fids_end(struct v9_fids *fids, uint64_t handle);
/* A session ends: what threads that have called v9_fids_begin still enter for it is refused.
 * -ESTALE where the caller is such a thread itself, or became one: another session has begun. */
int v9_fids_clear(struct v9_fids *fids);
/* The calling thread begins a request of the present session, until it begins the next one. */
void v9_fids_begin(struct v9_fids *fids);

#endif
