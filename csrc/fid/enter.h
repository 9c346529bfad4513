/*
 * enter: how a number comes to stand for a file: by a walk, an attach, a clone or a creation.
 *
 * Every way ends in one new entry, for an inode that the entry refers to and, where it is known, a
 * name. An entry that is replaced loses its number in the same critical section.
 */
#ifndef V9_FID_ENTER_H
#define V9_FID_ENTER_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/fid.h"
#include "fs/api.h"

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
    struct v9_xattr_value *value; /* of a fid without a file; NULL: none */
};

/*
 * Enters a fid for a file (NULL: none). `instead` is the pinned entry that it replaces, or NULL.
 * -EBADF where the number is taken, or is no longer instead's, which must be neither open nor
 * marked; -EMFILE at the cap, -ENOSPC at that of values. Takes over the descriptors and the value
 * on success only.
 */
int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead);
/* Room for the fid of a file that was made in a directory, or was there. */
struct v9_fid_room {
    struct v9_fid *directory;
    struct v9_found file;
    uint32_t account; /* that the file has in a quota; 0: none */
};
/*
 * The number of a pinned fid of a directory comes to stand for a file of that name: as
 * v9_fids_enter, instead of that fid. What cannot be taken back is done between v9_fids_reserve,
 * which fails if the other would, and v9_fids_become, which then fails only if the number is the
 * directory's no more. `made` is in the export of this index, and has the attributes `attr`.
 * v9_fids_become takes over its descriptors on success, and needs no v9_fids_leave_room.
 */
int v9_fids_reserve(struct v9_fids *fids, struct v9_fid *directory, const struct v9_created *made,
                    uint32_t export, const struct v9_attr *attr, struct v9_fid_room *room);
int v9_fids_become(struct v9_fids *fids, const struct v9_fid_room *room, const char *name,
                   const struct v9_created *made);
void v9_fids_leave_room(struct v9_fids *fids, const struct v9_fid_room *room);
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

#endif
