/*
 * api: what Python sees of request/ (vhost9p.h).
 */
#ifndef V9_REQUEST_API_H
#define V9_REQUEST_API_H

#include "export/api.h"

typedef struct v9_device v9_device;

struct v9_device_conf {
    uint32_t id;
    uint32_t threads;   /* running serving threads, 1..64 */
    uint32_t msize_max; /* cap of msize, bytes */
    uint32_t max_fids;
    uint32_t max_xattr;      /* values of extended attributes that fids may have; 0: any number */
    uint32_t mem_regions;    /* of guest memory, 1..V9_MEM_REGIONS */
    uint64_t mem_bytes;      /* of guest memory, in all regions */
    uint32_t awaits_start;   /* nothing begins before v9_device_begin, save a trial */
    uint32_t poll_us;        /* how long an idle thread polls for requests before it sleeps */
    uint32_t times_requests; /* whether how long they take is counted (request/counts.h) */
    uint64_t cpus[16];       /* bit n: serving threads may run on CPU n; none: on any (cpu_set_t) */
};

enum {
    V9_9P2000L = 0, /* also before the first Tversion */
    V9_9P2000U = 1,
};

/* ---- upcall.c: upcalls ----------------------------------------------------------------------- */

enum {
    V9_UP_DEVICE = 1, /* a = st_dev, b = mount id, fd = O_PATH descriptor of the file */
    V9_UP_GROUP = 2,  /* a = device index, b = st_ino */
    V9_UP_MOUNT = 3,  /* a = mount id, b = generation, fd = O_PATH descriptor on it */
};

/*
 * Python implements these functions (vhost9p/native/upcalls.py). Several serving threads may call
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
/* Takes a lock of the pinned fid with this handle, or releases one (V9_LOCK_UNLCK), for a process
 * of the guest: 0; -EAGAIN: another process holds it; -errno. `flock`: it may be one of flock(2).
 * `request` is no other request's number, and stays the same if the request runs again. */
int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock,
                   uint64_t request);
/* Decides the question of a handler in C, and installs the decision: 0 or -errno. Closes fd. */
int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd);
/* A request that is to be answered later was cancelled. */
void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq);
/* Logs that the ring is broken. */
void v9_up_broken(uint32_t device, const char *reason);
/* Logs that a request fails with an errno, before its reply: its message, without the data of a
 * Twrite, and what has refused it. `omitted` have failed since the last call that are not logged.
 */
void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted);
#ifdef V9_CDEF
}
#endif

/* Answers a request later, with a whole R-message; if that does not fit the guest's buffer, with
 * EMSGSIZE. -ESTALE if the ring was stopped meanwhile: nothing is published, which is no error. */
int v9_reply(v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data, uint32_t size);
/* The same with an errno, in the request's dialect; reported like any failure. */
int v9_reply_error(v9_device *dev, uint32_t slot, uint32_t seq, int32_t error);

/* ---- failure.c: which failed requests are reported ------------------------------------------- */

enum { V9_ERRNO_MAX = 134 };
struct v9_failure_conf {
    uint32_t per_second, burst;    /* reports at most */
    uint8_t skipped[V9_ERRNO_MAX]; /* by errno: 1 where it is not worth a report */
};
/* From now on v9_up_failure reports failed requests of the device whose first export this is. Once,
 * before it is served. -ENOMEM. */
int v9_export_report_failures(v9_export *ex, const struct v9_failure_conf *conf);

/* ---- trace.c: requests that somebody watches ------------------------------------------------- */

enum {
    V9_TRACE_FORMAT = 2, /* of all below, and of where it is; another one for each change */
    V9_TRACE_PAGE = 4096,
    V9_TRACE_RING = 8 << 20,     /* bytes */
    V9_TRACE_PATH_MAX = 1024,    /* of a path; of a longer one, the end is recorded */
    V9_TRACE_DATA_MAX = 1 << 16, /* of what a request reads or writes */
    V9_TRACE_RECORD_MAX = 160 << 10,
};

/* The first page. */
struct v9_trace_control {
    uint32_t on;    /* whether requests are recorded; set by main */
    uint32_t data;  /* bytes recorded of what a request reads or writes, at most; set by main */
    uint32_t ready; /* whether a process serves that can record; set by that */
};

