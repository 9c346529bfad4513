/*
 * vhost9p.h: the only surface between C and Python.
 *
 * The cffi build runs this file through the preprocessor with V9_CDEF defined and hands the result
 * to cdef(), so nothing is declared twice. Only plain declarations live here. Every function
 * returns 0 or a positive value on success and -errno on failure unless it says otherwise; none
 * keeps a pointer to the caller's memory. All are thread-safe.
 *
 * Division of labour: C moves bytes between the ring, guest memory and host files and answers the
 * requests that only read or move data. Whatever needs a decision comes to Python as an upcall;
 * Python installs its decision (a root fid, a qid group, a device's verdict) and C uses it from
 * then on, as a software switch uses its flow cache.
 */
#ifndef V9_VHOST9P_H
#define V9_VHOST9P_H

#ifndef V9_CDEF
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#endif

typedef struct v9_device v9_device;
typedef struct v9_export v9_export;
typedef struct v9_qidmap v9_qidmap;
typedef struct v9_quota v9_quota;
typedef struct v9_mounts v9_mounts;

#include "base/outcome.h"

/* Process-wide set-up: the SIGBUS handler for guest memory that the frontend truncates. */
int v9_init(void);
/* The size of the process's address space, in bytes. */
uint64_t v9_address_space(void);

/* ---- server/stop.c: SIGTERM and SIGINT ------------------------------------------------------- */

/* From now on, the first of these signals is written to the eventfd `fd` by its number, and
 * `patience_ms` milliseconds later the process ends, with status 0. Every thread has to block both
 * signals before. */
int v9_stop_start(int32_t fd, uint32_t patience_ms);
/* ---- base/budget.c: how many descriptors each device may hold -------------------------------- */

/* Divides the descriptors that the limit of open files leaves among the devices; once, after all
 * devices exist. Returns 0, or the limit that would be needed to serve them all. */
int v9_budget_begin(void);
/* The number of descriptors that a device may always hold. */
uint32_t v9_budget_share(void);
/* Duplicates a descriptor; -EMFILE beyond the budget. */
int v9_sys_dup(int32_t fd);
/* Closes a descriptor, whichever call has opened it. */
void v9_budget_close(int32_t fd);

/* ---- base/name.c ----------------------------------------------------------------------------- */

enum { V9_NAME_DOTS = 1 };
/* Whether a directory entry may have this name: 0, V9_NAME_DOTS for "." and "..", which every
 * directory has and keeps; -ENOENT for an empty one, -ENAMETOOLONG for one of more than 255 bytes
 * whatever they are, else -EINVAL for one with a slash or a NUL. */
int v9_name_check(const char *name, uint32_t size);

/* ---- export/qidmap.c: (host device, inode) -> qid.path --------------------------------------- */

enum {
    V9_DEV_IDENTITY = 1, /* qid.path = st_ino (multidevs warn, and forbid's own device) */
    V9_DEV_DENY = 2,     /* every file of this device: ENODEV (multidevs forbid) */
};

v9_qidmap *v9_qidmap_new(void);
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

struct v9_qid {
    uint8_t type;
    uint32_t version;
    uint64_t path;
};

struct v9_attr {
    struct v9_qid qid;
    uint64_t st_dev, st_ino, mnt_id; /* the host's, for the policy and the lock table */
    uint32_t mode, uid, gid;
    uint64_t nlink, rdev, size, blksize, blocks;
    uint64_t atime_sec, atime_nsec, mtime_sec, mtime_nsec, ctime_sec, ctime_nsec;
    uint64_t btime_sec, btime_nsec, gen; /* 0 where the host has none (has_btime) */
    uint32_t has_btime;
    uint32_t device; /* the qid map's device index */
    uint32_t type;   /* S_IFMT of the host's file, whatever the metadata say */
    int32_t stat_fd; /* the descriptor of the file that was used; -1: a name was */
};

/* ---- export/export.c: one exported directory ------------------------------------------------- */

