#define _GNU_SOURCE
#include "request/request.h"
#include "fs/created.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/commit.h"
#include "request/counts.h"
#include "request/notify.h"
#include "request/rate_queue.h"
#include "request/reply.h"
#include "request/trace.h"
#include "virtio/iov.h"

static void break_ring(struct v9_device *dev, const char *reason)
{
    if (!dev->ring.broken)
        dev->ring.broken = reason;
    dev->broken_unreported = true;
    dev->notify.err_due = true;
    v9_device_schedule_report(dev);
}

void v9_device_check_memory(struct v9_device *dev)
{
    if (v9_mem_lost(&dev->mem) && !dev->ring.broken)
        break_ring(dev, "the frontend took memory away (SIGBUS)");
}

/* ---- by tag ---------------------------------------------------------------------------------- */

static uint16_t *tag_list(struct v9_device *dev, const struct v9_request *r)
{
    return &dev->tags[r->tag % V9_SLOTS];
}

void v9_request_enter_tag(struct v9_device *dev, struct v9_request *r)
{
    uint16_t *first = tag_list(dev, r);

    r->tag_before = 0;
    r->tag_after = *first;
    if (*first)
        dev->slots[*first - 1].tag_before = (uint16_t)(r->slot + 1);
    *first = (uint16_t)(r->slot + 1);
}

/* Does nothing if the request was not entered. */
static void leave_tag(struct v9_device *dev, struct v9_request *r)
{
    uint16_t *first = tag_list(dev, r);

    if (r->tag_before)
        dev->slots[r->tag_before - 1].tag_after = r->tag_after;
    else if (*first == r->slot + 1)
        *first = r->tag_after;
    if (r->tag_after)
        dev->slots[r->tag_after - 1].tag_before = r->tag_before;
}

/* ---- from the ring --------------------------------------------------------------------------- */

bool v9_device_can_run(struct v9_device *dev)
{
    return dev->started && dev->enabled && !dev->paused && !dev->changing && !dev->awaits_start &&
           v9_virtqueue_is_live(&dev->ring) && !dev->ring.broken && dev->exports[0];
}

static struct v9_request *take_slot(struct v9_device *dev)
{
    struct v9_request *r = dev->free_slots;

    if (r)
        dev->free_slots = r->next;
    else if (dev->slots_used < V9_SLOTS)
        r = &dev->slots[dev->slots_used++];
    else
        return NULL;
    r->slot = (uint32_t)(r - dev->slots);
    r->seq++;
    r->dialect = dev->dialect;
    r->dead = r->admitted = r->flush_reported = r->again = r->done = false;
    r->overdue = r->convicted = false;
    r->flushers = r->tag_before = r->tag_after = 0;
    r->asked = r->deaths = 0;
    r->error = 0;
    r->next = NULL;
    r->question.fd = -1;
    v9_created_forget(&r->created);
    r->reply_size = 0;
    r->changes = 0;
    v9_evidence_clear(&r->evidence);
    dev->inflight++;
    return r;
}

static void free_slot(struct v9_device *dev, struct v9_request *r)
{
    leave_tag(dev, r);
    if (r->again)
        v9_evidence_forget(&r->evidence);
    if (r->dead)
        dev->dead--;
    else
        dev->inflight--;
    r->state = V9_FREE;
    V9_COMMIT();
    dev->pushing = 0;
    r->next = dev->free_slots;
    dev->free_slots = r;
    if (!dev->dead)
        v9_mem_retire(&dev->mem, &dev->retired);
    if (dev->starved) {
        dev->starved = false;
        v9_device_wake(dev);
    }
}

/* Copies the message (only the header of a Twrite) and checks what all messages have in common.
 * Stores an error in r->error; the guest receives it as Rlerror. Each byte is read once, since the
 * guest may change it any time. */
