// sources: request/reply.c request/request.c request/notify.c request/rate_queue.c request/upcall.c
// request/recover.c p9/dispatch.c base/ virtio/ request/failure.c request/trace.c
/*
 * Requests under the device's lock. Each invalid message and each Tflush is served alone, so that a
 * guest that keeps sending them cannot hold the lock.
 */
#define _GNU_SOURCE
#include "driver.h"
#include "p9/dispatch.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/recover.h"
#include "request/reply.h"
#include "request/request.h"
#include "request/upcall.h"

enum { COUNT = 3, READ_AT = 0, REPLY_AT = 0x8000, ROOM = 128 };

static struct v9_device dev;
static struct v9_request slots[V9_SLOTS];
static struct v9_counts counts;
static struct v9_scratch scratch;
static int flushed; /* reports of flushes to Python */

/* Handlers that these tests do not use. */
#define HANDLER(name)                                                                              \
    int name(struct v9_device *device, struct v9_request *r, struct v9_in *in,                     \
             struct v9_scratch *room)                                                              \
    {                                                                                              \
        (void)device, (void)r, (void)in, (void)room;                                               \
        return -EIO;                                                                               \
    }
HANDLER(v9_p9_statfs)
HANDLER(v9_p9_lopen)
HANDLER(v9_p9_getattr)
HANDLER(v9_p9_read)
HANDLER(v9_p9_write)
HANDLER(v9_p9_clunk)
HANDLER(v9_p9_walk)
HANDLER(v9_p9_readdir)
HANDLER(v9_p9_readlink)
HANDLER(v9_p9_open)
HANDLER(v9_p9_lcreate)
HANDLER(v9_p9_mkdir)
HANDLER(v9_p9_mknod)
HANDLER(v9_p9_symlink)
HANDLER(v9_p9_link)
HANDLER(v9_p9_unlinkat)
HANDLER(v9_p9_rename)
HANDLER(v9_p9_renameat)
HANDLER(v9_p9_setattr)
HANDLER(v9_p9_xattrwalk)
HANDLER(v9_p9_xattrcreate)
HANDLER(v9_p9_fsync)
HANDLER(v9_p9_getlock)

/* The guest waits for a lock. */
int v9_p9_lock(struct v9_device *device, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *room)
{
    (void)device, (void)r, (void)in, (void)room;
    return -V9_NOT_OURS;
}

int v9_p9_prepare(struct v9_device *device, struct v9_request *r)
{
    (void)device, (void)r;
    return 0;
}

void v9_created_close(struct v9_created *made)
{
    (void)made;
}

static bool entered; /* the fid that a request was about to change */

struct v9_fid *v9_fids_entered(struct v9_fids *fids, uint64_t handle)
{
    static struct v9_fid fid;

    (void)fids, (void)handle;
    return entered ? &fid : NULL;
}

int v9_fids_pin_evicted(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    (void)fids, (void)number, (void)fid;
    return -EBADF;
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    (void)fids, (void)fid;
}

uint32_t v9_fids_path(struct v9_fids *fids, const struct v9_fid *fid, char path[V9_FID_PATH],
                      uint8_t *known, uint8_t *cut)
{
    (void)fids, (void)fid, (void)path;
    *known = *cut = false;
    return 0;
}

int v9_fids_find(struct v9_fids *fids, uint32_t number, uint64_t *handle)
{
    (void)fids, (void)number, (void)handle;
    return -EBADF;
}

int v9_fids_remove_handle(struct v9_fids *fids, uint64_t handle)
{
    (void)fids, (void)handle;
    return -EBADF;
}

int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *reply)
{
    (void)device, (void)slot, (void)seq, (void)data, (void)size, (void)reply;
    return 0; /* later */
}

int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t request)
{
    (void)device, (void)fid, (void)writable, (void)st_dev, (void)st_ino, (void)client_id;
    (void)client_size, (void)proc_id, (void)type, (void)start, (void)length, (void)flock,
        (void)request;
    return -EIO;
}

