/*
 * recipe: how to reopen a file whose descriptor was closed, and never another file.
 *
 * A recipe has the file's path below the export's root and, where its file system has them, its
 * file handle (open_by_handle_at(2)). The path is tried first: it needs no privilege, and the new
 * descriptor has a name. The handle finds the file whatever its name is by then, where the daemon
 * may use it (CAP_DAC_READ_SEARCH).
 *
 * What was opened has to prove that it is the file:
 *  - device, inode number, btime and mount are the same. While anything on a mount is evicted, a
 *    descriptor keeps the mount, so that its id stands for nothing else;
 *  - the handle is the same, byte by byte. It contains the inode's generation;
 *  - without handles the btime decides. The kernel gives an inode number to another file only after
 *    our descriptor was closed. If the file was created long enough before, by more than the
 *    granularity of clocks, its btime differs from that of all later files: it is conclusive. A
 *    younger file keeps its descriptor, and so does one without a btime.
 *
 * A file found by its handle may have been moved out of the export: a fid is a capability and stays
 * good, as it does with a descriptor.
 */
#ifndef V9_FID_RECIPE_H
#define V9_FID_RECIPE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/host_stat.h"
#include "export/export.h"
#include "fid/api.h"

enum { V9_HANDLE_MAX = 128 }; /* MAX_HANDLE_SZ */

struct v9_recipe {
    bool btime_conclusive; /* no other file has this identity, nor ever will */
    int32_t handle_type;
    uint32_t handle_size; /* 0: the file system has none */
    uint32_t path_size;   /* 0: no path is known */
    uint8_t handle[V9_HANDLE_MAX];
    char path[PATH_MAX]; /* below the export's root; with a NUL */
};

/*
 * Makes the recipe of the file `is` that fd, an O_PATH descriptor, names. *host_mode is its
 * st_mode. -EBUSY for the export's root, -ESTALE for a file without links or one that `is` does not
 * describe, -EAGAIN where nothing could prove yet that it is the file.
 */
int v9_recipe_make(v9_export *ex, int32_t fd, const struct v9_identity *is,
                   struct v9_recipe *recipe, uint32_t *host_mode);
/*
 * Opens something on the file's mount that can be asked for files by handle, or at least keeps the
 * mount (*by_handle says which). Arguments are those of v9_recipe_make.
 */
int v9_recipe_anchor(v9_export *ex, int32_t fd, const struct v9_identity *is,
                     const struct v9_recipe *recipe, uint32_t host_mode, bool *by_handle);
/*
 * A new O_PATH descriptor of the file. `anchor` is v9_recipe_anchor's if that may be asked, else
 * -1. -ESTALE where the file is not found.
 */
int v9_recipe_open(v9_export *ex, const struct v9_identity *is, const struct v9_recipe *recipe,
                   int32_t anchor);
/* Whether no file that was created in the last `ago` nanoseconds, or is created from now on, can
 * have this btime. */
bool v9_recipe_is_conclusive(uint64_t btime, uint64_t ago);
/* Opens an anchor (v9_recipe_anchor) anew that is lost, if the export's root is on its mount; -1.
 */
int v9_recipe_open_anchor(v9_export *ex, uint64_t mnt_id);

#endif