struct v9_export_conf {
    int32_t root_fd;        /* O_PATH descriptor of the export's root; duplicated */
    uint32_t readonly;      /* opens for writing fail with EROFS */
    uint32_t stat_entries;  /* listings return the same qids as walks (multidevs remap) */
    uint32_t model;         /* V9_MODEL_* */
    uint32_t writeout;      /* written data goes to the disk at once (writeout=immediate) */
    uint32_t owners_matter; /* creating fails if the owner cannot be set (passthrough, not none) */
    uint32_t fmode, dmode;  /* of files and directories of the mapped models on the host */
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
 * Opens a directory by its path below the export's root (1 to 4095 bytes), in one step and without
 * following symlinks: an O_PATH descriptor. ".." is clamped at the root, or fails with -EXDEV if
 * the export is joined to another. Hidden names are refused by their usual spelling only;
 * v9_export_step refuses all spellings.
 */
int v9_export_descend(v9_export *ex, const char *path);
/*
 * Finds the directory (returned as an O_PATH descriptor) and the name in it by which the file `fd`
 * was reached, and checks that the name still stands for that file: else -ENOENT. -EBUSY for the
 * root, and for a file that was moved out of the export.
 */
enum { V9_NAME_SIZE = 256 }; /* one component and its NUL */
int v9_export_parent(v9_export *ex, int32_t fd, char name[V9_NAME_SIZE]);
/*
 * Opens the file that a descriptor names for reading or writing. No other function does so to a
 * file of the host. -ELOOP for a symlink; -ENXIO for other files than regular ones and directories.
 */
int v9_export_open(v9_export *ex, int32_t fd, int32_t flags);
/* export/hidden_names.c: the names under which mapped-file keeps metadata, of a directory's files
 * and of the export's root. */
enum { V9_META_DIR = 0, V9_META_ROOT = 1 };
const char *v9_hidden_name(uint32_t which);
/* Whether this entry of directory `dir_fd` is hidden from the guest: under mapped-file, one of
 * these names, or another spelling of one that the host's file system accepts. */
int v9_export_hides(v9_export *ex, int32_t dir_fd, const char *name);
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
/* Some file has them now: open files are checked again. */
void v9_export_caps_set(v9_export *ex);
/* ---- base/token_bucket.c: how fast reads and writes may be ----------------------------------- */

enum { V9_BPS_TOTAL, V9_BPS_READ, V9_BPS_WRITE, V9_IOPS_TOTAL, V9_IOPS_READ, V9_IOPS_WRITE };
#define V9_LIMITS 6

struct v9_limit {
    uint64_t avg;    /* bytes or requests per second; 0: no limit */
    uint64_t max;    /* per second, in a burst; 0: a tenth of a second's worth of avg may burst */
    uint32_t length; /* seconds that a burst may last; where it is more than 1, max is not 0 */
};

struct v9_token_bucket_conf {
    struct v9_limit limits[V9_LIMITS]; /* by V9_BPS_TOTAL and so on; all that are set apply */
    uint64_t iops_size; /* bytes beyond which a request counts as a multiple; 0: never */
};

/* Delays Tread and Twrite of files so that the limits hold. Once, before the export is served.
 * -ENOMEM. */
int v9_export_set_throttle(v9_export *ex, const struct v9_token_bucket_conf *conf);

/* ---- fs/: attributes as the guest sees them -------------------------------------------------- */

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

/* ---- mapped/mapped.c: what the mapped security models keep beside a file --------------------- */

enum { V9_HAS_UID = 1, V9_HAS_GID = 2, V9_HAS_MODE = 4, V9_HAS_RDEV = 8, V9_HAS_ALL = 15 };
/* In a change: a program loses its set-id bits, as by chown(2) and write(2), whatever its mode is
 * by then. Not together with a mode. */
enum { V9_NO_SET_IDS = 16 };

struct v9_mapped {
    uint32_t has; /* V9_HAS_*: the fields that count; V9_NO_SET_IDS */
    uint32_t uid, gid, mode;
    uint64_t rdev; /* a dev_t (makedev(3)) */
};

/* Opens the metadata file of the file `fd` (O_PATH will do), by the file's present name; -ENOENT:
 * it has none, or the model is not mapped-file. */
int v9_mapped_find(v9_export *ex, int32_t fd);
/* Under mapped-file, the directory that has the metadata files of a directory's files: a
 * descriptor, or negative: -EMFILE or -ENFILE where none was left. */
int32_t v9_mapped_dir(v9_export *ex, int32_t dir_fd);
/* The target of a symlink of the guest: its length, at most `size` - 1; -ENAMETOOLONG. */
int v9_mapped_readlink(v9_export *ex, int32_t fd, char *target, size_t size);
/*
 * Changes the metadata of the file `fd` (O_PATH will do); `meta_fd` is its metadata file under
 * mapped-file. A mode without a type leaves the type alone. After a crash the text of mapped-file
 * is the old one or the new one.
 */
int v9_mapped_write(v9_export *ex, int32_t fd, int32_t meta_fd, const struct v9_mapped *change);
/* Caches metadata of mapped-xattr as long as ctime proves that they are current
 * (mapped/metadata_cache.h). Once, before the export is served. */
void v9_export_cache_metadata(v9_export *ex);
/* Python begins to change names (begin 1), or has ended (0). In between, a file and its metadata
 * may have different names. */
void v9_mapped_changing(v9_export *ex, uint32_t begin);

/* ---- quota/quota.c: what an export's files take of the host, and its limits ------------------ */

/*
 * The state file as C sees it: V9_QUOTA_FILE bytes, mapped shared, with the usage at
 * V9_QUOTA_USAGE; the rest is Python's.
 */
enum { V9_QUOTA_FILE = 4096, V9_QUOTA_USAGE = 2048 };

struct v9_quota_usage {
    int64_t bytes;     /* st_blocks of all files and directories, in bytes */
    int64_t inodes;    /* of all but the root */
    uint64_t changing; /* changes begun and not settled; files without names that are held */
};

struct v9_quota_conf {
    uint64_t bytes, inodes; /* the limits; all bits set: none */
    int32_t fd;             /* the state file; not used after v9_quota_new */
    int32_t error;          /* errno beyond a limit: ENOSPC or EDQUOT */
    uint32_t block;         /* bytes that the file system allocates at once */
    uint32_t max_accounts;  /* files held, and remembered, at a time */
    uint32_t patience_ms;   /* how long to wait for what others have set aside */
};

v9_quota *v9_quota_new(const struct v9_quota_conf *conf, int32_t *err);
/* Frees it, unless a change still hangs in a system call: then it stays until the process ends. */
void v9_quota_free(v9_quota *quota);
/* `quota` outlives the export. Once, before the export is served. */
int v9_export_set_quota(v9_export *ex, v9_quota *quota);
/*
 * A change of files, between begin and end. Begin sets aside the most that it may take, or returns
 * -EDQUOT or -ENOSPC, and holds the files that it touches. End settles these, and gives back what
 * was set aside. A new file is counted in between (v9_quota_count_new, quota/change.h).
 */
enum { V9_QUOTA_FILES = 3 };
struct v9_quota_change {
    uint64_t bytes, inodes;            /* the most that it may take */
    int32_t fds[V9_QUOTA_FILES];       /* of the files, O_PATH will do; negative: none */
    uint32_t gone[V9_QUOTA_FILES];     /* set before the end: it certainly has no name any more */
    uint32_t accounts[V9_QUOTA_FILES]; /* set by begin; 0: none */
};
int v9_quota_change_begin(v9_quota *quota, struct v9_quota_change *change);
void v9_quota_change_end(v9_quota *quota, const struct v9_quota_change *change);

/* ---- export/mounts.c: which entries of a directory may lie on another device ----------------- */

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

/* ---- request/upcall.c: upcalls --------------------------------------------------------------- */

enum {
    V9_UP_DEVICE = 1, /* a = st_dev, b = mount id, fd = O_PATH descriptor of the file */
    V9_UP_GROUP = 2,  /* a = device index, b = st_ino */
    V9_UP_MOUNT = 3,  /* a = mount id, b = generation, fd = O_PATH descriptor on it */
};

/*
 * Python implements these functions (vhost9p/native/device.py). Several serving threads may call
 * them at a time, each for its own request, and never with a lock held, since they wait for the
 * interpreter. `device` is conf.id of v9_device_new.
 */
#ifdef V9_CDEF
extern "Python+C" {
#endif
/* Answers a T-message. Returns the size of the R-message in `reply`, which has room for msize_max
 * bytes, or -errno; 0: v9_reply answers it later. */
int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *reply);
/* Decides the question of a handler in C, and installs the decision: 0 or -errno. Closes fd. */
int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd);
/* A request that is to be answered later was cancelled. */
void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq);
/* Logs that the ring is broken. */
void v9_up_broken(uint32_t device, const char *reason);
#ifdef V9_CDEF
}
#endif

