/*
 * state: a device and its requests in flight, as the serving threads see them. Types only.
 *
 * One mutex per device guards everything here, and no file system call is made under it. Functions
 * marked [locked] are called with it held.
 */
#ifndef V9_REQUEST_STATE_H
#define V9_REQUEST_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/api.h"
#include "base/evidence.h"
#include "base/outcome.h"
#include "base/token_bucket.h"
#include "base/wire.h"
#include "export/qidmap.h"
#include "fid/fid.h"
#include "fs/attributes.h"
#include "fs/created.h"
#include "request/api.h"
#include "virtio/guest_memory.h"
#include "virtio/virtqueue.h"

#define V9_SLOTS 1024 /* requests in flight of one device */
/* Room for every valid message but Twrite; the longest are a Twalk of 16 names and a path. */
#define V9_REQUEST_DATA 8192
#define V9_THREADS_MAX 64 /* of one device, stuck ones included */
#define V9_SIGNAL_BATCH 8 /* completions that one notification may cover */
#define V9_FEATURE_INDIRECT 28
#define V9_FEATURE_EVENT_IDX 29
#define V9_FEATURE_PACKED 34

enum v9_state {
    V9_FREE,
    V9_RUNNING,      /* a serving thread has it */
    V9_AWAY,         /* its thread uses no guest memory: it is in Python, or waits for the host */
    V9_LATER,        /* Python answers it later, from another thread */
    V9_RATE_LIMITED, /* it waits in a rate queue (request/rate_queue.h) */
    V9_FLUSHING,     /* a Tflush that waits for its target */
    V9_BARRIER,      /* a Tversion that waits for all others */
    V9_AGAIN,        /* its process died: it is run again (request/recover.h) */
};

/* A question of a handler in C to Python: V9_UP_*'s arguments. */
struct v9_question {
    uint64_t a, b;
    int32_t fd;
};

struct v9_request {
    /* Three cache lines, with the beginnings of `created` and `evidence`: all but a few requests
     * touch nothing else before the chain. */
    _Alignas(64) enum v9_state state;
    uint32_t slot, seq;
    bool dead;           /* cut off: its thread, or Python, publishes nothing */
    bool flush_reported; /* V9_LATER: Python knows that it is cancelled */
    uint16_t flushers;   /* V9_FLUSHING requests that wait for it */
    uint8_t type;
    uint8_t dialect; /* V9_9P2000*: of the session in which it came */
    bool admitted;   /* it has left its rate queue */
    uint8_t asked;   /* questions about mounts, so far */
    uint16_t tag;
    uint16_t tag_before, tag_after; /* slot + 1: neighbours in its list of dev->tags */
    bool again;                     /* a process that died had begun it (request/recover.h) */
    bool done;                      /* and had done it: its reply is written */
    uint8_t deaths;                 /* of processes that it may have ended (request/suspects.h) */
    bool overdue;                   /* a trial has ended before it did */
    bool convicted;                 /* in the last recovery: it has an error from then on */
    uint8_t failed;                 /* errno of the reply (request/counts.h) */
    uint16_t export;                /* index of the export of its file */
    int error;                      /* found while parsing the header, -errno */
    uint32_t size;                  /* size[4] of the message */
    uint32_t data_size;             /* bytes of it in data */
    uint32_t reply_size;            /* written already, when `changes` makes it come true */
    uint32_t written;               /* bytes, by a Twrite */
    struct v9_request *next;        /* in the free list, or in a rate queue */

    uint64_t order;                  /* counts requests, by when they were popped */
    struct v9_place pop_at, push_at; /* where in the ring it was popped and is pushed */
    uint64_t changes;                /* handle of the fid that it was the last to change (fid.h) */
    int64_t popped_ns;               /* CLOCK_MONOTONIC; 0: its time is not taken */
    struct v9_question question;     /* V9_UP_DEVICE, _GROUP, _MOUNT: its handler's */

    struct v9_created created;   /* p9/create.c: created, but not reported yet */
    struct v9_evidence evidence; /* of names that it changes */

    uint32_t created_in;                /* index of the export that `created` belongs to */
    uint32_t target, target_seq;        /* V9_FLUSHING: the request that was flushed */
    uint32_t bytes;                     /* that its transfer asks for */
    struct v9_rate_queues *rate_queues; /* of its export (request/rate_queue.c) */
    struct v9_request **link;           /* in a rate queue */
    int64_t waits_ns;                   /* since when it waits there */
    _Alignas(64) struct v9_chain chain;
    uint8_t data[V9_REQUEST_DATA];
};
_Static_assert(offsetof(struct v9_request, evidence.append_at) == 192, "three cache lines");

/* A serving thread, as the watchdog sees it (server/workers.c). */
struct v9_worker {
    struct v9_worker *next;
    clockid_t clock; /* its CPU time */
    int64_t used;    /* CPU time in ns at the last check; -1: this request is new */
    int32_t tid;
    bool in_python;
};

