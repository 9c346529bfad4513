/*
 * mounts: which entries of a directory may lie on another mount or device than the directory, so
 * that its listing has to look at them, and which are what the directory itself tells of them.
 *
 * A view is the answer for all directories of one mount. Python makes it of the mount table and
 * installs it (vhost9p/policy/listing.py); a mount without one is asked about (V9_UP_MOUNT).
 *
 * Freshness. Each change of the mount table raises a counter in the kernel, within the same
 * critical section that makes the change visible, and poll(2) on an open mountinfo tells once
 * whether the counter has moved since the last time. So each time a view is wanted, the descriptor
 * is polled: where something has changed, a new generation begins, and the views of older ones
 * count no more. A view is of the generation that was told with the question, and the table was
 * read after that poll; where another generation has begun before it is installed, it is refused.
 * Thus every mount that was there before a listing began is in its view.
 *
 * Who polls takes the news from whoever polls the same descriptor next. So there is one descriptor
 * for it, and the poll and what follows from it are one under the lock. It is the one lock that is
 * held across a system call: with a timeout of 0 this poll compares two counters and never waits.
 *
 * What no counter tells: a process in another mount namespace may rename a directory on which
 * something is mounted in this one. Until the next change here it is looked for by its old name.
 *
 * Views are counted: who has one keeps it, while a newer one takes its place in the table. The
 * table is a cache in which a mount has one place; two mounts that share it put each other out.
 */
#ifndef V9_EXPORT_MOUNTS_H
#define V9_EXPORT_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vhost9p.h"

struct v9_view {
    uint64_t mnt_id, generation;
    uint32_t refs;
    uint32_t look;    /* V9_LOOK_* */
    uint32_t count;   /* names */
    uint32_t mask;    /* slots - 1 */
    uint32_t slots[]; /* open addressing: offset + 1 of a name in the text behind, 0: empty */
};

/* The view of a mount as of now, to be left again. NULL where there is none, with the generation
 * that the question has to tell. */
struct v9_view *v9_mounts_view(v9_mounts *mounts, uint64_t mnt_id, uint64_t *generation);
void v9_view_leave(struct v9_view *view);
/* Whether the mount table is still what the view was made of. */
bool v9_mounts_hold(v9_mounts *mounts, const struct v9_view *view);
/* Whether something is mounted on an entry of this name in some directory of the mount. */
bool v9_view_names(const struct v9_view *view, const char *name, size_t length);

#endif
