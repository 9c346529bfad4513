/*
 * What the parts of the benchmark share: lanes, workloads and protocols.
 *
 * A *lane* is one request's worth of guest memory, and does one operation after another; the queue
 * depth is the number of lanes at work. An *operation* (a stat, say) is one or more requests, each
 * made when the one before has been answered. A *protocol* knows how to do each workload's
 * operation step by step, and checks each reply; ending the process on the first wrong one.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

enum {
    MAX_LANES = 128,
    HEADER_MAX = 4096, /* bytes of a request or reply beside its payload */
    PAYLOAD_MAX = 512 * 1024,
    SMALL = 4096,         /* bytes of the small reads and writes */
    LISTING = 128 * 1024, /* bytes of a directory that are asked for at once */
};

enum workload {
    GETATTR,
    STAT,
    WALK,
    OPEN,
    READ_SMALL,
    WRITE_SMALL,
    READ_LARGE,
    WRITE_LARGE,
    LIST,
    CREATE,
    /* What vhost9p answers in Python: is_upcall. */
    CHMOD,
    UTIMENS,
    TRUNCATE,
    RENAME,
    LINK,
    XATTR_GET,
    XATTR_SET,
    LOCK,
    GETLOCK,
    FSYNC,
    ATTACH,
    /* What there may be many of: is_scale. */
    FIDS_FILL,
    FIDS_GETATTR,
    FIDS_CLONE,
    FIDS_WALK,
    DEVICES_FIRST,
    DEVICES_STAT,
    ENTRIES_LIST,
    FRESH_STAT,
    FRESH_WALK,
    WORKLOADS,
};

static inline bool is_upcall(enum workload workload)
{
    return workload >= CHMOD && workload <= ATTACH;
}

static inline bool is_scale(enum workload workload)
{
    return workload >= FIDS_FILL && workload <= ENTRIES_LIST;
}

/* The attribute of XATTR_GET and XATTR_SET. */
#define XATTR_NAME "user.bench"
#define XATTR_VALUE "a value of 24 bytes, say"
enum { XATTR_SIZE = sizeof(XATTR_VALUE) - 1 };

enum payload { NO_PAYLOAD, PAYLOAD_OUT, PAYLOAD_IN };

struct lane {
    unsigned index;
    unsigned step; /* of the operation: the number of replies so far */
    /* The request: `head` bytes of `out`, and `payload` bytes of `data` either way. */
    uint8_t *out, *in, *data;
    struct ring_desc *table;
    uint32_t head, payload;
    enum payload way;
    uint32_t in_size; /* bytes of `in` that the reply may use */
    bool silent;      /* it is answered with no bytes at all */
    bool busy;        /* it is in the ring */
    /* The reply: bytes written into `in` and then into `data`. */
    uint32_t written;
    /* What the operation remembers between its steps. */
    uint32_t choice;
    uint64_t offset, handle, node;
    uint64_t nodes[8];
    uint64_t random;
    uint64_t began; /* ns */
    uint32_t entries;
    uint8_t *seen; /* one byte per entry of the listing */
};

/* One way to reach the files. */
struct protocol {
    /* Begins the session on lane 0. */
    void (*begin)(struct lane *lane);
    /* Before and after a run, for each lane that takes part. */
    void (*prepare)(enum workload workload, struct lane *lane);
    void (*release)(enum workload workload, struct lane *lane);
    /*
     * One step of an operation: checks the reply if there is one (step > 0), and either makes the
     * next request (true) or has ended the operation (false).
     */
    bool (*step)(enum workload workload, struct lane *lane);
    /* Checks what all replies have in common: sizes, type, tag. */
    void (*check)(const struct lane *lane);
    bool lacks_some; /* the workloads that is_upcall and is_scale tell */
};

extern const struct protocol ninep, fuse, host;
extern int host_directory; /* what `host` works on */

/* host_upcalls.c */
void host_prepare_upcall(enum workload workload);
void host_release_upcall(void);
void host_step_upcall(enum workload workload);

/* host_scale.c */
void host_prepare_scale(enum workload workload);
void host_release_scale(void);
void host_step_scale(enum workload workload, struct lane *lane);

/* The run under way, for messages, and what it works on. */
struct run {
    enum workload workload;
    unsigned depth;
    enum waiting waiting;
    uint64_t limit, think;         /* ns */
    uint64_t serial;               /* differs between any two runs */
    uint32_t fresh;                /* operations of a fresh workload begun so far */
    uint32_t size, files, entries; /* where is_scale: ninep_scale.c */
};

extern struct run run;
extern const char *const workload_names[WORKLOADS];

/* Says what the server did wrong, and where, and ends the process with 3. */
_Noreturn void wrong(const struct lane *lane, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Says what of the benchmark's own does not work, and ends the process with 1. */
_Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ns of the monotonic clock. */
uint64_t now(void);

/* A lane's next pseudo-random number (splitmix64). */
uint64_t draw(struct lane *lane);

/* Sends the lane's request and waits for the reply (engine.c): for what is not measured. */
void engine_call(struct lane *lane);

#endif
