/*
 * api: what Python sees of fs/ (vhost9p.h).
 */
#ifndef V9_FS_API_H
#define V9_FS_API_H

#include "export/api.h"
#include "mapped/api.h"

/* ---- attributes.c: attributes as the guest sees them ----------------------------------------- */

/* For tests: a file whose host inode is `host_ino` appears with this st_dev and st_ino. */
int v9_export_override_stat(v9_export *ex, uint64_t host_ino, uint64_t st_dev, uint64_t st_ino);
/*
 * Attributes of `name` in directory descriptor `fd`, or of `fd` itself (O_PATH will do) when name
 * is "". A final symlink is not followed. -V9_NO_DEVICE and -V9_NO_GROUP leave everything but the
 * qid filled in.
 */
int v9_attr_read(v9_export *ex, int32_t fd, const char *name, struct v9_attr *out);
/* As v9_attr_read, with the file's metadata file (mapped/mapped.c); -1: not known, it is searched
 * for. */
int v9_attr_read_held(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd,
                      struct v9_attr *out);

/* ---- setattr.c: changing attributes -----------------------------------------------------------
 */

/* What is changed, as in 9P2000.L's Tsetattr. */
enum {
    V9_SETATTR_MODE = 0x001,
    V9_SETATTR_UID = 0x002,
    V9_SETATTR_GID = 0x004,
    V9_SETATTR_SIZE = 0x008,
    V9_SETATTR_ATIME = 0x010, /* to now, unless ATIME_SET */
    V9_SETATTR_MTIME = 0x020,
    V9_SETATTR_CTIME = 0x040, /* to now, as all other changes do by themselves */
    V9_SETATTR_ATIME_SET = 0x080,
    V9_SETATTR_MTIME_SET = 0x100,
    V9_SETATTR_ALL = 0x1ff,
};
struct v9_setattr {
    uint32_t valid;    /* V9_SETATTR_* */
    uint32_t mode;     /* permission bits; others are ignored */
    uint32_t uid, gid; /* the guest's; V9_NO_ID: left alone */
    uint64_t size;
    uint64_t atime_sec, atime_nsec, mtime_sec, mtime_nsec; /* seconds: two's complement */
};
/*
 * Changes attributes of the file `fd` (O_PATH will do). `meta_fd` is its metadata file, -1: none,
 * or not known; `io_fd` a descriptor of it that is open for writing, -1: none. With that the size
 * can be changed even if the mode forbids writing now. -EINVAL for values that are invalid, -EPERM
 * for an owner that the guest may not use; -EISDIR and -EINVAL for the size of other files than
 * regular ones.
 */
int v9_setattr(v9_export *ex, int32_t fd, int32_t meta_fd, int32_t io_fd,
               const struct v9_setattr *to);

/* ---- create.c: entries of directories, created ----------------------------------------------- */

enum {
    V9_NEW_FILE = 0, /* a regular file, which is opened */
    V9_NEW_DIR = 1,
    V9_NEW_SPECIAL = 2, /* a FIFO, socket, device node or regular file */
    V9_NEW_LINK = 3,    /* a symlink */
};
struct v9_new {
    uint32_t kind;         /* V9_NEW_* */
    uint32_t mode;         /* permission bits; of a special file with its type */
    uint32_t uid, gid;     /* the guest's; V9_NO_ID: see v9_create */
    uint32_t flags;        /* of a file: Tlcreate's */
    uint32_t major, minor; /* of a special file */
    const char *target;    /* of a symlink */
};
/* The result. For V9_NEW_FILE it has descriptors of the file that was created or found, which are
 * the caller's; else they are -1. */
struct v9_created {
    int32_t path_fd, meta_fd, io_fd, io_flags;
    int32_t is_new;            /* whether it was not there before */
    struct v9_mapped metadata; /* that it began with; none: not known */
};
/*
 * Creates `name`, one component that the caller has validated, in directory `dir_fd`, as the
 * guest's user and within the quota. A uid of V9_NO_ID stands for the daemon's own; a gid of it for
 * the directory's where that is set-gid, else the daemon's own; with a map of ids see
 * export/idmap.h. Without O_EXCL a file that is there already is opened, if it is a regular one;
 * the caller truncates it. Fills *created. On failure nothing is left, unless the host fails twice.
 */
int v9_create(v9_export *ex, int32_t dir_fd, const char *name, const struct v9_new *as,
              struct v9_created *created);
/* Removes what v9_create has created, since what the request needs beside it has failed; nothing
 * that was there before. `kind` is V9_NEW_*. */
void v9_create_undo(v9_export *ex, int32_t dir_fd, const char *name, uint32_t kind,
                    const struct v9_created *created);

/* ---- names.c: entries of directories, linked, unlinked and renamed ---------------------------
 */

/* Names are single components that the caller has validated; -EINVAL for one that is reserved for
 * metadata. Other errors are those of link(2), unlink(2), rename(2), and the quota's. */

/* Gives the file `fd` (O_PATH will do), whose metadata file is `meta_fd` (-1: none, or not known),
 * one more name in directory `dir_fd`. */
int v9_link_file(v9_export *ex, int32_t fd, int32_t meta_fd, int32_t dir_fd, const char *name);
int v9_unlink(v9_export *ex, int32_t dir_fd, const char *name, uint32_t directory);
int v9_rename(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir, const char *new);

#endif