int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd)
{
    (void)device, (void)kind, (void)a, (void)b, (void)fd;
    return -EIO;
}

void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq)
{
    (void)device, (void)seq;
    CHECK(slot < dev.slots_used);
    flushed++;
}

void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted)
{
    (void)device, (void)data, (void)size, (void)error, (void)refusal, (void)omitted;
    CHECK(!"Python hears of a failure");
}

void v9_up_broken(uint32_t device, const char *reason)
{
    (void)device, (void)reason;
}

/* A running ring, and nothing in flight. */
static void start_device(void)
{
    begin(false);
    memset(&dev, 0, sizeof(dev));
    dev.slots = slots;
    dev.counts = &counts;
    memset(slots, 0, sizeof(slots));
    dev.mem = mem;
    dev.ring = ring;
    dev.started = dev.enabled = true;
    dev.kick_fd = -1;
    dev.msize = dev.conf.msize_max = 8192;
    dev.exports[0] = (v9_export *)&dev; /* only its presence counts */
    pthread_mutex_init(&dev.lock, NULL);
    pthread_cond_init(&dev.idle, NULL);
}

/* Sends a message of `size` bytes, with `says` as the size in its header, and a body of `body` and
 * zeros. */
static void send(uint16_t head, uint32_t says, uint8_t type, uint16_t tag, uint16_t body)
{
    const uint32_t at = (uint32_t)head * ROOM;
    uint8_t *message = guest + DATA_AT + at;

    memset(message, 0, ROOM);
    v9_put(v9_put_header(message, says, type, tag), body, 2);
    descs[head] = data(at, ROOM, NEXT, (uint16_t)(head + 1));
    descs[head + 1] = data(REPLY_AT + at, ROOM, WRITE, 0);
    offer(head);
}

/* Answers later with Rlerror, as Python does. */
static int fail(uint32_t slot, uint32_t seq, uint32_t error)
{
    uint8_t message[11];

    v9_put(v9_put_header(message, sizeof(message), P9_RLERROR, slots[slot].tag), error, 4);
    return v9_reply(&dev, slot, seq, message, sizeof(message));
}

/* Serves one request, as a serving thread does; whether there was one. */
static bool serve_one(void)
{
    struct v9_request *r;
    int result;

    pthread_mutex_lock(&dev.lock);
    if (dev.report_due)
        v9_upcall_report(&dev, &scratch.worker);
    r = v9_request_next(&dev);
    pthread_mutex_unlock(&dev.lock);
    if (!r)
        return false;
    result = v9_p9_run(&dev, r, &scratch);
    pthread_mutex_lock(&dev.lock);
    dev.busy--;
    if (result == -V9_NOT_OURS)
        v9_upcall_request(&dev, r, &scratch);
    else
        v9_request_finish(&dev, r, result);
    pthread_mutex_unlock(&dev.lock);
    return true;
}

static void each_is_served_alone(uint32_t says, uint8_t type)
{
    start_device();
    for (uint16_t i = 0; i < COUNT; i++)
        send((uint16_t)(2 * i), says, type, i, 77);
    for (uint16_t i = 0; i < COUNT; i++) {
        CHECK(used[1] == i);
        CHECK(serve_one());
    }
    CHECK(used[1] == COUNT && dev.inflight == 0 && dev.busy == 0);
    CHECK(!serve_one());
}

TEST(each_flush_of_nothing_is_served_alone)
{
    each_is_served_alone(P9_TFLUSH_SIZE, P9_TFLUSH);
}

TEST(each_message_shorter_than_a_header_is_served_alone)
{
    each_is_served_alone(3, 110);
}

TEST(each_message_longer_than_its_buffers_is_served_alone)
{
    each_is_served_alone(100000, 110);
}