/* Answers a request later, with a whole R-message; if that does not fit the guest's buffer, with
 * EMSGSIZE. -ESTALE if the ring was stopped meanwhile: nothing is published, which is no error. */
int v9_reply(v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data, uint32_t size);
/* Copies request bytes that `data` does not hold (the payload of Twrite). Returns bytes copied. */
int v9_gather(v9_device *dev, uint32_t slot, uint32_t seq, uint32_t offset, uint8_t *out,
              uint32_t size);

/* ---- server/device.c: one vhost-user device with its ring, memory and fids ------------------- */

enum { V9_MEM_REGIONS = 509 }; /* what GET_MAX_MEM_SLOTS answers, at most */

struct v9_device_conf {
    uint32_t id;
    uint32_t threads;   /* running serving threads, 1..64 */
    uint32_t msize_max; /* cap of msize, bytes */
    uint32_t max_fids;
    uint32_t mem_regions; /* of guest memory, 1..V9_MEM_REGIONS */
    uint64_t mem_bytes;   /* of guest memory, in all regions */
    uint32_t poll_us;     /* how long an idle thread polls for requests before it sleeps */
    uint64_t cpus[16];    /* bit n: serving threads may run on CPU n; none: on any (cpu_set_t) */
};

v9_device *v9_device_new(const struct v9_device_conf *conf, int32_t *err);
/* Its account of descriptors. */
uint32_t v9_device_account(const v9_device *dev);
/* Stops the threads, closes every descriptor, and frees the device: 1. The exports stay. 0 if
 * threads hang in system calls and will use the device again: it then stays until the process
 * ends. */
