#define _GNU_SOURCE
#include "request/request.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "request/notify.h"
#include "request/rate_queue.h"
#include "request/reply.h"
#include "virtio/iov.h"

static void break_ring(struct v9_device *dev, const char *reason)
{
    if (!dev->ring.broken)
        dev->ring.broken = reason;
    dev->broken_news = true;
    dev->notify.err_due = true;
    v9_device_tell(dev);
}

void v9_device_look(struct v9_device *dev)
{
    if (v9_mem_lost(&dev->mem) && !dev->ring.broken)
        break_ring(dev, "the frontend took memory away (SIGBUS)");
}

/* ---- by tag ------------------------------------------------------------------------------------
 */

static uint16_t *tag_list(struct v9_device *dev, const struct v9_request *r)
{
    return &dev->tags[r->tag % V9_SLOTS];
}

static void enter_tag(struct v9_device *dev, struct v9_request *r)
{
    uint16_t *first = tag_list(dev, r);

    r->tag_after = *first;
    if (*first)
        dev->slots[*first - 1].tag_before = (uint16_t)(r->slot + 1);
    *first = (uint16_t)(r->slot + 1);
}

/* Does nothing where the request was not entered. */
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

/* ---- from the ring -----------------------------------------------------------------------------
 */

bool v9_device_can_run(struct v9_device *dev)
{
    return dev->started && dev->enabled && !dev->paused && v9_virtqueue_is_live(&dev->ring) &&
           !dev->ring.broken && dev->exports[0];
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
    r->state = V9_RUNNING;
    r->dialect = dev->dialect;
    r->dead = r->admitted = r->told = false;
    r->flushers = r->tag_before = r->tag_after = 0;
    r->asked = 0;
    r->error = 0;
    r->next = NULL;
    r->question.fd = -1;
    r->made = V9_CREATED_NONE;
    dev->inflight++;
    return r;
}

static void free_slot(struct v9_device *dev, struct v9_request *r)
{
    leave_tag(dev, r);
    if (r->dead)
        dev->dead--;
    else
        dev->inflight--;
    r->state = V9_FREE;
    r->next = dev->free_slots;
    dev->free_slots = r;
    if (!dev->dead)
        v9_mem_retire(&dev->retired);
    if (dev->starved) {
        dev->starved = false;
        v9_device_wake(dev);
    }
}

/* Copies the message (of a Twrite only its header) and checks what all messages have in common.
 * What is wrong goes to r->error: the guest gets it as Rlerror. */
static void parse(struct v9_device *dev, struct v9_request *r)
{
    const struct v9_chain *chain = &r->chain;
    struct v9_in in = {r->data, r->data, false};

    r->tag = 0xffff;
    r->type = 0;
    r->data_size =
        (uint32_t)v9_iov_gather(chain->iov, chain->readable_count, 0, r->data, P9_HEADER_SIZE);
    in.end += r->data_size;
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
        r->error = -ENAMETOOLONG; /* nothing but names can make it so long */
    if (r->error)
        return;
    r->data_size = r->type == P9_TWRITE && r->size > P9_TWRITE_SIZE ? P9_TWRITE_SIZE : r->size;
    v9_iov_gather(chain->iov, chain->readable_count, 0, r->data, r->data_size);
    /* The copy is what counts from here on: the guest may have written between the two. */
    v9_put_header(r->data, r->size, r->type, r->tag);
}