/* Rflush follows the reply; the flush is reported to Python once, by the next serving thread. */
TEST(flushes_are_answered_after_the_request_that_waits)
{
    start_device();
    send(0, 30, 52, 5, 0); /* Tlock */
    CHECK(serve_one());
    CHECK(slots[0].state == V9_LATER);
    send(2, P9_TFLUSH_SIZE, P9_TFLUSH, 6, 5);
    send(4, P9_TFLUSH_SIZE, P9_TFLUSH, 7, 5);
    flushed = 0;
    CHECK(serve_one() && serve_one());
    CHECK(!serve_one() && flushed >= 1 && used[1] == 0);
    CHECK(fail(slots[0].slot, slots[0].seq, EINTR) == 0);
    CHECK(used[1] == 3 && dev.inflight == 0);
    CHECK(fail(0, slots[0].seq, EINTR) == -ESTALE);
}

/* The head of a chain that was returned. */
static uint32_t returned(uint16_t at)
{
    uint32_t head;

    memcpy(&head, used + 2 + 4 * at, sizeof(head));
    return head;
}

/* A request hangs in its thread, and is flushed; the Tflush has a slot before it. */
static void cut_off_what_is_flushed(bool all)
{
    struct v9_request *r;

    start_device();
    send(0, 30, 52, 4, 0);
    CHECK(serve_one());
    send(2, 30, 52, 5, 0);
    r = v9_request_next(&dev);
    CHECK(fail(0, slots[0].seq, EINTR) == 0 && used[1] == 1);
    send(4, P9_TFLUSH_SIZE, P9_TFLUSH, 6, 5);
    send(6, P9_TFLUSH_SIZE, P9_TFLUSH, 7, 5);
    CHECK(serve_one() && serve_one() && slots[0].state == V9_FLUSHING && used[1] == 1);
    v9_device_kill(&dev, all);
    mem = dev.mem;
    guest = v9_mem_gpa(&mem, GPA, MEMORY); /* where it was, threads may still write */
    lay_out();
    CHECK(used[1] == 4 && returned(1) == 2 && returned(2) == 4 && returned(3) == 6);
    CHECK(guest[DATA_AT + REPLY_AT + 2 * ROOM + 4] == P9_RLERROR);
    CHECK(guest[DATA_AT + REPLY_AT + 4 * ROOM + 4] == P9_TFLUSH + 1);
    CHECK(guest[DATA_AT + REPLY_AT + 6 * ROOM + 4] == P9_TFLUSH + 1);
    CHECK(dev.inflight == 0 && dev.dead == 1);
    v9_device_attach(&dev);
    v9_request_finish(&dev, r, v9_request_error(r, EINTR)); /* its thread is back */
    CHECK(used[1] == 4 && dev.dead == 0 && dev.busy == 0);
}

TEST(flushes_of_a_request_that_is_cut_off_are_answered_after_it)
{
    cut_off_what_is_flushed(false);
}

TEST(flushes_are_answered_after_their_requests_when_all_are_cut_off)
{
    cut_off_what_is_flushed(true);
}

/* Tags that share a hash list are distinguished, in whatever order their requests end. */
TEST(tags_of_one_hash_list_are_distinguished)
{
    for (uint16_t first = 0; first < COUNT; first++) {
        start_device();
        for (uint16_t i = 0; i < COUNT; i++) {
            send((uint16_t)(2 * i), 30, 52, (uint16_t)(5 + i * V9_SLOTS), 0);
            CHECK(serve_one());
        }
        for (uint16_t i = 0; i < COUNT; i++) {
            const uint16_t at = (uint16_t)((first + i) % COUNT);
            send(6, P9_TFLUSH_SIZE, P9_TFLUSH, 6, (uint16_t)(5 + at * V9_SLOTS));
            CHECK(serve_one() && slots[at].flushers == 1);
            CHECK(fail(at, slots[at].seq, EINTR) == 0);
            CHECK(used[1] == 2 * i + 2);
        }
        CHECK(dev.inflight == 0 && dev.tags[5] == 0);
    }
}

