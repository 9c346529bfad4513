/*
 * fid: what the numbers that the guest chose stand for.
 *
 * Every fid of a file holds an O_PATH descriptor, and a second one once it was opened. Entries live
 * in a flat arena, found through a chained hash whose function is the identity: the kernel's client
 * numbers its fids densely, so a bucket is nearly always the entry itself, and outliers still work.
 *
 * An entry that a request uses is pinned. Tclunk takes the number away at once; the descriptors
 * close with the last pin. A fid that comes to stand for another file (Twalk onto itself, Tlcreate)
 * gets a new entry, so what a pinned entry stands for never changes: only io_fd is set, once.
 */
#ifndef V9_FID_H
#define V9_FID_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "vhost9p.h"

struct v9_fid {
    uint32_t number;
    uint32_t next; /* index + 1 in the bucket's chain or the free list; 0 ends it */
    uint32_t refs; /* pins, and one for the number while it is entered */
    uint32_t uid;
    uint32_t flags;    /* V9_FID_* */
    uint32_t mode;     /* st_mode when it was walked to: the file type holds */
    int32_t path_fd;   /* O_PATH; -1 for an xattr fid */
    int32_t io_fd;     /* -1 until opened */
    int32_t io_flags;  /* open(2) flags of io_fd */
    struct v9_qid qid; /* when it was walked to */
    uint64_t st_dev, st_ino;
    uint64_t dir_offset;      /* d_off where io_fd of a directory stands */
    pthread_mutex_t dir_lock; /* lseek and getdents64 belong together */
};

struct v9_fids {
    pthread_mutex_t lock;
    uint32_t max, mask;   /* capacity of entries; buckets - 1 */
    uint32_t count, used; /* entered numbers; entries ever handed out */
    uint32_t free;        /* index + 1 of the first free entry */
    uint32_t *buckets;    /* index + 1 of the first entry */
    struct v9_fid *entries;
    void *map;
    size_t map_size;
    int fd; /* the arena's memfd */
};

int v9_fids_init(struct v9_fids *fids, uint32_t max);
void v9_fids_destroy(struct v9_fids *fids);
/* NULL where the number is not entered. */
struct v9_fid *v9_fids_pin(struct v9_fids *fids, uint32_t number);
void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid);
/*
 * Enters a copy of the public part of `from` (all but next, refs and the lock) under from->number.
 * `instead` is the pinned entry that it replaces, or NULL. -EBADF where the number is taken, or is
 * no longer instead's; -EMFILE at the cap. The descriptors are taken over on success only.
 */
int v9_fids_enter(struct v9_fids *fids, const struct v9_fid *from, struct v9_fid *instead);
/* Publishes the descriptor of a pinned entry; -EBADF where it has one already. */
int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags);
int v9_fids_remove(struct v9_fids *fids, uint32_t number);
void v9_fids_clear(struct v9_fids *fids);
/* What attr tells of a file, as an entry that is not entered yet. */
struct v9_fid v9_fid_of(uint32_t number, int32_t path_fd, uint32_t uid, const struct v9_attr *attr);

#endif
