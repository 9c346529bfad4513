/*
 * fid: pins, opens, enters and removes fids.
 *
 * An entry that a request uses is pinned. Tclunk takes the number away at once; the descriptors
 * close with the last pin. A fid that comes to stand for another file (Twalk onto itself, Tlcreate)
 * gets a new entry, so what a pinned entry stands for never changes: only io_fd is set, once, and
 * flags are added.
 *
 * Several threads may use one number. What a decision depends on is checked under the lock under
 * which it is changed: a number goes away, gets another entry or a flag only while it is what it
 * was (v9_fids_remove, v9_fids_enter, v9_fids_mark). Whoever keeps something for a fid elsewhere,
 * as Python does, keeps it by the handle, stores it first, marks the fid then, and takes it back
 * where that fails; only its keeper clunks a marked fid, number first.
 */
#ifndef V9_FID_FID_H
#define V9_FID_FID_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/fid_names.h"
#include "fid/fid_table.h"
#include "vhost9p.h"

/* `exports`, of the device, by index, outlives the table; NULL: nothing is evicted that has fids.
 * `ops` are what evicts and expires (fid/evict.h). */
int v9_fids_init(struct v9_fids *fids, uint32_t max, v9_export *const *exports,
                 const struct v9_shrinker_ops *ops);
void v9_fids_destroy(struct v9_fids *fids);

/* ---- pins and handles --------------------------------------------------------------------------
 */

/* Restores what is evicted. -EBADF where the number is not entered; -ESTALE and more where its file
 * cannot be reopened. */
int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
/* As v9_fids_pin, but what is evicted stays so. */
int v9_fids_pin_evicted(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid);
/* Identifies an entered fid for ever; its number comes to mean others. */
static inline uint64_t v9_fids_handle(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return (uint64_t)fid->life << 32 | (uint32_t)(fid - fids->entries);
}
/* The fid of a handle, which is pinned; else the entry that was. */
static inline struct v9_fid *v9_fids_of(struct v9_fids *fids, uint64_t handle)
{
    return &fids->entries[(uint32_t)handle];
}
/* The handle of an entered fid, which stays evicted if it is; -EBADF. */
int v9_fids_find(struct v9_fids *fids, uint32_t number, uint64_t *handle);
/* Adds V9_FID_* flags. -EBADF where the fid is not entered any more, or is in use for something
 * that they do not go with: an xattr fid is not open, and a fid for locks is. */
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
/* Whether a pinned fid stands for a name. One that is in use for something stays what it is. */
static inline bool v9_fid_is_by_name(const struct v9_fid *fid)
{
    return fid->dentry && v9_fid_io(fid) == -1 && !v9_fid_flags(fid);
}
/* Publishes the descriptor of a pinned entry; -EBADF where it has one already, or is an xattr fid.
 */
int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags);

/* ---- entering ----------------------------------------------------------------------------------
 */

/* The highest among the flags of a v9_fid_new, which become `walked_fids`: a walk of names made it,
 * or a fid that was made so moves. */
#define V9_FID_WALKED (1u << 30)
#define V9_FID_MOVED (2u << 30)

/* What a fid that is to be entered is, beside the file that it stands for. */
struct v9_fid_new {
    uint32_t number, uid, flags;
    int32_t io_fd, io_flags;      /* io_fd -1: not open */
    const struct v9_route *route; /* NULL: it is not known by which name */
    uint64_t *handle;             /* gets its handle; NULL: not wanted */
};

/*
 * Enters a fid for a file (NULL: none). `instead` is the pinned entry that it replaces, or NULL.
 * -EBADF where the number is taken, or is no longer instead's, which must be neither open nor
 * marked; -EMFILE at the cap. Takes over the descriptors on success only.
 */
int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead);
/* The number of a pinned fid of a directory comes to stand for the file that was made there as
 * `name`, whose attributes are given: as v9_fids_enter, instead of that fid, in the export of this
 * index. Takes over the descriptors of `made` on success. */
int v9_fids_become(struct v9_fids *fids, struct v9_fid *directory, const char *name,
                   const struct v9_created *made, uint32_t export, const struct v9_attr *attr);
/*
 * The inode of a file that a walk has come to, pinned (v9_fids_release_inode); 0 where the table is
 * full. It may be cached later. Takes over the descriptors of `found` on success.
 * v9_fids_lookup_inode needs none: 0 where there is no inode.
 */
uint32_t v9_fids_acquire_inode(struct v9_fids *fids, const struct v9_found *found);
uint32_t v9_fids_lookup_inode(struct v9_fids *fids, uint32_t export, const struct v9_attr *attr);
/* Enters a fid, as v9_fids_enter does, for an inode that a walk has pinned, which is released on
 * success. `version` is its qid's now. */
int v9_fids_enter_inode(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                        uint32_t version, struct v9_fid *instead);
/* Enters one more fid for the file of a pinned one, by its name if `named`; fails as v9_fids_enter.
 */
int v9_fids_clone(struct v9_fids *fids, const struct v9_fid *fid, uint32_t number, bool named);
/* Has the number of a pinned fid stand for what its name leads to now: as v9_fids_enter, instead of
 * that fid; 1 on success, 0 if it does already. */
int v9_fids_move(struct v9_fids *fids, struct v9_fid *fid);

/* ---- removing ----------------------------------------------------------------------------------
 */

/* Takes a number away. -EBADF; -EBUSY where the fid is marked. */
int v9_fids_remove(struct v9_fids *fids, uint32_t number);
/* Takes the number away from a fid, marked or not. -EBADF where it has none any more. */
int v9_fids_remove_handle(struct v9_fids *fids, uint64_t handle);
/* A session ends: what threads that have called v9_fids_begin_request still enter for it is
 * refused. -ESTALE where the caller is such a thread itself, or became one: another session has
 * begun. */
int v9_fids_clear(struct v9_fids *fids);
/* The calling thread begins a request of the present session, until it begins the next one. */
void v9_fids_begin_request(struct v9_fids *fids);
/* Drops the inode that was cached first, if it has been for so many ticks of the sweeper; whether
 * there was one. */
bool v9_fids_drop_cached(struct v9_fids *fids, uint32_t ticks);

#endif
