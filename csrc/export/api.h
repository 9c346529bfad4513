/*
 * api: what Python sees of export/ (vhost9p.h).
 */
#ifndef V9_EXPORT_API_H
#define V9_EXPORT_API_H

#include "base/api.h"
#include "export/refresher.h"
#include "quota/api.h"

typedef struct v9_export v9_export;
typedef struct v9_qidmap v9_qidmap;
typedef struct v9_mounts v9_mounts;
typedef struct v9_xattr_names v9_xattr_names;
typedef struct v9_hidden_paths v9_hidden_paths;
typedef struct v9_dir_marks v9_dir_marks;

enum {
    V9_EXPORTS_MAX = 257,            /* of a device: the first one, 255 with names, and this one: */
    V9_NOTICES = V9_EXPORTS_MAX - 1, /* the index of the directory of notices */
};

/* ---- qidmap.c: (host device, inode) -> qid.path ---------------------------------------------- */

enum {
    V9_DEV_IDENTITY = 1, /* qid.path = st_ino (multidevs warn, and forbid's own device) */
    V9_DEV_DENY = 2,     /* every file of this device: ENODEV (multidevs forbid) */
};

v9_qidmap *v9_qidmap_new(void);
/* The memory that a map of so many groups and files takes at most, in bytes. */
uint64_t v9_qidmap_memory(uint64_t entries);
void v9_qidmap_free(v9_qidmap *map);
/* Installs what (st_dev, mnt_id) stands for: a device index of Python's choice and V9_DEV_* flags.
 * Several mounts of one file system share an index. */
int v9_qidmap_set_device(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint32_t device,
                         uint32_t flags);
/* Installs a group: inodes of `device` whose top `bits` bits equal `top` get (ino << bits)|suffix.
 */
int v9_qidmap_add_group(v9_qidmap *map, uint32_t device, uint32_t bits, uint64_t top,
                        uint64_t suffix);
/* Installs one file of the fallback, when groups have run out. */
int v9_qidmap_add_file(v9_qidmap *map, uint32_t device, uint64_t ino, uint64_t path);
/* Looks up; fills *device when known. 0, -ENODEV (denied), -V9_NO_DEVICE or -V9_NO_GROUP. */
int v9_qidmap_lookup(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino,
                     uint32_t *device, uint64_t *path);
/* The same for a device index, whatever its flags: 0 or -V9_NO_GROUP. */
int v9_qidmap_find(v9_qidmap *map, uint32_t device, uint64_t ino, uint64_t *path);
/* Forgets what v9_qidmap_set_device has installed; groups and files stay. */
int v9_qidmap_forget_devices(v9_qidmap *map);

/* ---- export.c: one exported directory -------------------------------------------------------- */

struct v9_export_conf {
    int32_t root_fd;        /* O_PATH descriptor of the export's root; duplicated */
    uint32_t readonly;      /* opens for writing fail with EROFS */
    uint32_t stat_entries;  /* listings return the same qids as walks (multidevs remap) */
    uint32_t model;         /* V9_MODEL_* */
    uint32_t writeout;      /* written data goes to the disk at once (writeout=immediate) */
    uint32_t owners_matter; /* creating fails if the owner cannot be set (passthrough, not none) */
    uint32_t fmode, dmode;  /* of files and directories of the mapped models on the host */
    uint32_t unlabelled;    /* the host has no SELinux, so its files have no labels (fs/xattr.h) */
    uint32_t notifies;      /* its device has a directory of notices (export/notices.h) */
};

/* Where owner, mode, type and device number of the guest's files are kept (mapped/mapped.h). */
enum {
    V9_MODEL_HOST = 0,  /* the host's own: passthrough and none */
    V9_MODEL_XATTR = 1, /* mapped-xattr */
    V9_MODEL_FILE = 2,  /* mapped-file */
};

/* `qidmap` outlives the export, which uses it; exports of one device share theirs. */
v9_export *v9_export_new(const struct v9_export_conf *conf, v9_qidmap *qidmap, int32_t *err);
void v9_export_free(v9_export *ex);
/* Joins `ex`: its root appears as directory `name` of the root of `above`, and hides that entry.
 * Before both are served. */
int v9_export_join(v9_export *above, const char *name, v9_export *ex);
/* The export `ex` is the directory of notices (export/notices.h), whose file with the inode number
 * `events` is the stream, which ends at the position *end now. Where `listed` is set, listings have
 * the directory. `end` outlives the export. Before it is served. */
void v9_export_set_notices(v9_export *ex, uint64_t events, const uint64_t *end, uint32_t listed);
/* Whether a guest's user may use the export: 0, or -EPERM if its map of ids forbids him. */
int v9_export_admits(const v9_export *ex, uint32_t uid);
/* Whether a guest's user may change names, contents and extended attributes in it: 0; -EROFS if it
 * is read-only, or he is the one that only refreshes. */