static void parse(struct v9_device *dev, struct v9_request *r)
{
    const struct v9_chain *chain = &r->chain;
    /* All of the most frequent messages, and more than the header of any. */
    const uint32_t first =
        (uint32_t)v9_iov_gather(chain->iov, chain->readable_count, 0, r->data, P9_TWRITE_SIZE);
    struct v9_in in = {r->data, r->data + first, false};

    r->data_size = first < P9_HEADER_SIZE ? first : P9_HEADER_SIZE;
    r->size = v9_in_u32(&in);
    r->type = (uint8_t)v9_in_number(&in, 1);
    r->tag = v9_in_u16(&in);
    if (in.bad)
        r->tag = 0xffff;
    if (chain->error)
        r->error = chain->error;
    else if (in.bad || r->size < P9_HEADER_SIZE || r->size > chain->readable_size)
        r->error = -EINVAL;
    else if (r->size > dev->msize)
        r->error = -EMSGSIZE;
    else if (r->type != P9_TWRITE && r->size > V9_REQUEST_DATA)
        r->error = -ENAMETOOLONG; /* only names can make it so long */
    if (r->error)
        return;
    r->data_size = r->type == P9_TWRITE && r->size > P9_TWRITE_SIZE ? P9_TWRITE_SIZE : r->size;
    if (r->data_size > first)
        v9_iov_gather(chain->iov, chain->readable_count, first, r->data + first,
                      r->data_size - first);
}

/* Finds the request that a Tflush names. A Tflush is never found: it ends before its own flush
 * could have an effect. */
static struct v9_request *find_tag(struct v9_device *dev, const struct v9_request *flush,
                                   uint16_t tag)
{
    for (uint32_t i = dev->tags[tag % V9_SLOTS]; i; i = dev->slots[i - 1].tag_after) {
        struct v9_request *r = &dev->slots[i - 1];
        if (r != flush && r->tag == tag && !r->dead && r->type != P9_TFLUSH &&
            (r->state == V9_RUNNING || r->state == V9_AWAY || r->state == V9_LATER ||
             r->state == V9_RATE_LIMITED || r->state == V9_AGAIN))
            return r;
    }
    return NULL;
}

static int reply_to_flush(struct v9_request *r)
{
    uint8_t reply[P9_HEADER_SIZE];
    v9_put_header(reply, sizeof(reply), P9_TFLUSH + 1, r->tag);
    return v9_request_reply(r, reply, sizeof(reply));
}

/* Ends a request that has not begun. */
static void cancel(struct v9_device *dev, struct v9_request *r)
{
    v9_rate_queue_leave(dev, r);
    v9_request_finish(dev, r, v9_request_error(r, EINTR));
}

/* Whether a Tflush has to wait: Rflush follows the reply to the flushed request, or is sent at once
 * if that has ended. */
static bool start_flush(struct v9_device *dev, struct v9_request *r)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    struct v9_request *target = find_tag(dev, r, v9_in_u16(&in));

    if (!target)
        return false;
    r->state = V9_FLUSHING;
    r->target = target->slot;
    r->target_seq = target->seq;
    target->flushers++;
    if (target->state == V9_RATE_LIMITED)
        cancel(dev, target);
    else if (target->state == V9_LATER)
        v9_device_schedule_report(dev);
    return true;
}

/* A Tversion begins a new session. It waits until all requests in flight have ended (NULL until
 * then); those that wait are cancelled (v9_request_is_cancelled). No other request begins before it
 * is answered, since it clears all fids. */
static struct v9_request *start_version(struct v9_device *dev, struct v9_request *r)
{
    dev->barrier = r;
    if (dev->inflight == 1)
        return r;
    r->state = V9_BARRIER;
    dev->report_due = true;
    return NULL;
}

/* Returns the Tversion that waits, once all other requests have ended. */
static struct v9_request *next_version(struct v9_device *dev)
{
    struct v9_request *r = dev->barrier;

    if (!r || r->state != V9_BARRIER || dev->inflight > 1 || v9_device_is_held(dev))
        return NULL;
    return r;
}

static struct v9_request *pop(struct v9_device *dev)
{
    struct v9_request *r;
    int available = v9_virtqueue_peek(&dev->ring);

