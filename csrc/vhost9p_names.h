/*
 * The part of vhost9p.h, which includes it, that is about names of files: entries of directories
 * that are created and unlinked (fs/create.c), their metadata files (mapped/sidecar.c), and the
 * effect of changed names on files that guests know (fid/renames.c).
 */
#ifndef V9_VHOST9P_NAMES_H
#define V9_VHOST9P_NAMES_H

/* ---- fs/create.c: entries of directories, created and unlinked ------------------------------- */

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
    struct v9_mapped metadata; /* that it began with; none: not known */
};
/*
 * Creates `name`, one component that the caller has validated, in directory `dir_fd`, as the
 * guest's user and within the quota. A uid of V9_NO_ID stands for the daemon's own; a gid of it for
 * the directory's where that is set-gid, else the daemon's own; with a map of ids see
 * export/idmap.h. Without O_EXCL a file that is there already is opened, if it is a regular one.
 * Fills *created; what it fails to complete stays, as open(2) with O_CREAT leaves a file that
 * cannot be opened.
 */
int v9_create(v9_export *ex, int32_t dir_fd, const char *name, const struct v9_new *as,
              struct v9_created *created);
/* Removes `name` of directory `dir_fd`, and its metadata file. */
int v9_unlink(v9_export *ex, int32_t dir_fd, const char *name, uint32_t directory);

/*
 * Excludes others that change names together with metadata files or accounts of a quota. v9_create
 * and v9_unlink take the lock where there are such; Python takes it to rename and link. A thread
 * may take it several times.
 */
void v9_export_lock_names(v9_export *ex);
void v9_export_unlock_names(v9_export *ex);

/* mapped/sidecar.c: mapped-file's metadata files, while names change. The lock is held. */
/* Opens, or creates, the directory with the metadata of a directory's files: a descriptor. */
int v9_sidecar_dir(int32_t dir_fd);
/* Before a file gets one more name: its metadata, which `meta_fd` is open on, get that name too.
 * Metadata that lie there for another file are removed; -EEXIST for a name in use. Returns the
 * metadata directory for v9_sidecar_placed, which has to follow when the file has its name, or when
 * that has `failed`. */
int v9_sidecar_share(v9_export *ex, int32_t dir_fd, const char *name, int32_t meta_fd);
void v9_sidecar_placed(int32_t meta_dir, const char *name, uint32_t failed);
/* A new metadata file with its text: a descriptor. */
int v9_sidecar_new(int32_t meta_dir, const char *name, const struct v9_mapped *mapped);
/* Removes a name's metadata, if there are any. */
int v9_sidecar_discard(int32_t dir_fd, const char *name);
/* Removes the metadata directory of directory `name` that holds nothing else, for it to count as
 * empty. What is no directory is left alone. */
int v9_sidecar_clear(v9_export *ex, int32_t dir_fd, const char *name);

/* ---- server/names.c: the guest's changes of names -------------------------------------------- */

/*
 * fid/renames.c: changes of names by the guest. Between begin and end, no inode of the export is
 * evicted (fid/evict.h), so a file that loses its name in between stays reachable. Begin returns
 * whether any inode of the device is evicted, or any of the `kinds` that may lose a name may be
 * cached; if not, all other calls except end may be omitted.
 *
 * Renames that concern evicted inodes are recorded in the order in which the host makes them. So if
 * begin returns true, call lock before the rename, and unlock after renamed.
 */
enum { V9_NAMES_FILE = 1, V9_NAMES_DIRECTORY = 2 };
int v9_names_begin(v9_device *dev, uint32_t export, uint32_t kinds);
/* Before `name` of directory `fd`, or of the export's root (fd -1; then it may be a path), or the
 * file `fd` itself ("") loses its name: restores the file's inode if it is evicted, and removes it
 * from the cache. Returns whether it is a directory, whose rename concerns evicted inodes below it.
 * -EMFILE or -ENFILE: no descriptor was left, so the file must keep its name. */
int v9_names_before_loss(v9_device *dev, uint32_t export, int32_t fd, const char *name);
/* Writes the path, below the export's root, of `name` in directory `fd` or of `fd` itself (""),
 * NUL-terminated; its length, -ENOENT where it is outside, -ENAMETOOLONG. */
enum { V9_PATH_SIZE = 4096 }; /* PATH_MAX */
int v9_names_path(v9_device *dev, uint32_t export, int32_t fd, const char *name,
                  char path[V9_PATH_SIZE]);
/* A directory has been renamed; paths as v9_names_path writes them. */
void v9_names_renamed(v9_device *dev, uint32_t export, const char *old, const char *name);
void v9_names_end(v9_device *dev, uint32_t export);
void v9_names_lock(v9_device *dev, uint32_t export);
void v9_names_unlock(v9_device *dev, uint32_t export);
/*
 * The directory (an O_PATH descriptor, which the caller closes) and the name in it by which the
 * guest reached a pinned fid, even if the file has several names. -ENOENT if it has lost that name,
 * to the guest or the host; -EBUSY for an export's root.
 */
int v9_names_own(v9_device *dev, uint64_t handle, char name[V9_NAME_SIZE]);
/* Call one before the end, if the change succeeded. Entry `name` of a pinned fid's directory, or
 * the fid's own name (""), was removed (lost), or renamed to `into` in the directory of the fid
 * `directory` (V9_OWN_DIRECTORY: its own). */
#define V9_OWN_DIRECTORY 18446744073709551615U
void v9_names_lost(v9_device *dev, uint64_t handle, const char *name);
void v9_names_moved(v9_device *dev, uint64_t handle, const char *name, uint64_t directory,
                    const char *into);

#endif