int v9_export_allows_changes(const v9_export *ex, uint32_t uid);
/*
 * What makes the guest's kernel look at a file again, and changes nothing on the host
 * (export/notices.h): setting the time of modification to one of these seconds, or any attribute by
 * a fid of V9_REFRESH_UID (export/refresher.h).
 */
enum { V9_REFRESH_MTIME = 113990117, V9_FORGET_MTIME = 113990119, V9_RENEW_MTIME = 113990121 };
/*
 * Opens `name` (one component, validated by the caller) of directory `fd` as an O_PATH descriptor;
 * a symlink is opened, never followed. *where is the export that `fd` belongs to, and becomes the
 * one that the new descriptor belongs to. ".." is clamped at the root of an export that is joined
 * to none; where it would leave the export, because the directory was moved out of it, -ESTALE.
 *
 * `uid` is the guest's user who takes the step. This is where a walk enters another export, and
 * the one place where that is refused, with -EPERM, to a user whom its map of ids forbids: so no
 * fid of his is ever there. (Attaching is Python's: policy/idmap.py.)
 */
int v9_export_step(v9_export **where, uint32_t uid, int32_t fd, const char *name);
/* Its index in its device. */
uint32_t v9_export_index(const v9_export *ex);
/*
 * Opens a directory by its path below the export's root (1 to 4095 bytes), without following
 * symlinks, and in one step where no paths are hidden: an O_PATH descriptor. ".." is clamped at the
 * root, or fails with -EXDEV if the export is joined to another. Names of metadata are refused by
 * their usual spelling only; v9_export_step refuses all spellings. -ENOENT for what is hidden.
 */
int v9_export_descend(v9_export *ex, const char *path);
enum { V9_NAME_SIZE = 256 }; /* one component and its NUL */
/*
 * Opens the file that a descriptor names for reading or writing. No other function does so to a
 * file of the host. -ELOOP for a symlink; -ENXIO for other files than regular ones and directories.
 */
int v9_export_open(v9_export *ex, int32_t fd, int32_t flags);
/* export/hidden_names.c: the names under which mapped-file keeps metadata, of a directory's files
 * and of the export's root. */
enum { V9_META_DIR = 0, V9_META_ROOT = 1 };
const char *v9_hidden_name(uint32_t which);
/*
 * export/idmap.c: sets the map of owners (V9_UID) or groups (V9_GID). Everything is copied.
 * `ranges` are in the order of their host ids and do not overlap: else -EINVAL. A host id outside
 * all ranges shows as V9_ID_NOBODY; a guest id outside all ranges becomes `squash` on the host, or
 * is refused, as are forbidden ones. Once per kind, before the export is served; without a map, ids
 * stay as they are.
 */
struct v9_id_range {
    uint32_t guest, host, count;
};
struct v9_id_conf {
    const struct v9_id_range *ranges, *forbidden; /* of these, the guest ids */
    uint32_t count, forbidden_count;
    uint32_t squashes, squash; /* whether there is a squash; the host id */
};
enum { V9_UID = 0, V9_GID = 1, V9_ID_NOBODY = 65534 };
#define V9_NO_ID 4294967295
int v9_export_set_ids(v9_export *ex, uint32_t kind, const struct v9_id_conf *conf);
/* The guest's id for a host's. */
uint32_t v9_export_guest_id(const v9_export *ex, uint32_t kind, uint32_t host);
/* The host's id for a guest's; -EPERM where the guest may not use it. V9_NO_ID, which is no id,
 * stays. */
int64_t v9_export_host_id(const v9_export *ex, uint32_t kind, uint32_t guest);
/*
 * export/file_caps.c: capabilities of programs are kept as the attribute `name` (NUL-terminated,
 * copied), which the kernel does not know as such. From now on, writing to a file removes them
 * first. Once per export, before it is served. -EINVAL for an empty name or one that is too long.
 */
int v9_export_watch_caps(v9_export *ex, const char *name);
/* `quota` outlives the export. Once, before the export is served. */
int v9_export_set_quota(v9_export *ex, v9_quota *quota);

/* ---- xattr_names.c: the guest's names of extended attributes and the host's -------------------
 */