int v9_device_free(v9_device *dev);
/* Adds an export. Index 0 is the one that Tattach without a name attaches. Setting it makes the
 * device serve, so it is set last. -ENOSPC at V9_EXPORTS_MAX. */
int v9_device_set_export(v9_device *dev, uint32_t index, v9_export *ex);
enum { V9_EXPORTS_MAX = 256 };
/* Returns to the state after v9_device_new: the ring is stopped, fids are removed, and so is memory
 * unless `memory_stays`. */
void v9_device_reset(v9_device *dev, uint32_t memory_stays);
/* -EBUSY while the ring runs. */
int v9_device_set_features(v9_device *dev, uint64_t features);
void v9_device_set_msize(v9_device *dev, uint32_t msize);
enum {
    V9_9P2000L = 0, /* also before the first Tversion */
    V9_9P2000U = 1,
};
/* The session's dialect: which requests C knows, and what an error looks like. */
void v9_device_set_dialect(v9_device *dev, uint32_t dialect);
/* Live counts, which tests for leaks read. */
struct v9_device_stats {
    uint64_t fids, inflight, requests, upcalls, signals;
    uint64_t inodes, evicted; /* files in the table; those without descriptors (fid/evict.h) */
    uint32_t threads, broken;
};
void v9_device_stats(v9_device *dev, struct v9_device_stats *out);

/* Memory table; descriptors are duplicated. -EINVAL, -EEXIST (overlap), -ENOSPC (mem_regions),
 * -ENOMEM (mem_bytes). */
int v9_device_mem_add(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd);
int v9_device_mem_remove(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva);
/* Replaces all regions; on failure, none is left. */
struct v9_region_conf {
    uint64_t gpa, size, uva, mmap_offset;
    int32_t fd;
};
int v9_device_mem_set(v9_device *dev, const struct v9_region_conf *regions, uint32_t count);

/* Set-up of a stopped ring; -EBUSY while it runs. -EINVAL for a value that is invalid by itself. */
int v9_ring_set_num(v9_device *dev, uint32_t num);
int v9_ring_set_base(v9_device *dev, uint32_t base);
int v9_ring_set_addr(v9_device *dev, uint64_t desc, uint64_t used, uint64_t avail);
/*
 * Starts the ring, or replaces the kick descriptor of a running one. Descriptors are duplicated; -1
 * means "none: poll" (kick) or "do not signal" (call). -EINVAL with a *reason if the set-up makes
 * no valid ring; it then stays stopped.
 */
int v9_ring_set_kick(v9_device *dev, int32_t fd, const char **reason);
/* Whether the ring was started and not stopped since. */
uint32_t v9_ring_is_started(v9_device *dev);
int v9_ring_set_call(v9_device *dev, int32_t fd);
int v9_ring_set_err(v9_device *dev, int32_t fd);
int v9_ring_enable(v9_device *dev, uint32_t enable);
/* Stops taking requests (they stay in the ring). Returns at once. */
void v9_ring_pause(v9_device *dev);
/* After v9_ring_pause: waits up to timeout_ms for the requests in flight, answers EIO to those that
 * are left, and cuts them off from guest memory. Returns the base for GET_VRING_BASE. */
uint32_t v9_ring_drain(v9_device *dev, uint32_t timeout_ms);

/* ---- fid/fid.c ------------------------------------------------------------------------------- */

enum {
    V9_FID_UPCALL = 1, /* Tread, Twrite and Tclunk of this fid go to Python (xattr fids) */
    V9_FID_LOCKS = 2,  /* Tclunk goes to Python (the fid has placed locks) */
};