/* The second page. Where the records are in the ring: counts of bytes that only grow, modulo
 * V9_TRACE_RING. */
struct v9_trace_progress {
    uint64_t claimed; /* how far it is, or is about to be, overwritten */
    uint64_t written; /* where the last record ends that is whole */
    uint64_t records; /* how many there ever were */
};

enum {
    V9_TRACE_PATH_NONE,  /* there is no such fid, or it is no file's */
    V9_TRACE_PATH_KNOWN, /* from the root of the export on; the root's is empty */
    V9_TRACE_PATH_CUT,   /* the end of one */
    V9_TRACE_PATH_GONE,  /* the file has no name any more */
};

/* Both paths, request and reply follow it. */
struct v9_trace_record {
    uint32_t size;                       /* of all, bytes */
    uint32_t request_size, request_held; /* bytes of the message, and how many follow */
    uint32_t reply_size, reply_held;
    uint32_t uid;     /* n_uname of the Tattach of its fid */
    uint64_t number;  /* counted from 1 */
    int64_t began;    /* CLOCK_REALTIME in ns; 0: before anybody watched */
    int64_t ended;    /* the same */
    int64_t took;     /* ns, on a clock that nobody sets */
    uint32_t dialect; /* V9_9P2000* */
    uint16_t path_size[2];
    uint8_t path_state[2];   /* V9_TRACE_PATH_* */
    uint16_t path_export[2]; /* index of the export that the path is in */
    uint16_t reserved;
};

/* Bytes of memory for the trace of a device. */
uint64_t v9_trace_size(void);
/* Takes the next record at *position, which moves on, out of memory that others write: its size, 0
 * if there is none yet, or -ESTALE if it was overwritten, or is damaged: the position is then
 * behind the last record. `out` has room for V9_TRACE_RECORD_MAX bytes. */
int v9_trace_read(const void *memory, uint64_t *position, uint8_t *out);
/* The position behind the last record, and how many there ever were. */
void v9_trace_end_of(const void *memory, uint64_t *position, uint64_t *records);
/* From now on the device records into such memory, which outlives it. Once, before it serves. */
void v9_device_set_trace(v9_device *dev, void *memory);

/* ---- counts.h: what a device has done ------------------------------------------------------- */

enum {
    V9_COUNTED_TYPES = 64,      /* by the number of a T-message, halved; 0: no such message */
    V9_LATENCY_BUCKETS = 21,    /* the last one has no bound */
    V9_LATENCY_FIRST_NS = 1000, /* bound of the first one; each other's is twice the one before */
};
struct v9_type_counts {
    uint64_t requests; /* answered, also with an error */
    uint64_t ns;       /* that those took whose time was taken, */
    uint64_t buckets[V9_LATENCY_BUCKETS];
};
/* Of an export by its index; requests that have no file count for the mount's own root, 0. */
struct v9_export_counts {
    uint64_t read, written;        /* bytes of files */
    uint64_t throttled, waited_ns; /* requests that had to wait for a rate limit, and how long */
    uint64_t errors[V9_ERRNO_MAX]; /* replies by errno; 0: another one */
    struct v9_type_counts types[V9_COUNTED_TYPES];
};
struct v9_counts {
    struct v9_export_counts exports[V9_EXPORTS_MAX];
};

/* ---- suspects.c: a request that ended processes ---------------------------------------------- */

/* Whom the death of a process is blamed on: nobody; all that ran are suspects; or the only one that
 * ran, or was on trial. */
enum { V9_BLAME_NOBODY, V9_BLAME_ALL, V9_BLAME_ONE };

/* A request that will be answered with EIO, since three processes died at it. */
struct v9_poison {
    uint32_t slot;
    uint32_t type, tag, dialect;
    uint32_t size;      /* of the message, bytes */
    uint32_t data_size; /* of its head: */
    uint8_t data[256];
};
/* The first one at or behind slot `from`, of a device that was recovered: 1; 0: there is none. */
int v9_device_poison(const v9_device *dev, uint32_t from, struct v9_poison *out);

/* ---- rate_queue.c ---------------------------------------------------------------------------- */

/* Delays Tread and Twrite of files so that the limits hold. Once, before the export is served.
 * -ENOMEM. */
int v9_export_set_throttle(v9_export *ex, const struct v9_token_bucket_conf *conf);

#endif
