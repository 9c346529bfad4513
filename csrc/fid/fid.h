/*
 * fid: pins, opens and removes fids.
 *
 * An entry that a request uses is pinned. Tclunk takes the number away at once; the descriptors
 * close with the last pin. A fid that comes to stand for another file (Twalk onto itself, Tlcreate)
 * gets a new entry, so what a pinned entry stands for never changes: only io_fd is set, once, and
 * flags are added, with the value of an extended attribute.
 *
 * Several threads may use one number. What a decision depends on is checked under the lock under
 * which it is changed: a number goes away, gets another entry or a flag only while it is what it
 * was (v9_fids_remove, v9_fids_mark, and v9_fids_enter in fid/enter.h). Whoever keeps something for
 * a fid elsewhere, as Python does, keeps it by the handle, stores it first, marks the fid then, and
 * takes it back where that fails; only its keeper clunks a marked fid, number first.
 */
#ifndef V9_FID_FID_H
#define V9_FID_FID_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/api.h"
#include "fid/fid_names.h"
#include "fid/fid_table.h"

/* Begins an empty table in `map` (v9_fid_table_map), which it takes over. `exports`, of the device,
 * by index, outlives the table; NULL: nothing is evicted that has fids. `ops` are what evicts and
 * expires (fid/evict.h). 0 or -errno. */
int v9_fids_init(struct v9_fids *fids, uint32_t max, void *map, v9_export *const *exports,
                 const struct v9_shrinker_ops *ops);
/* The part of that which each process does that serves a table. */
int v9_fids_serve(struct v9_fids *fids, v9_export *const *exports,
                  const struct v9_shrinker_ops *ops);
void v9_fids_destroy(struct v9_fids *fids);

/* ---- pins and handles ------------------------------------------------------------------------ */

/* Restores what is evicted. -EBADF where the number is not entered; -ESTALE and more where its file
 * cannot be reopened. */
int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
/* As v9_fids_pin; *settled is what v9_dentry_settled answers at that time, if the fid has a name.
 */
int v9_fids_pin_settled(struct v9_fids *fids, uint32_t number, uint64_t now, struct v9_fid **fid,
                        uint64_t *settled);
/* As v9_fids_pin, but what is evicted stays so. */
int v9_fids_pin_evicted(struct v9_fids *fids, uint32_t number, struct v9_fid **fid);
/* Pins a fid by which the file of a pinned one can be written at any offset, unless it is the user
 * `uid`'s; -EBADF: there is none. Takes no longer than a look at all fids. */
int v9_fids_pin_writer(struct v9_fids *fids, const struct v9_fid *like, uint32_t uid,
                       struct v9_fid **fid);
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
/* Adds flags: V9_FID_LOCKS, V9_FID_STREAM. -EBADF where the fid is not entered any more, or is not
 * open. */
int v9_fids_mark(struct v9_fids *fids, uint64_t handle, uint32_t flags);
/* Has a pinned fid of a file stand for a value to be written, which it takes over on success.
 * -EBADF where it is not entered any more, or in use for something else; -ENOSPC for too many
 * values. */
int v9_fids_set_value(struct v9_fids *fids, struct v9_fid *fid, struct v9_xattr_value *value);
/* Begins the end of a fid, given by its handle, with a value that is to be set. -EBADF where
 * another has begun it, or the fid has ended. */
int v9_fids_begin_end(struct v9_fids *fids, uint64_t handle);
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
/* A fid, which always stands for an inode, has been opened. The lock is held. */
void v9_fids_set_open(struct v9_fids *fids, struct v9_fid *fid);
/* Publishes the descriptor of a pinned entry; -EBADF where it has one already, or is an xattr fid.
 */
int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags);

/* ---- removing -------------------------------------------------------------------------------- */

/* Drops a reference, under the lock. */
void v9_fids_drop(struct v9_fids *fids, struct v9_fid *fid, struct v9_deferred *deferred);
/* Takes a number away. -EBADF; -EBUSY where the fid has locks, or a value to be set. */
int v9_fids_remove(struct v9_fids *fids, uint32_t number);
/* Takes the number away from a fid, marked or not. -EBADF where it has none any more. */
int v9_fids_remove_handle(struct v9_fids *fids, uint64_t handle);
/* A session ends: what threads that have called v9_fids_begin_request still enter for it is
 * refused. -ESTALE where the caller is such a thread itself, or became one: another session has
 * begun. */
int v9_fids_clear(struct v9_fids *fids);
/* The calling thread begins a request of the present session, until it begins the next one. Before
 * the request enters, opens, marks or removes a fid, that fid's handle is stored in *changes, so
 * that a successor of this process can tell whether it was done (NULL: nowhere). */
void v9_fids_begin_request(struct v9_fids *fids, uint64_t *changes);
/* The index of the export of the file that it has pinned last; 0: it has pinned none. */
uint32_t v9_fids_pinned_export(void);
/* The calling thread's request is about to change a fid as one store that makes the difference. The
 * lock is held. */
void v9_fids_will_change(const struct v9_fids *fids, const struct v9_fid *fid);
/* The fid of a handle where it is entered still, or NULL. The lock is held, or there is no other
 * thread. */
struct v9_fid *v9_fids_entered(struct v9_fids *fids, uint64_t handle);
/* Whether this thread's request has hung until its session ended. The lock is held. */
bool v9_fids_is_straggler(const struct v9_fids *fids);
/* Drops the inode that was cached first, if it has been for so many ticks of the sweeper; whether
 * there was one. */
bool v9_fids_drop_cached(struct v9_fids *fids, uint32_t ticks);

#endif