/* What a rule does with the guest's names that begin with `match`. */
enum {
    V9_XATTR_KEEP = 0,   /* the host has the same name */
    V9_XATTR_REFUSE = 1, /* as if the file had no such attribute */
    V9_XATTR_HIDE = 2,   /* as if the file system had no such attributes */
    V9_XATTR_STORE = 3,  /* the host has `store` and what follows the match */
};
struct v9_xattr_rule {
    const char *match, *store;
    uint32_t action; /* V9_XATTR_* */
};
/* The first rule that matches counts; rules are copied. NULL: no memory. */
v9_xattr_names *v9_xattr_names_new(const struct v9_xattr_rule *rules, uint32_t count);
void v9_xattr_names_free(v9_xattr_names *names);
/* The host's name for a name of the guest: its length. -EOPNOTSUPP for a hidden one; -`refused` for
 * a refused one, and for one that begins as a rule stores others; -ERANGE for one that is too long.
 */
enum { V9_XATTR_NAME = 256 }; /* XATTR_NAME_MAX and a NUL */
int v9_xattr_names_host(const v9_xattr_names *names, const char *name, int refused,
                        char host[V9_XATTR_NAME]);
/* The guest's name for a name of the host: its length. -ENODATA for one that the guest does not
 * see, since no name of the guest leads to it. */
int v9_xattr_names_guest(const v9_xattr_names *names, const char *host, char guest[V9_XATTR_NAME]);
/* From now on names are translated; `names` outlive the export. Once, before the export is served.
 */
void v9_export_set_xattr_names(v9_export *ex, const v9_xattr_names *names);
/* Limits of one file. Once, before the export is served; without, only the host's hold. */
struct v9_xattr_limits {
    uint32_t value; /* bytes of one value */
    uint32_t names; /* attributes */
    uint64_t total; /* bytes of all names and values */
};
void v9_export_limit_xattrs(v9_export *ex, const struct v9_xattr_limits *limits);

/* ---- hidden_paths.c: what no guest may see or use ---------------------------------------------
 */

/* A component's tokens are bytes, or one of these. */
enum {
    V9_HIDDEN_ANY = 256,  /* any byte */
    V9_HIDDEN_STAR = 257, /* any number of bytes */
    V9_HIDDEN_SET = 258,  /* a byte of the first set; + 1: of the second */
};
enum {
    V9_HIDDEN_SET_BYTES = 32,      /* a bit for each byte; byte 0 has the lowest bit of the first */
    V9_HIDDEN_COMPONENTS_MAX = 63, /* of a pattern */
    V9_HIDDEN_PATTERNS_MAX = 256,  /* of those that are more than a name at any depth */
};
struct v9_hidden_component {
    uint32_t size;    /* tokens; 0: `**`, which is never the last */
    uint32_t is_last; /* of its pattern */
};
/* All patterns, one after the other. */
struct v9_hidden_patterns {
    const struct v9_hidden_component *components;
    const uint16_t *tokens; /* of all components */
    const uint8_t *sets;
    uint32_t component_count, token_count, set_count;
};
/* Everything is copied. NULL: no memory, or too many patterns or components. */
v9_hidden_paths *v9_hidden_paths_new(const struct v9_hidden_patterns *from);
void v9_hidden_paths_free(v9_hidden_paths *paths);
/* Whether the patterns hide this path below an export's root, or one above it: 1 or 0. */
int v9_hidden_paths_hide(const v9_hidden_paths *paths, const char *path);
/* From now on they are hidden; `paths` outlive the export. Once, before the export is served. */
void v9_export_hide(v9_export *ex, const v9_hidden_paths *paths);
/*
 * Whether this entry of directory `dir_fd` is hidden from the guest, if there is one or not, and as
 * what (export/hidden_names.h). V9_IS_METADATA: under mapped-file, a name of its metadata, or
 * another spelling of one that the host's file system accepts. V9_IS_HIDDEN: a path that the
 * operator hides, or in a directory that is not inside the export any more. Or -errno if the
 * directory's path is not known, -ENAMETOOLONG if it is too long.
 */
int v9_export_hides(v9_export *ex, int32_t dir_fd, const char *name);

/* ---- mounts.c: which entries of a directory may lie on another device ------------------------ */

/* Which entries' attributes a listing has to read: those on whose names something is mounted, */
enum {
    V9_LOOK_NAMED =
        0,            /* and no other: the directory itself describes the rest, on its own device */
    V9_LOOK_DIRS = 1, /* and directories */
    V9_LOOK_ALL = 2,  /* all */
};

/* `mountinfo` (/proc/self/mountinfo) is duplicated; nobody else may poll it. */
v9_mounts *v9_mounts_new(int32_t mountinfo, int32_t *err);
void v9_mounts_free(v9_mounts *mounts);
/*
 * Installs what V9_UP_MOUNT asked for: `generation` came with the question, and the mount table was
 * read since. `names` are the names, each NUL-terminated, `size` bytes in all. Nothing is
 * installed, which is no error, where mounts have changed again; the request then asks again.
 */
