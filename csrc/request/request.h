/*
 * serve: a device from the inside: its requests in flight, its threads, its locks.
 *
 * request/request.c   the life of a request: popped, run, finished, flushed, cut off
 * request/reply.c  what a request is answered with
 * request/upcall.c  Python's part in it: how a serving thread calls it, and how it answers later
 * request/rate_queue.c   requests that wait for their time, and base/token_bucket.c, which tells
 * them when that is server/workers.c the serving threads, and server/adaptive_poll.c, which tells
 * how long they stay awake request/notify.c  its call and err descriptors server/device.c  what the
 * frontend sets up: memory, life cycle; server/ring_setup.c: its ring fast_*.c  the requests that C
 * answers
 *
 * One mutex per device guards everything here; no file system call is made under it. A request is
 * entered in the in-flight table under the lock that popped it, so a Tflush that was sent after it
 * finds it.
 *
 * Where a host file hangs, its request is a straggler: the frontend waits for GET_VRING_BASE in its
 * main loop, so after two seconds stragglers are answered with EIO, declared dead, and the guest's
 * memory under their feet is exchanged for anonymous memory. What they complete later is lost.
 */
#ifndef V9_REQUEST_REQUEST_H
#define V9_REQUEST_REQUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/wire.h"
#include "export/qidmap.h"
#include "fid/fid.h"
#include "fs/attributes.h"
#include "fs/created.h"
#include "request/notify.h"
#include "server/adaptive_poll.h"
#include "vhost9p.h"
#include "virtio/guest_memory.h"
#include "virtio/virtqueue.h"

#define V9_SLOTS 1024 /* requests in flight of one device */
/* Every valid message but Twrite fits: 16 names of a Twalk, a path. */
#define V9_REQUEST_DATA 8192
#define V9_THREADS_MAX 64 /* of one device, stuck ones included */
#define V9_SIGNAL_BATCH 8 /* completions that one notification may cover */
#define V9_FEATURE_INDIRECT 28
#define V9_FEATURE_EVENT_IDX 29
#define V9_FEATURE_PACKED 34

enum v9_state {
    V9_FREE,
    V9_RUNNING,      /* a serving thread has it */
    V9_UPCALL,       /* a serving thread has called Python for it */
    V9_LATER,        /* Python answers it later, from another thread */
    V9_RATE_LIMITED, /* it waits for its time (request/rate_queue.h) */
    V9_FLUSHING,     /* a Tflush that waits for its target */
    V9_BARRIER,      /* a Tversion that waits for all others */
};

/* What a handler in C needs to know from Python. */
struct v9_question {
    uint64_t a, b;
    int32_t fd;
};

struct v9_request {
    enum v9_state state;
    uint32_t slot, seq;
    bool dead;         /* cut off: whoever has it publishes nothing */
    bool told;         /* V9_LATER: Python knows that nobody waits for it any more */
    uint16_t flushers; /* V9_FLUSHING requests that wait for it */
    uint8_t type;
    uint8_t dialect; /* V9_9P2000*: the session's that it came in */
    bool admitted;   /* it has waited for its time */
    uint8_t asked;   /* how often it has asked about a mount */
    uint16_t tag;
    uint16_t tag_before, tag_after;     /* slot + 1: others in its list of dev->tags */
    int error;                          /* found while parsing the header, -errno */
    uint32_t size;                      /* size[4] of the message */
    uint32_t data_size;                 /* bytes of it in data */
    uint32_t target, target_seq;        /* V9_FLUSHING: the request that was flushed */
    uint32_t bytes;                     /* that it is to move, and */
    struct v9_rate_queues *rate_queues; /* where it waits for that: request/rate_queue.c's */
    struct v9_request *next, **link;    /* in the device's free list, or (link, too) among delays */
    struct v9_question question;        /* V9_UP_DEVICE, _GROUP, _MOUNT: what its handler asks */
    struct v9_created made; /* p9/create.c: what it has made, and is still to tell of; */
    uint32_t made_in;       /* the index of the export that this belongs to */
    struct v9_chain chain;
    uint8_t data[V9_REQUEST_DATA];
};

/* A serving thread, as the watch looks at it (server/workers.c). */
struct v9_worker {
    struct v9_worker *next;
    clockid_t clock; /* its CPU time, and */
    int64_t used;    /* what that was at the last look, in ns; -1: this request is new */
    int32_t tid;
    bool in_python;
};

