/*
 * dir marks: directories that a guest has looked at, and a notification group of the kernel that
 * reports what others change there (fanotify(7)).
 *
 * Whoever may mark whole file systems has no need of this. An ordinary user may mark single
 * directories, those that it can read: a mark reports what happens to the directory's entries. A
 * guest's kernel knows nothing of a directory before it walks there, so each step of a walk that
 * ends at a directory marks it, once, before the guest gets its reply. All directories above are
 * marked by then: a walk passes them.
 *
 * The group reports which directory it was by the file handle, and the entry by its name. So each
 * new mark is noted with the directory's handle, in the form of events, its name, and the number of
 * the directory above, for Python to make paths of events (vhost9p/marked/). A note is there before
 * the mark is, hence before any event. A rename meanwhile is seen when the place is read again
 * after the mark was set; later ones are events.
 *
 * The kernel tells an ordinary user the pid of an event only if it is the reader's own. That is
 * enough to leave out what the guest has done itself, of which only changes of the tree of
 * directories matter.
 *
 * A mark keeps the directory's inode in the kernel's memory, so their number is limited, and also
 * by fs.fanotify.max_user_marks. Where no more is possible, whoever reads begins anew: with what
 * the guest has by then (v9_device_mark_dirs).
 */
#ifndef V9_EXPORT_DIR_MARKS_H
#define V9_EXPORT_DIR_MARKS_H

#include <sys/stat.h>

#include "export/export.h"

/* Marks the directory `fd`, and those above it; what fails is noted. */
void v9_dir_marks_add(v9_export *ex, int32_t fd, const struct v9_attr *attr);

/* The same of any file `fd` that was just reached: it may be no directory, and the export may have
 * no marks. */
static inline void v9_dir_marks_reached(v9_export *ex, int32_t fd, const struct v9_attr *attr)
{
    if (ex->dir_marks && S_ISDIR(attr->mode))
        v9_dir_marks_add(ex, fd, attr);
}

#endif