struct v9_fid_info {
    uint64_t handle;  /* identifies this fid, and no other that ever has its number (fid/fid.h) */
    int32_t path_fd;  /* O_PATH */
    int32_t meta_fd;  /* metadata file (mapped/mapped.c), -1: none */
    int32_t io_fd;    /* -1 unless opened */
    int32_t io_flags; /* open(2) flags of io_fd */
    uint32_t uid;     /* n_uname of the Tattach from which it descends */
    uint32_t flags;   /* V9_FID_* */
    uint32_t export;  /* index of the export that the file belongs to */
    uint64_t st_dev, st_ino;
};

/* Pins the entry: its descriptors stay open until v9_fid_put, whatever the guest does. -EBADF. */
int v9_fid_get(v9_device *dev, uint32_t fid, struct v9_fid_info *out);
void v9_fid_put(v9_device *dev, uint64_t handle);
/* The present handle of a number, even if its file cannot be reopened. -EBADF. */
int v9_fid_find(v9_device *dev, uint32_t fid, uint64_t *handle);
/* Enters a fid, and returns its handle in *handle. On success it owns path_fd, which may be -1 (an
 * xattr fid). -EBADF if the number is in use (the kernel's client never does this) or the session
 * is over; -EMFILE at the cap. */
int v9_fid_add(v9_device *dev, uint32_t fid, int32_t path_fd, uint32_t export, uint32_t uid,
               uint32_t flags, const struct v9_attr *attr, uint64_t *handle);
/* Tcreate: the fid of a directory now stands for the file created in it as `name`. On success it
 * owns the descriptors. */
struct v9_created;
int v9_fid_become(v9_device *dev, uint64_t handle, const char *name, const struct v9_created *made,
                  const struct v9_attr *attr);
/* Adds V9_FID_* flags: from now on, only Python clunks the fid. Python stores its state for the
 * fid, by the handle, before this call. -EBADF: the fid has lost its number, or has another use. */
int v9_fid_mark(v9_device *dev, uint64_t handle, uint32_t flags);
/* Surround a change of the size of a pinned fid's file for the guest; `size` is the new one, -1: it
 * did not change. */
void v9_fid_resizing(v9_device *dev, uint64_t handle);
void v9_fid_resized(v9_device *dev, uint64_t handle, int64_t size);
/* Reads entries of a pinned fid's open directory, in the layout of getdents64(2), from the one
 * after `offset` (a d_off; 0: from the first). Returns their size in bytes, 0 at the end. -EBADF,
 * -ENOTDIR. */
int v9_fid_read_dir(v9_device *dev, uint64_t handle, uint64_t offset, uint8_t *out, uint32_t size);
/* Removes a fid's number; its descriptors are closed with its last pin. -EBADF: it had no number
 * any more. */
int v9_fid_clunk(v9_device *dev, uint64_t handle);
/* Begins a session, and removes all fids. -ESTALE if another session has begun meanwhile. */
int v9_fid_clear(v9_device *dev);

#include "vhost9p_names.h"

/* ---- base/sys.c: system calls that Python's os module lacks ---------------------------------- */

/*
 * open(2) flags for 9P2000.L's, which are Linux's generic numbers, whatever this host's are. Always
 * with O_NONBLOCK, O_NOCTTY and O_CLOEXEC. O_APPEND is kept on write-only opens and dropped on
 * read-write ones: with cache=mmap or loose the client opens write-only files as O_RDWR|O_APPEND
 * and writes pages back by offset, and pwrite on an O_APPEND descriptor would append them. O_DIRECT
 * is dropped, since the client's buffers need not be aligned; so are
 * O_CREAT and O_EXCL, which are the caller's.
 */
int v9_sys_open_flags(uint32_t flags);
/* 9P2000.L's flags for the mode[1] of Topen and Tcreate (open(5) of Plan 9). -EOPNOTSUPP for
 * ORCLOSE, to remove the file with the fid. */
int v9_sys_open_mode(uint32_t mode);

/* utimensat on a descriptor (O_PATH will do); nsec may be V9_TIME_NOW or V9_TIME_OMIT. */
int v9_sys_utimens(int32_t fd, int64_t atime_sec, int64_t atime_nsec, int64_t mtime_sec,
                   int64_t mtime_nsec);
enum { V9_TIME_NOW = 1073741823, V9_TIME_OMIT = 1073741822 };

/* The signal that ends a thread's wait in a system call; installs its empty handler. */
int v9_sys_wake_signal(void);

/* ---- export/file_locks.c --------------------------------------------------------------------- */

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

/* ---- export/credentials.c -------------------------------------------------------------------- */

/* The capabilities that the daemon needs to give files any owner, and lacks; a bit for each
 * (linux/capability.h). 0: none. */
uint32_t v9_cred_lacking_caps(void);

#endif
