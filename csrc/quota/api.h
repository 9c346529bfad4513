/*
 * api: what Python sees of quota/ (vhost9p.h).
 */
#ifndef V9_QUOTA_API_H
#define V9_QUOTA_API_H

#ifndef V9_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

typedef struct v9_quota v9_quota;

/* ---- quota.c: what an export's files take of the host, and its limits -------------- */

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
/* The memory that accounts of so many files take at most, in bytes. */
uint64_t v9_quota_memory(uint32_t max_accounts);
/* Frees it, unless a change still hangs in a system call: then it stays until the process ends. */
void v9_quota_free(v9_quota *quota);

#endif