int v9_mounts_set(v9_mounts *mounts, uint64_t mnt_id, uint64_t generation, uint32_t look,
                  const char *names, uint32_t size);
/* With stat_entries: from now on not every entry's attributes are read. `mounts` outlives the
 * export. Once, before the export is served. */
int v9_export_set_mounts(v9_export *ex, v9_mounts *mounts);

/* ---- dir_marks.c: directories that a guest has looked at, and what others change there --------
 */

/* A directory that was marked, or could not be. */
enum { V9_DIR_ID_MAX = 144, V9_DIR_PATH = 4096 };
struct v9_dir_note {
    uint32_t number; /* of its mark, until v9_dir_marks_drop */
    uint32_t export; /* index */
    int32_t error;   /* why it has no mark; 0: it has one */
    uint32_t above;  /* the number of the directory that it is in; 0: that has none */
    uint32_t is_root;
    uint32_t id_size;
    uint8_t id[V9_DIR_ID_MAX]; /* what events have for it (fanotify(7)): fsid and file handle */
    uint32_t path_size;        /* 0: it has none, unless it is the export's root */
    char path[V9_DIR_PATH];    /* below the export's root; a NUL follows */
};
/*
 * A notification group for ordinary users, and at most `max` marks. The eventfd `bell`, which stays
 * the caller's, is written to where a directory cannot be marked. NULL: *err is -ENOMEM, or that of
 * fanotify_init(2): -ENOSYS, -EINVAL and -EPERM on kernels without it, -EMFILE where the user has
 * too many groups. Called before system calls are limited.
 */
v9_dir_marks *v9_dir_marks_new(int32_t bell, uint32_t max, int32_t *err);
void v9_dir_marks_free(v9_dir_marks *marks);
/* The group's descriptor, readable when there are events. */
int v9_dir_marks_group(const v9_dir_marks *marks);
/* From now on directories are marked; `marks` outlive the export. Once, before it is served. */
void v9_export_set_dir_marks(v9_export *ex, v9_dir_marks *marks);
/* Takes the next note: 1; 0: there is none. A directory whose path has changed while it was marked
 * has one more. Notes come before the events that need them. */
int v9_dir_marks_next(v9_dir_marks *marks, struct v9_dir_note *out);
/* What events have for a directory, as in its note: the size in bytes; -errno. */
int v9_dir_id(int32_t fd, uint8_t id[V9_DIR_ID_MAX]);
/* Reads events, without what this process itself has done other than to the tree of directories:
 * the bytes of those that are left; -errno. 0: none are left. Does not wait. */
int v9_dir_marks_read(v9_dir_marks *marks, uint8_t *buffer, uint32_t size);
/* The directory is gone, and so is its mark. */
void v9_dir_marks_drop(v9_dir_marks *marks, uint32_t number);
/* There are no marks, and no notes. */
int v9_dir_marks_clear(v9_dir_marks *marks);
/* How many there are, and whether one was refused since the last v9_dir_marks_clear: from then on
 * no other is tried. */
void v9_dir_marks_view(v9_dir_marks *marks, uint32_t *count, uint8_t *full);

/* ---- file_locks.c ---------------------------------------------------------------------------- */

/*
 * Open-file-description locks (fcntl(2)) and flock(2). `cancel` NULL: -EAGAIN where another holds
 * the lock. Else the call waits, and ends with -EINTR once *cancel is set and the thread is sent
 * v9_sys_wake_signal's signal (again and again, until the call has ended: one that arrives just
 * before the wait begins is lost).
 */
int v9_lock_ofd(int32_t fd, int32_t type, uint64_t start, uint64_t length, const int32_t *cancel);
int v9_lock_flock(int32_t fd, int32_t type, const int32_t *cancel);
/* Sets *cancel, for other threads to see. */
void v9_lock_cancel(int32_t *cancel);
struct v9_lock {
    int32_t type; /* V9_LOCK_*; V9_LOCK_UNLCK: nothing conflicts */
    int32_t pid;  /* -1: an open-file-description lock */
    uint64_t start, length;
};
enum { V9_LOCK_RDLCK = 0, V9_LOCK_WRLCK = 1, V9_LOCK_UNLCK = 2 }; /* as on the wire */
/* Finds a lock that conflicts with *lock, and fills it in there. */
int v9_lock_ofd_test(int32_t fd, struct v9_lock *lock);

/* ---- credentials.c --------------------------------------------------------------------------- */

/* The capabilities that the daemon needs to give files any owner, and lacks; a bit for each
 * (linux/capability.h). 0: none. */
uint32_t v9_cred_lacking_caps(void);

#endif
