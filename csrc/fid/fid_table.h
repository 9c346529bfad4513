/*
 * fid table: from the numbers that the guest chose to entries, and the arena that all of it is in.
 *
 * A fid stands for an inode, the file, and has a descriptor of its own once it is open. It knows
 * the name by which it was reached (fid/dentry.h). Entries lie in a flat array. Linux's client
 * numbers its fids densely, so an entry is nearly always *at home*, at the index that is its
 * number, and one look finds it. The others, *strays*, are in a hash: those whose number is far
 * beyond all others, or whose home is taken.
 *
 * Pinned entries have their descriptors; those that nobody pins may be evicted (fid/evict.h).
 */
#ifndef V9_FID_FID_TABLE_H
#define V9_FID_FID_TABLE_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/commit.h"
#include "base/shrinker.h"
#include "fid/api.h"
#include "fid/dentry.h"
#include "fid/inode.h"
#include "fid/xattr_value.h"

enum { V9_IO_EVICTED = -2 }; /* io_fd of a fid that was opened */

/* What every request looks at is one cache line: with a million fids each look is a miss. */
struct v9_fid {
    _Alignas(64) uint32_t number;
    uint32_t refs; /* pins, and one for the number while it is entered */
    uint32_t uid;
    uint32_t flags;     /* V9_FID_* */
    uint32_t inode;     /* index + 1; 0: none, an attribute that is read */
    int32_t io_fd;      /* -1 until opened; V9_IO_EVICTED, which no pinned one is */
    int32_t io_flags;   /* open(2) flags of io_fd */
    uint32_t caps_seen; /* export/file_caps.h */
    union {
        struct v9_list_link io_lru;   /* in the list of fids with io_fd */
        struct v9_xattr_value *value; /* of one with V9_FID_XATTR, which has no io_fd */
    };
    bool io_used_lately : 1; /* used since the eviction clock passed it */
    bool io_restoring : 1;   /* a thread is reopening io_fd */
    bool entered : 1;        /* its number leads to it */
    bool stray : 1;          /* found by the hash */
    bool listed : 1;         /* in the free list: perhaps taken as a home since */
    bool reported : 1;       /* its client has got its attributes: fid/forget.h */
    bool moved : 1;          /* since then its name has come to lead to another file */
    bool forgotten : 1;      /* its next Tgetattr finds nothing */
    uint8_t lost_writes : 2; /* what its next sync reports: fid/lost_writes.h */
    uint8_t walked_fids;     /* how many it counts for: fid/known_size.h */
    uint32_t life;           /* counts the fids that this entry was */
    struct v9_link link;     /* of a stray; `next` is index + 1 in the free list */
    uint32_t dentry;         /* 0: it stands for its inode, whatever has become of the name */
};
_Static_assert(sizeof(struct v9_fid) == 64, "a fid is one cache line");

struct v9_fid_dir {
    /* lseek and getdents64 belong together; lock order: docs/architecture.md */
    pthread_mutex_t lock;
    uint64_t offset; /* d_off where io_fd stands */
};

/* More of a fid that has a directory or the stream open; of others it is not touched, and takes no
 * memory. */
struct v9_fid_more {
    union {
        struct v9_fid_dir dir;
        struct v9_stream stream;
    };
};

struct v9_fids {
    pthread_mutex_t lock; /* guards inodes and dentries too; lock order: docs/architecture.md */
    struct v9_inodes inodes;
    struct v9_dentries dentries;
    uint32_t max;          /* capacity of entries */
    uint32_t count;        /* entered numbers */
    uint64_t session;      /* how often the table was cleared */
    bool renews;           /* the session drops the names of what was replaced: fid/forget.h */
    uint32_t live;         /* entries with references */
    uint32_t homes;        /* no entry with a greater index was ever at home */
    uint32_t free;         /* index + 1 of the first entry that was handed out and is free again */
    uint32_t unused;       /* entries from here on were handed out to strays */
    uint32_t young, old;   /* index + 1 of two that have a number for a moment; 0: none */
    struct v9_hash strays; /* by number */
    uint64_t key;          /* odd and random: no guest knows which numbers share a bucket */
    struct v9_fid *entries;
    struct v9_fid_more *more; /* by the entry's index */
    void *map;
    size_t map_size;
    v9_export *const *exports; /* by index; NULL: nothing is evicted */
    struct v9_list open_io;    /* fids with io_fd, least recently used first */
    pthread_cond_t restored;   /* something evicted is back, or cannot be reopened */
    struct v9_shrinker shrinker;
    struct v9_xattr_values values; /* that the fids have */
};