/* A Tversion waits for all other requests, and later ones wait for it. */
TEST(a_version_waits_for_all_others_and_they_for_it)
{
    start_device();
    send(0, 30, 52, 5, 0);
    CHECK(serve_one());
    send(2, 21, P9_TVERSION, 0xffff, 0);
    send(4, P9_TFLUSH_SIZE, P9_TFLUSH, 7, 77);
    flushed = 0;
    CHECK(!serve_one() && !serve_one());
    CHECK(flushed == 1 && used[1] == 0);
    CHECK(fail(slots[0].slot, slots[0].seq, EINTR) == 0);
    CHECK(serve_one()); /* Tversion, which Python answers later in this test */
    CHECK(!serve_one() && used[1] == 1);
    CHECK(fail(slots[1].slot, slots[1].seq, EIO) == 0);
    CHECK(serve_one() && used[1] == 3);
}

/* ---- after a death --------------------------------------------------------------------------- */

/* The process dies, and the next one goes on. */
static void die(void)
{
    v9_requests_detach_dead(&dev);
    v9_requests_recover(&dev);
}

/* Two that were begun, of which one waits, and one that was not. */
TEST(requests_of_a_process_that_died_run_again_in_their_order)
{
    start_device();
    send(0, P9_HEADER_SIZE + 2, P9_TLOCK, 1, 0);
    send(2, P9_HEADER_SIZE + 2, P9_TREAD, 2, 0);
    send(4, P9_TFLUSH_SIZE, P9_TFLUSH, 3, 77);
    CHECK(serve_one());
    pthread_mutex_lock(&dev.lock);
    CHECK(v9_request_next(&dev)->tag == 2);
    pthread_mutex_unlock(&dev.lock);
    die();
    CHECK(used[1] == 0 && dev.inflight == 2 && dev.busy == 0);
    CHECK(serve_one() && slots[0].state == V9_LATER && slots[0].again);
    CHECK(serve_one() && used[1] == 1 && used[2] == 2);
    CHECK(serve_one() && used[1] == 2 && dev.inflight == 1 && !serve_one());
}

TEST(a_request_that_was_not_whole_is_popped_again)
{
    start_device();
    send(0, P9_HEADER_SIZE + 2, P9_TREAD, 1, 0);
    CHECK(serve_one() && used[1] == 1);
    send(2, P9_HEADER_SIZE + 2, P9_TREAD, 2, 0);
    slots[0].pop_at = v9_virtqueue_pop_place(&dev.ring);
    dev.popping = 1;
    CHECK(v9_virtqueue_pop(&dev.ring, &dev.mem, &slots[0].chain) == 0);
    die();
    CHECK(serve_one() && used[1] == 2 && slots[0].tag == 2 && !slots[0].again);
}

/* The process dies before, or after, the driver can see the chain. */
TEST(a_chain_is_returned_once)
{
    for (int pushed = 0; pushed < 2; pushed++) {
        struct v9_request *r;
        start_device();
        send(0, P9_HEADER_SIZE + 2, P9_TREAD, 1, 0);
        r = v9_request_next(&dev);
        r->push_at = v9_virtqueue_push_place(&dev.ring);
        r->reply_size = P9_RLERROR_SIZE;
        dev.pushing = r->slot + 1;
        if (pushed)
            CHECK(v9_virtqueue_push(&dev.ring, &r->chain, r->reply_size));
        die();
        CHECK(used[1] == 1 && dev.inflight == 0 && !serve_one());
    }
}

TEST(a_fid_that_changed_shows_that_a_request_was_done)
{
    for (int changed = 0; changed < 2; changed++) {
        struct v9_request *r;
        start_device();
        send(0, P9_HEADER_SIZE + 2, P9_TWALK, 1, 0);
        r = v9_request_next(&dev);
        v9_request_promise(r, "\t\0\0\0o\1\0\0\0", 9);
        r->changes = 7;
        entered = changed;
        die();
        CHECK(r->done == changed && serve_one());
        CHECK(guest[DATA_AT + REPLY_AT + 4] == (changed ? P9_TWALK + 1 : P9_RLERROR));
    }
}
