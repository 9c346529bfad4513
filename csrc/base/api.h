/*
 * api: what Python sees of base/ (vhost9p.h).
 */
#ifndef V9_BASE_API_H
#define V9_BASE_API_H

#ifndef V9_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

#include "base/outcome.h"

/* ---- refusal.c: why a request fails ---------------------------------------------------------- */

/* What has refused it. */
enum {
    V9_REFUSED_BY_HOST = 0,     /* a system call has failed, or nothing else is known */
    V9_REFUSED_READONLY = 1,    /* the export is read-only */
    V9_REFUSED_ID = 2,          /* the export's id_map forbids an id: `value` */
    V9_REFUSED_HIDDEN = 3,      /* the guest may not use this name */
    V9_REFUSED_BYTES = 4,       /* the quota: of bytes, */
    V9_REFUSED_INODES = 5,      /* or of inodes */
    V9_REFUSED_FIDS = 6,        /* max_fids: `value` */
    V9_REFUSED_XATTRS_OPEN = 7, /* max_xattr: `value`; 0: the memory for values */
    V9_REFUSED_XATTR_VALUE = 8, /* xattrs.max_value: `value` */
    V9_REFUSED_XATTR_ROOM = 9,  /* xattrs.max_names, or max_total */
    V9_REFUSED_XATTR_RULE = 10, /* a rule of xattrs.rules */
    V9_REFUSED_DEVICE = 11,     /* multidevs=forbid */
    V9_REFUSED_EXPORTS = 12,    /* it would reach from one export to another */
    V9_REFUSED_OWNER = 13,      /* passthrough: the daemon may not create files of this owner */
    V9_REFUSED_KIND = 14,       /* neither a regular file nor a directory: never opened */
    V9_REFUSED_MOVED = 15,      /* it was moved out of the export, or away from where it was */
    V9_REFUSED_USER = 16,       /* the export's id_map admits no such user: `value` */
    V9_REFUSED_NOTICES = 17,    /* the name is that of the directory of notices */
    V9_REFUSED_FORGOTTEN = 18,  /* the guest has asked for that, to look it up again */
    V9_REFUSED_REFRESHER = 19,  /* the user's requests refresh, and change nothing */
    V9_REFUSED_BELOW = 20,      /* other paths below the directory would be hidden */
};

enum { V9_FILE_ACL = 4 + 32 * 8 }; /* linux/posix_acl_xattr.h: 32 entries */

/* What is known of a file of the host without asking a server for it. */
struct v9_file_facts {
    uint32_t known; /* 0: nothing is */
    uint32_t mode, uid, gid;
    uint64_t attributes; /* STATX_ATTR_* (statx(2)) */
    int32_t acl_size;    /* of its access ACL; 0: it has none; -1: not known */
    uint8_t acl[V9_FILE_ACL];
};

/* The ACL is read of files on the file system `asked` (st_dev), which may have to ask a server for
 * it; 0: of none, V9_FACTS_ASK: of all. */
#define V9_FACTS_ASK 0xffffffffffffffff
void v9_file_facts(int32_t fd, uint64_t asked, struct v9_file_facts *out);

/* Why the request of this thread fails. */
struct v9_refusal {
    uint32_t why;  /* V9_REFUSED_* */
    int32_t error; /* the errno of that */
    uint64_t value;
    uint32_t walked;             /* a Twalk: names that it has followed before it failed, */
    int32_t walk_error;          /* the errno there, which the reply does not say if walked > 0, */
    struct v9_file_facts denied; /* and the directory where that was */
};

/* ---- budget.c: how many descriptors each device may hold ------------------------------------- */

/* Divides the descriptors that the limit of open files leaves among the devices; once, after all
 * devices exist. Returns 0, or the limit that would be needed to serve them all. */
int v9_budget_begin(void);
/* The limit of open files that so many devices need in a process which has open what this one has,
 * and whose limit is `limit` so far. */
uint32_t v9_budget_needed(uint32_t devices, uint32_t limit);
/* The number of descriptors that a device may always hold. */
uint32_t v9_budget_share(void);
/* Closes a descriptor, whichever call has opened it. */
void v9_budget_close(int32_t fd);

/* ---- proc.c: what this process uses below /proc ---------------------------------------------- */

/* Makes the directory of this process's descriptors the current one, from which the files of
 * descriptors are reached soonest. */
int v9_proc_go_to_fds(void);

/* ---- name.c ---------------------------------------------------------------------------------- */

enum { V9_NAME_DOTS = 1 };
/* Whether a directory entry may have this name: 0, V9_NAME_DOTS for "." and "..", which every
 * directory has and keeps; -ENOENT for an empty one, -ENAMETOOLONG for one of more than 255 bytes
 * whatever they are, else -EINVAL for one with a slash or a NUL. */
int v9_name_check(const char *name, uint32_t size);

/* ---- host_stat.c: attributes of a file ------------------------------------------------------- */

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

/* ---- token_bucket.c: how fast reads and writes may be ---------------------------------------- */

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

/* ---- sys.c: system calls that Python's os module lacks --------------------------------------- */

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

/* The signal that ends a thread's wait in a system call; installs its empty handler. */
int v9_sys_wake_signal(void);

#endif
