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
    /* On a file of each lane's own: has_own_file. */
    CHMOD,
    UTIMENS,
    TRUNCATE,
    RENAME,
    LINK,
    MKDIR,
    SYMLINK,
    READLINK,
    XATTR_GET,
    XATTR_NONE,
    XATTR_LIST,
    XATTR_SET,
    LOCK,
    GETLOCK,
    FSYNC,
    STATFS,
    ATTACH,
    /* Of what there may be many: is_scale. */
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

static inline bool has_own_file(enum workload workload)
{
    return workload >= CHMOD && workload <= ATTACH;
}

static inline bool is_scale(enum workload workload)
{
    return workload >= FIDS_FILL && workload <= ENTRIES_LIST;
}

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
    int error;        /* the errno that the right reply has */
    bool busy;        /* it is in the ring */
    /* The reply: bytes written into `in` and then into `data`. */
    uint32_t written;
    /* What the operation remembers between its steps. */
    uint32_t choice;
    uint64_t offset, handle, node, ino;
    uint64_t nodes[8];
    uint64_t random;
    uint64_t began; /* ns */
    uint32_t entries;
    uint8_t *seen; /* one byte per entry of the listing */
};

/* How the operation of one workload is done. */
struct operation {
    /* Before a run, for each lane that takes part; may be null. */
    void (*prepare)(struct lane *lane);
    /*
     * One step of an operation: checks the reply if there is one (step > 0), and either makes the
     * next request (true) or has ended the operation (false). Null: the protocol has no such thing.
     */
    bool (*step)(struct lane *lane);
    /* After a run, for each lane; may be null. */
    void (*release)(struct lane *lane);
};

/* One way to reach the files. */
struct protocol {
    /* Begins the session on lane 0. */
    void (*begin)(struct lane *lane);
    /* Checks what all replies have in common: sizes, type, tag, error. */
    void (*check)(const struct lane *lane);
    struct operation operations[WORKLOADS];
};

extern const struct protocol ninep, fuse, host;
extern int host_directory; /* what `host` works on */

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

/* Bytes of each read or write of the run. */
static inline uint32_t io_size(void)
{
    return run.workload == READ_SMALL || run.workload == WRITE_SMALL ? SMALL : PAYLOAD_MAX;
}

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

/* ---- engine.c, for what is not measured */

/* Sends the lane's request and waits for the reply. */
void engine_call(struct lane *lane);

/* Does one operation to its end, or until the server says that it does not support it. The second
 * ends the run without being wrong: `refused` of its outcome is the errno. Servers say so at the
 * first request of an operation or at its last, so that no fid is left over. */
void engine_try(struct lane *lane, bool (*step)(struct lane *lane));

/* Takes an error that the reply to `request` should not have: it is wrong, but in engine_try. */
void engine_take_error(const struct lane *lane, unsigned request, int error);

#endif