/* A flush that a Tflush names is over before anybody could see that it was flushed. */
static struct v9_request *find_tag(struct v9_device *dev, const struct v9_request *flush,
                                   uint16_t tag)
{
    for (uint32_t i = dev->tags[tag % V9_SLOTS]; i; i = dev->slots[i - 1].tag_after) {
        struct v9_request *r = &dev->slots[i - 1];
        if (r != flush && r->tag == tag && !r->dead && r->type != P9_TFLUSH &&
            (r->state == V9_RUNNING || r->state == V9_UPCALL || r->state == V9_LATER ||
             r->state == V9_RATE_LIMITED))
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

/* A request that has not begun ends. */
static void call_off(struct v9_device *dev, struct v9_request *r)
{
    v9_rate_queue_leave(dev, r);
    v9_request_finish(dev, r, v9_request_error(r, EINTR));
}

/* Whether a Tflush has to wait: Rflush follows the reply to the request that it names, or comes at
 * once where that is over. */
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
        call_off(dev, target);
    else if (target->state == V9_LATER)
        v9_device_tell(dev);
    return true;
}

/* A new session begins, for which whatever is in flight comes to its end first: NULL until then.
 * What waits is called off. Nothing else begins before it is answered, since it clears all fids. */
static struct v9_request *start_version(struct v9_device *dev, struct v9_request *r)
{
    dev->barrier = r;
    if (dev->inflight == 1)
        return r;
    r->state = V9_BARRIER;
    dev->news = true;
    return NULL;
}

/* The Tversion that has waited for all others. */
static struct v9_request *next_version(struct v9_device *dev)
{
    struct v9_request *r = dev->barrier;

    if (!r || r->state != V9_BARRIER || dev->inflight > 1 || (dev->paused && !dev->hurry))
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
    if (v9_virtqueue_pop(&dev->ring, &dev->mem, &r->chain) == 0 &&
        r->chain.writable_size >= P9_RLERROR_SIZE) {
        parse(dev, r);
        enter_tag(dev, r);
        dev->requests++;
        return r;
    }
    break_ring(dev, dev->ring.broken ? dev->ring.broken : "no room for a reply of 11 bytes");
    free_slot(dev, r);
    return NULL;
}

/* The next request for a serving thread, or NULL. Each costs its turn, one that is wrong or flushes
 * another as well: whoever else wants the lock gets it in between. */
struct v9_request *v9_request_next(struct v9_device *dev)
{
    struct v9_request *r = v9_rate_queue_next(dev);

    if (!r)
        r = next_version(dev);
    if (!r && v9_device_can_run(dev) && !dev->barrier) {
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
    const bool called_off = dev->barrier && dev->delayed && (!dev->paused || dev->hurry);
    return dev->news || called_off || v9_notify_is_due(&dev->notify) || next_version(dev);
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

bool v9_request_is_unwanted(const struct v9_device *dev, const struct v9_request *r)
{
    return r->flushers || dev->barrier;
}

/* Whether a request is not over, though its thread is through with it. */
static bool goes_on(struct v9_device *dev, struct v9_request *r, int result)
{
    if (r->dead)
        return false;
    if (result == -V9_IS_FLUSH)
        return start_flush(dev, r);
    if (result != -V9_NOT_YET || v9_request_is_unwanted(dev, r))
        return false;
    v9_rate_queue_enter(dev, r);
    return true;
}

/* Ends a request in the way that `result` (of v9_p9_run) says. */
void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result)
{
    const uint32_t slot = r->slot, seq = r->seq, flushers = r->flushers;
    const bool dead = r->dead;

    if (goes_on(dev, r, result)) {
        pthread_cond_broadcast(&dev->idle);
        return;
    }
    if (!dead && result == -V9_IS_FLUSH)
        result = reply_to_flush(r);
    else if (!dead && result == -V9_NOT_YET)
        result = v9_request_error(r, EINTR);
    if (!dead && v9_virtqueue_push(&dev->ring, &r->chain, (uint32_t)result) &&
        ++dev->unsignalled >= V9_SIGNAL_BATCH)
        v9_device_signal(dev);
    v9_device_look(dev);
    if (r == dev->barrier) {
        dev->barrier = NULL;
        v9_device_wake(dev);
    }
    free_slot(dev, r);
    if (flushers)
        finish_flushers(dev, slot, seq, flushers);
    if (next_version(dev))
        v9_device_wake(dev);
    pthread_cond_broadcast(&dev->idle);
}

/* ---- stragglers --------------------------------------------------------------------------------
 */

static void kill_request(struct v9_device *dev, struct v9_request *r)
{
    if (v9_virtqueue_push(&dev->ring, &r->chain, (uint32_t)v9_request_error(r, EIO)))
        dev->unsignalled++;
    dev->inflight--;
    dev->dead++;
    r->dead = true;
    if (r == dev->barrier)
        dev->barrier = NULL;
    if (r->state == V9_RUNNING)
        dev->busy--;
    if (r->state == V9_RATE_LIMITED)
        v9_rate_queue_leave(dev, r);
    if (r->state == V9_RATE_LIMITED || r->state == V9_FLUSHING || r->state == V9_BARRIER)
        free_slot(dev, r); /* the others are with a thread, or Python */
}

/*
 * Answers EIO for what is still in flight (all of it, or only what a thread may be writing into
 * guest memory for) and takes the guest's memory from under it. A read that goes on does not touch
 * the first 11 bytes of its buffer, so an Rlerror and the data do not mix; of an Rerror what may
 * mix is the text and the number, and it stays an error.
 */
void v9_device_kill(struct v9_device *dev, bool all)
{
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && !r->dead && (all || r->state == V9_RUNNING))
            kill_request(dev, r);
    }
    v9_device_signal(dev);
    v9_device_detach(dev);
    if (v9_mem_cut_off(&dev->mem, &dev->retired) < 0)
        v9_mem_clear(&dev->mem);
    if (!dev->dead)
        v9_mem_retire(&dev->retired);
    pthread_cond_broadcast(&dev->idle);
}

/*
 * Around a change of the memory table: what the ring and the waiting requests know of it is let go
 * before, and looked up again after. A request whose buffers are gone stays without them; what is
 * answered meanwhile reaches nobody. Chains with a serving thread are not touched: there are none,
 * or they were killed.
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