    if (available < 0)
        break_ring(dev, dev->ring.broken);
    if (available <= 0)
        return NULL;
    r = take_slot(dev);
    if (!r) {
        dev->starved = true;
        return NULL;
    }
    /* A request is popped once it is whole. After a death before that, it is popped again. */
    r->pop_at = v9_virtqueue_pop_place(&dev->ring);
    V9_COMMIT();
    dev->popping = r->slot + 1;
    V9_COMMIT();
    if (v9_virtqueue_pop(&dev->ring, &dev->mem, &r->chain) == 0 &&
        r->chain.writable_size >= P9_RLERROR_SIZE) {
        parse(dev, r);
        v9_request_enter_tag(dev, r);
        r->order = ++dev->requests;
        v9_counts_begin(dev, r);
        dev->pop_deaths = 0;
        V9_COMMIT();
        r->state = V9_RUNNING;
    } else {
        break_ring(dev, dev->ring.broken ? dev->ring.broken : "no room for a reply of 11 bytes");
        free_slot(dev, r);
        r = NULL;
    }
    V9_COMMIT();
    dev->popping = 0;
    return r;
}

bool v9_request_can_run_again(struct v9_device *dev)
{
    return dev->exports[0] && !v9_device_is_held(dev) && v9_virtqueue_is_live(&dev->ring);
}

/* The next request that a process that died had begun with. */
static struct v9_request *next_again(struct v9_device *dev)
{
    struct v9_request *r = dev->again;

    if (!r || !v9_request_can_run_again(dev) || !v9_request_may_begin(dev, r))
        return NULL;
    dev->again = r->next;
    return r;
}

/* Returns at most one request, even one that is invalid or a Tflush, so that other
 * threads get the lock in between. */
struct v9_request *v9_request_next(struct v9_device *dev)
{
    struct v9_request *r = v9_rate_queue_next(dev);

    if (!r)
        r = next_version(dev);
    if (!r) {
        r = next_again(dev);
        if (!r && v9_device_can_run(dev) && !dev->barrier)
            r = pop(dev);
        if (r && r->type == P9_TVERSION && !r->error)
            r = start_version(dev, r);
    }
    if (r) {
        r->state = V9_RUNNING;
        dev->busy++;
    }
    return r;
}

bool v9_request_is_due(struct v9_device *dev)
{
    const bool cancelled = dev->barrier && dev->rate_limited && !v9_device_is_held(dev);
    return dev->report_due || cancelled || v9_notify_is_due(&dev->notify) || next_version(dev);
}

/* ---- without memory -------------------------------------------------------------------------- */

void v9_request_leave_memory(struct v9_device *dev, struct v9_request *r)
{
    pthread_mutex_lock(&dev->lock);
    if (!r->dead) {
        r->state = V9_AWAY;
        dev->busy--;
        pthread_cond_broadcast(&dev->idle);
    }
    pthread_mutex_unlock(&dev->lock);
}

void v9_request_use_memory(struct v9_device *dev, struct v9_request *r)
{
    pthread_mutex_lock(&dev->lock);
    if (!r->dead) {
        r->state = V9_RUNNING;
        dev->busy++;
    }
    pthread_mutex_unlock(&dev->lock);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void finish_flushers(struct v9_device *dev, uint32_t slot, uint32_t seq, uint32_t count)
{
    for (uint32_t i = 0; count && i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state == V9_FLUSHING && r->target == slot && r->target_seq == seq) {
            count--;
            v9_request_finish(dev, r, reply_to_flush(r));
        }
    }
}

bool v9_request_is_cancelled(const struct v9_device *dev, const struct v9_request *r)
{
    return r->flushers || dev->barrier;
}

/* Whether a request stays in flight after its handler has returned. */
static bool stays_in_flight(struct v9_device *dev, struct v9_request *r, int result)
{
    if (r->dead)
        return false;
    if (result == -V9_IS_FLUSH)
        return start_flush(dev, r);
    if (result != -V9_NOT_YET || v9_request_is_cancelled(dev, r))
        return false;
    v9_rate_queue_enter(dev, r);
    return true;
}

/* Returns a request's chain with its reply. After a death on the way, until the slot is free, it is
 * pushed again (v9_virtqueue_push_again). */