/* What a serving thread needs to work without allocating. */
struct v9_scratch {
    struct v9_worker worker;
    struct iovec slice[V9_CHAIN_MAX];
    uint8_t dents[32768];
    uint8_t *reply; /* msize_max bytes */
    struct v9_adaptive_poll pace;
};

struct v9_device {
    struct v9_device_conf conf;
    v9_export *exports[V9_EXPORTS_MAX]; /* those that are set never change */
    struct v9_fids fids;
    pthread_mutex_t lock;

    struct v9_mem mem;
    struct v9_retired_mapping *retired;
    struct v9_virtqueue_setup setup; /* of the next start: it changes while the ring is stopped */
    struct v9_virtqueue ring;
    bool started, enabled, paused; /* served iff started && enabled && !paused && live && whole */
    int kick_fd;
    struct v9_notify notify;
    bool unheard;   /* completions that there was no call descriptor for */
    bool poll_ring; /* the frontend gave no kick descriptor */
    uint32_t unsignalled;
    bool news;        /* V9_LATER requests may be unwanted, or: */
    bool broken_news; /* that the ring is broken is yet to be logged */

    struct v9_request *slots;
    uint32_t slots_used; /* slots ever handed out */
    struct v9_request *free_slots;
    uint16_t tags[V9_SLOTS];    /* slot + 1, by the tag modulo V9_SLOTS: the newest request */
    uint32_t inflight, dead;    /* live requests; cut-off ones */
    uint32_t busy;              /* RUNNING requests that are alive */
    struct v9_request *barrier; /* a Tversion, until it is answered: nothing else begins */
    bool starved;               /* a chain waits for a free slot */
    uint32_t delayed;           /* DELAYED requests */
    bool hurry;                 /* the ring is being stopped: nothing is delayed */
    int64_t due;                /* CLOCK_MONOTONIC in ns: when the timer goes off */
    pthread_cond_t idle;        /* inflight or busy fell */
    uint32_t msize;
    uint8_t dialect; /* V9_9P2000* */

    /* server/workers.c */
    int epoll_fd, wake_fd, quit_fd, timer_fd;
    bool quit;
    uint32_t cpu_count; /* that the process may use */
    uint32_t thread_count, runners, spares;
    uint32_t sleeping; /* runners about to be in epoll_wait, or there */
    uint32_t executing;
    struct v9_worker *at_work; /* runners inside a request, `executing` of them */
    uint64_t progress;         /* changes whenever a request starts or ends */
    uint64_t epoch;            /* changes when the runners are declared stuck */
    bool watch_taken, watch_asleep;
    pthread_cond_t watch, spare, gone;

    uint64_t requests, upcalls, signals;
};

/* request/request.c; those marked [locked] are called with the device's lock held */
struct v9_request *v9_request_next(struct v9_device *dev);                       /* [locked] */
void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result); /* [locked] */
int v9_request_run(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch);
/* Has the driver told of what was pushed, if it wants to hear of it: v9_notify is due then. Who is
 * no serving thread nudges one. */
void v9_device_signal(struct v9_device *dev);  /* [locked] */
bool v9_device_can_run(struct v9_device *dev); /* [locked] */
/* Breaks the ring where memory was lost. */
void v9_device_look(struct v9_device *dev);           /* [locked] */
void v9_device_kill(struct v9_device *dev, bool all); /* [locked] */
void v9_device_detach(struct v9_device *dev);         /* [locked] */
void v9_device_attach(struct v9_device *dev);         /* [locked] */

/* Whether there is something to do beside what is in the ring. */
bool v9_request_is_due(struct v9_device *dev); /* [locked] */
/* Whether a request that waits, or has not begun, need not be answered as asked. */
bool v9_request_is_unwanted(const struct v9_device *dev, const struct v9_request *r); /* [locked] */

/* Python is to hear of something (v9_upcall_news). */
void v9_device_tell(struct v9_device *dev); /* [locked] */

/* request/upcall.c; none is called with another lock held than the device's, which they give up */
/* Has Python answer a request, and ends it unless that comes later. */
void v9_upcall_request(struct v9_device *dev, struct v9_request *r,
                       struct v9_scratch *scratch); /* [locked] */
/* Has Python decide r->question, of a kind (V9_UP_*), and install that: 0 or -errno. */
int v9_upcall_question(struct v9_device *dev, struct v9_request *r, uint32_t kind,
                       struct v9_worker *worker);
/* Python is told what has come up. */
void v9_upcall_news(struct v9_device *dev, struct v9_worker *worker); /* [locked] */