/* The memory of a table of so many fids: its size, a multiple of a page's; or the memory itself,
 * zeros, which processes that are forked share; NULL where there is no room. */
size_t v9_fid_table_size(uint32_t max);
void *v9_fid_table_map(uint32_t max);
/* Lays out the memory, which is the table's from now on: 0 or -errno. */
int v9_fid_table_init(struct v9_fids *fids, uint32_t max, void *map);
void v9_fid_table_unmap(struct v9_fids *fids);

/* The rest is called with the lock held. */

static inline uint32_t v9_fid_index(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return (uint32_t)(fid - fids->entries) + 1;
}
/* Index + 1 of a stray's entry, or 0. */
uint32_t v9_fid_table_find_stray(const struct v9_fids *fids, uint32_t number);
/* Index + 1 of a number's entry, or 0. */
static inline uint32_t v9_fid_table_find(const struct v9_fids *fids, uint32_t number)
{
    if (number < fids->homes && fids->entries[number].entered &&
        fids->entries[number].number == number)
        return number + 1;
    return fids->strays.count ? v9_fid_table_find_stray(fids, number) : 0;
}
/* Lets an entry's number lead to it; nothing else has that number. */
void v9_fid_table_publish(struct v9_fids *fids, struct v9_fid *fid);
void v9_fid_table_withdraw(struct v9_fids *fids, struct v9_fid *fid);
/* A free entry for a number, or NULL where all are in use. */
struct v9_fid *v9_fid_table_allocate(struct v9_fids *fids, uint32_t number);
/* Frees an entry whose last reference is gone. */
void v9_fid_table_free(struct v9_fids *fids, struct v9_fid *fid);
/* Forgets which entries of an empty table were used: to clear it the next time takes as long as
 * what was entered since. */
void v9_fid_table_forget(struct v9_fids *fids);
/* Returns the memory of an empty table to the kernel, but for the entries, which count their
 * lives. */
void v9_fid_table_trim(struct v9_fids *fids);

/* After a death: lays out the memory of fids->map for fids->max fids again, and leaves the entries
 * as they are. Of everything else, only what the entries do not tell is believed. */
void v9_fid_table_recover(struct v9_fids *fids);
/* Frees an entry that is not entered. */
void v9_fid_table_set_free(struct v9_fids *fids, struct v9_fid *fid);

/* The rest of a fid that has a directory open. */
static inline struct v9_fid_dir *v9_fids_dir(struct v9_fids *fids, const struct v9_fid *fid)
{
    return &fids->more[fid - fids->entries].dir;
}
/* The rest of one that has the stream open. With the lock held. */
static inline struct v9_stream *v9_fids_stream(struct v9_fids *fids, const struct v9_fid *fid)
{
    return &fids->more[fid - fids->entries].stream;
}
/*
 * Stores what is known of a fid that has the stream open. The process may be killed on the way; the
 * request then runs again (vhost9p/p9/stream.py), and gets the same lines, or an overflow. While
 * `start` changes it leads nowhere: with the `lost` of another one it would lead into a line.
 */
static inline void v9_stream_store(struct v9_stream *at, const struct v9_stream *to)
{
    if (at->start != to->start)
        at->start = to->start ^ (uint64_t)1 << 63;
    V9_COMMIT();
    at->lost = to->lost;
    V9_COMMIT();
    at->end = to->end;
    V9_COMMIT();
    at->last = to->last;
    V9_COMMIT();
    at->more = to->more;
    V9_COMMIT();
    at->start = to->start;
}
/* The file that a pinned fid stands for, or NULL. Needs no lock. */
static inline struct v9_inode *v9_fids_inode(struct v9_fids *fids, const struct v9_fid *fid)
{
    return fid->inode ? v9_inode_at(&fids->inodes, fid->inode) : NULL;
}

#endif