/* A serving thread's buffers, so that requests need no allocation. */
struct v9_scratch {
    struct v9_worker worker;
    struct iovec slice[V9_CHAIN_MAX];
    uint8_t dents[32768];
    uint8_t *reply;              /* msize_max bytes */
    struct v9_file_facts denied; /* base/refusal.h */
};

/* A descriptor for notifications, which lives until its last user is done. */
struct v9_notifier {
    int fd;
    bool is_socket;
    uint32_t users;
};

/* Guarded by the device's lock. */
struct v9_notify {
    struct v9_notifier *call, *err; /* NULL: none */
    int32_t call_fd, err_fd;        /* theirs; -1: none */
    bool call_due, err_due;         /* a serving thread has to write to it */
    bool writing;                   /* `thread` does */
    pthread_t thread;
    uint64_t count, seen; /* writes begun; the same at the watchdog's last check */
};

struct v9_trace;

/* Lies in memory that a successor of the process has, too. */
struct v9_device {
    struct v9_device_conf conf;
    bool begun;                         /* there is something to go on with */
    v9_export *exports[V9_EXPORTS_MAX]; /* those that are set never change */
    struct v9_fids fids;
    pthread_mutex_t lock; /* lock order: docs/architecture.md */

    struct v9_mem mem;
    struct v9_retired_mapping *retired;
    struct v9_virtqueue_setup setup; /* of the next start: it changes while the ring is stopped */
    struct v9_virtqueue ring;
    bool started, enabled, paused; /* v9_device_can_run */
    bool changing;                 /* the memory table changes: nothing begins */
    int kick_fd;
    struct v9_notify notify;
    struct v9_trace *trace; /* memory for records (request/trace.h); NULL: none */
    bool unheard;           /* there was no call descriptor for completions */
    bool poll_ring;         /* the frontend gave no kick descriptor */
    uint32_t unsignalled;
    bool report_due; /* v9_upcall_report has work: cancelled V9_LATER requests, or broken_unreported
                      */
    bool broken_unreported; /* Python has yet to log that the ring is broken */

    struct v9_token_bucket throttles[V9_EXPORTS_MAX];
    struct v9_request *slots;
    uint32_t slots_used;       /* slots ever handed out */
    uint32_t popping, pushing; /* slot + 1 of a request that moves from or to the ring; 0: none */
    struct v9_request *again;  /* requests that are to be run again: suspects, then oldest first */
    bool awaits_start;         /* nothing begins but the request on trial (request/suspects.h) */
    uint32_t on_trial;         /* its slot + 1; 0: none is */
    uint8_t pop_deaths;        /* of processes that died while they took a chain from the ring */
    bool pop_blamed;           /* the death at `popping` was counted, if it was to be */
    struct v9_request *free_slots;
    uint16_t tags[V9_SLOTS];    /* slot + 1, by the tag modulo V9_SLOTS: the newest request */
    uint32_t inflight, dead;    /* requests that are alive; requests that were cut off */
    uint32_t busy;              /* V9_RUNNING requests that are alive */
    struct v9_request *barrier; /* a Tversion, until it is answered: nothing else begins */
    bool starved;               /* a chain waits for a free slot */
    uint32_t rate_limited;      /* V9_RATE_LIMITED requests */
    bool hurry;                 /* the ring is being stopped: rate limits are ignored */
    int64_t due;                /* CLOCK_MONOTONIC in ns: when the timer goes off */
    pthread_cond_t idle;        /* signalled when inflight or busy falls */
    uint32_t msize;
    uint8_t dialect; /* V9_9P2000* */

    /* server/workers.c */
    int epoll_fd, wake_fd, quit_fd, timer_fd;
    bool quit;
    uint32_t pollers_max; /* threads of the process that may poll at a time */
    uint32_t thread_count, runners, spares;
    uint32_t sleeping; /* runners in epoll_wait, or about to call it */
    uint32_t working;  /* threads inside a request, stuck ones included */
    uint32_t executing;
    struct v9_worker *at_work; /* runners inside a request, `executing` of them */
    uint64_t progress;         /* changes whenever a request starts or ends */
    uint64_t watchdog_round;   /* changes when the runners are declared stuck */
    bool watchdog_taken, watchdog_asleep;
    pthread_cond_t watchdog, spare, gone;

    uint64_t requests, answered, upcalls, signals;
    struct v9_counts *counts; /* request/counts.h */
};

/* Whether requests that wait may not begin. [locked] */
static inline bool v9_device_is_held(const struct v9_device *dev)
{
    return dev->changing || (dev->paused && !dev->hurry);
}

/* Whether a request that a process that died had begun may begin now: alone, or with others.
 * [locked] */
static inline bool v9_request_may_begin(const struct v9_device *dev, const struct v9_request *r)
{
    return !dev->awaits_start || dev->on_trial == r->slot + 1;
}

static inline v9_export *v9_inode_export(struct v9_device *dev, const struct v9_inode *inode)
{
    return dev->exports[inode->export];
}

#endif