/* server/ring_setup.c */
/* Forgets all that the frontend has set a stopped ring up with. */
void v9_ring_release(struct v9_device *dev); /* [locked] */

/* request/reply.c */
/* Writes a whole reply, or the dialect's error, into the guest's buffers; returns its size. */
int v9_request_reply(struct v9_request *r, const void *data, uint32_t size);
int v9_request_error(struct v9_request *r, int error);

/* server/workers.c */
int v9_workers_start(struct v9_device *dev);
bool v9_workers_stop(struct v9_device *dev); /* false: some hang in a system call */
/* After a change, made under the lock, that a sleeping runner has to hear of. */
void v9_workers_wake(struct v9_device *dev);
void v9_workers_watch(struct v9_device *dev); /* [locked] a request starts: somebody keeps watch */
void v9_cond_init(pthread_cond_t *cond);      /* on CLOCK_MONOTONIC */
struct timespec v9_from_now(int64_t ns);

/* p9/io.c, p9/walk.c, p9/readdir.c */
typedef int v9_handler(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                       struct v9_scratch *scratch);
v9_handler v9_p9_statfs, v9_p9_lopen, v9_p9_getattr, v9_p9_read, v9_p9_write;
v9_handler v9_p9_clunk, v9_p9_walk, v9_p9_readdir, v9_p9_readlink;
v9_handler v9_p9_open;
v9_handler v9_p9_lcreate, v9_p9_mkdir, v9_p9_mknod, v9_p9_symlink, v9_p9_unlinkat;

/* p9/lookup.c: fids that stand for names. */
/* A fid that a request uses, pinned. */
struct v9_use {
    struct v9_fid *fid;
    struct v9_inode *inode;
    uint64_t now;   /* v9_dentry_now() of before its name was looked at; 0: it was not */
    bool wanted;    /* attr is */
    bool seen;      /* attr is what v9_attr_look told of the file just now, after moment */
    int64_t moment; /* v9_ctime_now() */
    struct v9_attr attr;
};
/*
 * Pins a fid that must stand for a file; -EBADF. One that stands for a name stands for what has it
 * now: an error as of a walk to it where nothing has, or -V9_NO_DEVICE, -V9_NO_GROUP.
 */
int v9_p9_file(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_fid **fid,
               struct v9_inode **inode);
int v9_p9_use(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use);
/* The same, with the file's attributes in use->attr. */
int v9_p9_use_attr(struct v9_device *dev, struct v9_request *r, uint32_t number,
                   struct v9_use *use);
/* Whether what is reached from a pinned fid, or is its clone, has its name from the fid's: an open
 * one may stand for a file that has lost it. 1, 0, or an error as of v9_p9_file. */
int v9_p9_passes_name_on(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid);
/* The same for the fids of a request that Python is to answer. */
int v9_p9_prepare(struct v9_device *dev, struct v9_request *r);
static inline v9_export *v9_inode_export(struct v9_device *dev, const struct v9_inode *inode)
{
    return dev->exports[inode->export];
}
/* The metadata file (mapped/mapped.h) of a inode; -1 where it has none. It is looked for again each
 * time until it is found. */
int32_t v9_inode_meta(v9_export *ex, struct v9_inode *inode);
/* The result `err` of reading attributes of the file `fd`: on -V9_NO_DEVICE and -V9_NO_GROUP notes
 * the question. */
int v9_p9_question(struct v9_request *r, int fd, const struct v9_attr *attr, int err);
/* Reads a file's attributes for a request; `meta_fd` as in v9_attr_read_held. On -V9_NO_DEVICE and
 * -V9_NO_GROUP notes the question. */
int v9_p9_attr(v9_export *ex, struct v9_request *r, int fd, int32_t meta_fd, struct v9_attr *attr);
/* What a request that uses a fid has not read of its file's attributes yet. */
int v9_p9_complete(struct v9_device *dev, struct v9_request *r, struct v9_use *use);
/* The same of a directory's entry. */
int v9_p9_attr_of(v9_export *ex, struct v9_request *r, int dir_fd, const char *name,
                  struct v9_attr *attr);
/* Attributes of an entry of a pinned fid's directory that only a step leads to: "..", or the root
 * of a joined export. */
int v9_p9_look_there(v9_export *ex, struct v9_request *r, const struct v9_fid *fid,
                     const struct v9_inode *inode, const char *name, struct v9_attr *attr);

#endif
