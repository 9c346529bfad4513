/*
 * mounts: which entries of a directory may lie on another mount or device than the directory, so
 * that a listing has to stat them, and which ones the directory itself describes.
 *
 * A view is the answer for all directories of one mount. Python derives it from the mount table and
 * installs it (vhost9p/policy/listing.py); where a mount has no view, Python is asked
 * (V9_UP_MOUNT).
 *
 * Freshness. Each change of the mount table raises a counter in the kernel, within the critical
 * section that makes the change visible, and poll(2) on an open mountinfo reports once that the
 * counter has moved since the last poll. The descriptor is polled each time a view is wanted: if
 * something changed, a new generation begins, and views of older generations are ignored. A view
 * belongs to the generation that was passed with the question, and Python reads the table after
 * that poll; if another generation has begun before the view is installed, it is refused. So every
 * mount that existed before a listing began is in its view.
 *
 * A poll takes the news away from the next poll of the same descriptor. So there is one descriptor,
 * and the poll and its consequences are one step under the lock. This is the only lock that is held
 * across a system call: with a timeout of 0, this poll compares two counters and never waits.
 *
 * No counter shows one change: a process in another mount namespace may rename a directory on which
 * something is mounted in this one. Until the next change here it is known by its old name.
 *
 * Views are counted: a listing keeps its view while a newer one replaces it in the table. The table
 * is a cache in which a mount has one place; two mounts that share a place replace each other.
 */
#ifndef V9_EXPORT_MOUNTS_H
#define V9_EXPORT_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export/api.h"

struct v9_view {
    uint64_t mnt_id, generation;
    uint32_t refs;
    uint32_t look;    /* V9_LOOK_* */
    uint32_t count;   /* names */
    uint32_t mask;    /* slots - 1 */
    uint32_t slots[]; /* open addressing: offset + 1 of a name in the text behind, 0: empty */
};

/* The view of a mount as of now, to be released by v9_view_leave. NULL where there is none, with
 * the generation to pass with the question. */
struct v9_view *v9_mounts_view(v9_mounts *mounts, uint64_t mnt_id, uint64_t *generation);
void v9_view_leave(struct v9_view *view);
/* Whether the mount table has not changed since the view was made. */
bool v9_mounts_hold(v9_mounts *mounts, const struct v9_view *view);
/* Whether something is mounted on an entry of this name in some directory of the mount. */
bool v9_view_names(const struct v9_view *view, const char *name, size_t length);

#endif