static bool push(struct v9_device *dev, struct v9_request *r, uint32_t size)
{
    if (!v9_virtqueue_is_live(&dev->ring))
        return false;
    if (v9_trace_is_on(dev))
        v9_trace_end(dev, r, size);
    r->push_at = v9_virtqueue_push_place(&dev->ring);
    r->reply_size = size;
    __atomic_store_n(&dev->answered, dev->answered + 1, __ATOMIC_RELAXED);
    v9_counts_end(dev, r, (int)size);
    V9_COMMIT();
    dev->pushing = r->slot + 1;
    V9_COMMIT();
    return v9_virtqueue_push(&dev->ring, &r->chain, size);
}

void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result)
{
    const uint32_t slot = r->slot, seq = r->seq, flushers = r->flushers;
    const bool dead = r->dead;

    if (stays_in_flight(dev, r, result)) {
        pthread_cond_broadcast(&dev->idle);
        return;
    }
    if (!dead && result == -V9_IS_FLUSH)
        result = reply_to_flush(r);
    else if (!dead && result == -V9_NOT_YET)
        result = v9_request_error(r, EINTR);
    if (!dead && push(dev, r, (uint32_t)result) && ++dev->unsignalled >= V9_SIGNAL_BATCH)
        v9_device_signal(dev);
    v9_device_check_memory(dev);
    if (r == dev->barrier) {
        dev->barrier = NULL;
        v9_device_wake(dev);
    }
    free_slot(dev, r);
    if (!dead)
        finish_flushers(dev, slot, seq, flushers);
    if (next_version(dev))
        v9_device_wake(dev);
    pthread_cond_broadcast(&dev->idle);
}

/* ---- stragglers ------------------------------------------------------------------------------ */

static void leave_again(struct v9_device *dev, const struct v9_request *r)
{
    struct v9_request **at = &dev->again;

    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
}

static void kill_request(struct v9_device *dev, struct v9_request *r)
{
    const uint32_t slot = r->slot, seq = r->seq, flushers = r->flushers;

    if (push(dev, r, (uint32_t)v9_request_error(r, EIO)))
        dev->unsignalled++;
    dev->inflight--;
    dev->dead++;
    r->dead = true;
    V9_COMMIT();
    dev->pushing = 0;
    if (r == dev->barrier)
        dev->barrier = NULL;
    if (r->state == V9_RUNNING)
        dev->busy--;
    if (r->state == V9_RATE_LIMITED)
        v9_rate_queue_leave(dev, r);
    if (r->state == V9_AGAIN)
        leave_again(dev, r);
    if (r->state == V9_RATE_LIMITED || r->state == V9_BARRIER || r->state == V9_AGAIN)
        free_slot(dev, r); /* a thread or Python frees the others */
    finish_flushers(dev, slot, seq, flushers);
}

/*
 * Answers EIO to the requests in flight (all of them, or only those whose threads may be writing
 * into guest memory) and cuts them off from the guest's memory. A Tflush is answered after the
 * request that it waits for. A read that is still running does not touch the first 11 bytes of its
 * buffer, so its data cannot overwrite an Rlerror. They may overwrite the text and the number of an
 * Rerror, which remains an error.
 */
void v9_device_kill(struct v9_device *dev, bool all)
{
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && r->state != V9_FLUSHING && !r->dead &&
            (all || r->state == V9_RUNNING))
            kill_request(dev, r);
    }
    v9_device_signal(dev);
    v9_device_detach(dev);
    if (v9_mem_cut_off(&dev->mem, &dev->retired) < 0)
        v9_mem_clear(&dev->mem);
    if (!dev->dead)
        v9_mem_retire(&dev->mem, &dev->retired);
    pthread_cond_broadcast(&dev->idle);
}

/*
 * Before a change of the memory table, the ring and the waiting requests give up their pointers
 * into guest memory; after it, they are translated again. A request whose buffers are gone stays
 * without them, and a reply in between reaches nobody. Chains of running requests are not touched:
 * there are none, or they were killed.
 */
void v9_device_detach(struct v9_device *dev)
{
    v9_virtqueue_unmap(&dev->ring);
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && r->state != V9_RUNNING && !r->dead)
            v9_chain_detach(&r->chain, &dev->mem);
    }
}

void v9_device_attach(struct v9_device *dev)
{
    v9_virtqueue_remap(&dev->ring, &dev->mem);
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && r->state != V9_RUNNING && !r->dead)
            v9_chain_attach(&r->chain, &dev->mem);
    }
}
