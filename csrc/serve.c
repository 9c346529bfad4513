#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "delay.h"
#include "iov.h"

void v9_device_signal(struct v9_device *dev)
{
    const uint64_t one = 1;

    if (!dev->unsignalled)
        return;
    dev->unsignalled = 0;
    if (!dev->ring.desc || !v9_vring_should_signal(&dev->ring))
        return;
    dev->unheard = dev->call_fd < 0;
    if (dev->unheard)
        return;
    dev->signals++;
    /* An eventfd; a pipe with User Mode Linux. A full one has woken the guest already. */
    while (write(dev->call_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void break_ring(struct v9_device *dev, const char *reason)
{
    const uint64_t one = 1;

    if (!dev->ring.broken)
        dev->ring.broken = reason;
    dev->broken_note.up = (struct v9_upcall){
        .device = dev->conf.id,
        .kind = V9_UP_BROKEN,
        .fd = -1,
        .size = (uint32_t)strlen(dev->ring.broken),
    };
    dev->broken_note.data = (const uint8_t *)dev->ring.broken;
    dev->broken_note.line = &dev->line;
    if (dev->err_fd >= 0)
        while (write(dev->err_fd, &one, sizeof(one)) < 0 && errno == EINTR)
            ;
    v9_hub_post(dev->hub, &dev->broken_note);
}

void v9_device_look(struct v9_device *dev)
{
    if (v9_mem_lost(&dev->mem) && !dev->ring.broken)
        break_ring(dev, "the frontend took memory away (SIGBUS)");
}

/* ---- from the ring -----------------------------------------------------------------------------
 */

bool v9_device_can_run(struct v9_device *dev)
{
    return dev->started && dev->enabled && !dev->paused && dev->ring.desc && !dev->ring.broken &&
           dev->exports[0];
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
    r->dead = r->admitted = false;
    r->asked = 0;
    r->error = 0;
    r->next = NULL;
    r->question.fd = -1;
    r->made = V9_MADE_NONE;
    dev->inflight++;
    return r;
}

static void free_slot(struct v9_device *dev, struct v9_request *r)
{
    v9_made_close(&r->made); /* of a request that ended while Python was asked */
    if (r->dead)
        dev->dead--;
    else
        dev->inflight--;
    r->state = V9_FREE;
    r->next = dev->free_slots;
    dev->free_slots = r;
    if (!dev->dead)
        v9_mem_bury(&dev->graveyard);
    if (dev->starved) {
        dev->starved = false;
        v9_threads_nudge(dev);
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

static void post(struct v9_device *dev, struct v9_request *r, uint32_t kind)
{
    r->state = V9_UPCALL;
    r->note.up = r->question;
    r->note.up.device = dev->conf.id;
    r->note.up.kind = kind;
    r->note.up.slot = r->slot;
    r->note.up.seq = r->seq;
    r->note.up.tag = r->tag;
    r->note.up.size = r->data_size;
    r->note.data = r->data;
    r->note.line = &dev->line;
    r->question.fd = -1;
    dev->upcalls++;
    v9_hub_queue(dev->hub, &r->note);
    dev->posted = true;
}

/* Python's thread is woken last: where it takes this thread's CPU it would else soon wait for the
 * lock, and both be switched to and fro once more. */
void v9_device_unlock(struct v9_device *dev)
{
    const bool posted = dev->posted;
    v9_hub *hub = dev->hub;

    dev->posted = false;
    pthread_mutex_unlock(&dev->lock);
    if (posted)
        v9_hub_wake(hub);
}

/* Nobody waits for this request any more: one that has not begun ends, and Python is told. */
static void cancel(struct v9_device *dev, struct v9_request *r)
{
    if (r->state == V9_DELAYED) {
        v9_delay_leave(dev, r);
        v9_request_finish(dev, r, v9_request_error(r, EINTR));
    }
    if (r->state != V9_UPCALL)
        return;
    r->flush_note.up = (struct v9_upcall){
        .device = dev->conf.id, .kind = V9_UP_FLUSH, .fd = -1, .a = r->slot, .b = r->seq};
    r->flush_note.line = &dev->line;
    v9_hub_post(dev->hub, &r->flush_note);
}

static struct v9_request *find_tag(struct v9_device *dev, const struct v9_request *flush,
                                   uint16_t tag)
{
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r != flush && r->tag == tag && !r->dead &&
            (r->state == V9_RUNNING || r->state == V9_UPCALL || r->state == V9_RESUMED ||
             r->state == V9_DELAYED))
            return r;
    }
    return NULL;
}

static void finish_flush(struct v9_device *dev, struct v9_request *r)
{
    uint8_t reply[P9_HEADER_SIZE];
    v9_put_header(reply, sizeof(reply), P9_TFLUSH + 1, r->tag);
    v9_request_finish(dev, r, v9_request_reply(r, reply, sizeof(reply)));
}

/* Rflush follows the reply to the request that it names, or comes at once where that is over. */
static void start_flush(struct v9_device *dev, struct v9_request *r)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    uint16_t tag = v9_in_u16(&in);
    struct v9_request *target = find_tag(dev, r, tag);

    if (!v9_in_is_done(&in)) {
        v9_request_finish(dev, r, v9_request_error(r, EINVAL));
        return;
    }
    if (!target) {
        finish_flush(dev, r);
        return;
    }
    r->state = V9_FLUSHING;
    r->target = target->slot;
    r->target_seq = target->seq;
    dev->flushing++;
    cancel(dev, target);
}

static void start_version(struct v9_device *dev, struct v9_request *r)
{
    if (dev->inflight == 1) {
        post(dev, r, V9_UP_REQUEST);
        return;
    }
    r->state = V9_BARRIER;
    dev->barrier = r;
    for (uint32_t i = 0; i < dev->slots_used; i++)
        if (r != &dev->slots[i] && !dev->slots[i].dead)
            cancel(dev, &dev->slots[i]);
}

static struct v9_request *pop(struct v9_device *dev)
{
    struct v9_request *r;
    int available = v9_vring_peek(&dev->ring);

    if (available < 0)
        break_ring(dev, dev->ring.broken);
    if (available <= 0)
        return NULL;
    r = take_slot(dev);
    if (!r) {
        dev->starved = true;
        return NULL;
    }
    if (v9_vring_take(&dev->ring, &dev->mem, &r->chain) == 0 &&
        r->chain.writable_size >= P9_RLERROR_SIZE) {
        parse(dev, r);
        dev->requests++;
        return r;
    }
    break_ring(dev, dev->ring.broken ? dev->ring.broken : "no room for a reply of 11 bytes");
    free_slot(dev, r);
    return NULL;
}

/*
 * The next request for a serving thread, or NULL. Tflush and Tversion are dealt with here, under
 * the lock: they concern the others in flight and never wait for a thread.
 */
struct v9_request *v9_request_next(struct v9_device *dev)
{
    struct v9_request *r;

    r = dev->resumed;
    if (r)
        dev->resumed = r->next;
    else
        r = v9_delay_next(dev);
    if (r) {
        r->state = V9_RUNNING;
        dev->busy++;
        return r;
    }
    while (v9_device_can_run(dev) && !dev->barrier && (r = pop(dev))) {
        if (r->error) {
            v9_request_finish(dev, r, v9_request_error(r, -r->error));
        } else if (r->type == P9_TFLUSH) {
            start_flush(dev, r);
        } else if (r->type == P9_TVERSION) {
            start_version(dev, r);
        } else {
            dev->busy++;
            return r;
        }
    }
    return NULL;
}

/* ---- running -----------------------------------------------------------------------------------
 */

static v9_handler *const handlers[256] = {
    [P9_TSTATFS] = v9_fast_statfs,     [P9_TLOPEN] = v9_fast_lopen,
    [P9_TREADLINK] = v9_fast_readlink, [P9_TGETATTR] = v9_fast_getattr,
    [P9_TREADDIR] = v9_fast_readdir,   [P9_TWALK] = v9_fast_walk,
    [P9_TREAD] = v9_fast_read,         [P9_TWRITE] = v9_fast_write,
    [P9_TCLUNK] = v9_fast_clunk,       [P9_TLCREATE] = v9_fast_lcreate,
    [P9_TMKDIR] = v9_fast_mkdir,       [P9_TMKNOD] = v9_fast_mknod,
    [P9_TSYMLINK] = v9_fast_symlink,   [P9_TUNLINKAT] = v9_fast_unlinkat,
};

/* Of the messages below Tversion 9P2000.u has none. */
static v9_handler *const unix_handlers[256] = {
    [P9_TWALK] = v9_fast_walk,   [P9_TOPEN] = v9_fast_open,   [P9_TREAD] = v9_fast_read,
    [P9_TWRITE] = v9_fast_write, [P9_TCLUNK] = v9_fast_clunk, [P9_TSTAT] = v9_fast_stat,
};

/* The question for Python that a handler's result is. */
static uint32_t question_kind(int result)
{
    switch (result) {
    case -V9_NO_DEVICE:
        return V9_UP_DEVICE;
    case -V9_NO_GROUP:
        return V9_UP_GROUP;
    case -V9_NO_MOUNT:
        return V9_UP_MOUNT;
    default:
        return V9_UP_REQUEST;
    }
}

/* Runs a request without the lock. The size of the reply, which is written already, or V9_PASS,
 * -V9_NO_DEVICE, -V9_NO_GROUP, -V9_NO_MOUNT or -V9_NOT_YET. */
int v9_request_run(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch)
{
    v9_handler *handler = (r->dialect == V9_9P2000U ? unix_handlers : handlers)[r->type];
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    int result;

    if (!handler) {
        result = v9_fast_prepare(dev, r);
        result = result ? result : V9_PASS;
    } else {
        result = handler(dev, r, &in, scratch);
    }
    if (result == V9_PASS || result == -V9_NOT_YET ||
        (result < 0 && question_kind(result) != V9_UP_REQUEST))
        return result;
    v9_made_close(&r->made); /* not under the lock: a host file may hang */
    return result < 0 ? v9_request_error(r, -result) : result;
}

static void finish_flushers(struct v9_device *dev, uint32_t slot, uint32_t seq)
{
    for (uint32_t i = 0; dev->flushing && i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state == V9_FLUSHING && r->target == slot && r->target_seq == seq) {
            dev->flushing--;
            finish_flush(dev, r);
        }
    }
}

/* Whether a request that has not begun need not begin. */
static bool is_unwanted(const struct v9_device *dev, const struct v9_request *r)
{
    for (uint32_t i = 0; dev->flushing && i < dev->slots_used; i++) {
        const struct v9_request *flush = &dev->slots[i];
        if (flush->state == V9_FLUSHING && flush->target == r->slot && flush->target_seq == r->seq)
            return true;
    }
    return dev->barrier != NULL;
}

/* Ends a request in the way that `result` (of v9_request_run) says: published, or up to Python. */
void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result)
{
    const uint32_t slot = r->slot, seq = r->seq;
    const bool dead = r->dead;

    if (!dead && result == -V9_NOT_YET) {
        if (!is_unwanted(dev, r)) {
            v9_delay_enter(dev, r);
            pthread_cond_broadcast(&dev->idle);
            return;
        }
        result = v9_request_error(r, EINTR);
    }
    if (!dead && result < 0) {
        post(dev, r, question_kind(result));
        pthread_cond_broadcast(&dev->idle);
        return;
    }
    if (r->question.fd >= 0)
        close(r->question.fd);
    if (!dead && dev->ring.desc) {
        v9_vring_push(&dev->ring, &r->chain, (uint32_t)result);
        if (++dev->unsignalled >= V9_SIGNAL_BATCH)
            v9_device_signal(dev);
    }
    v9_device_look(dev);
    free_slot(dev, r);
    if (!dead && dev->flushing)
        finish_flushers(dev, slot, seq);
    if (dev->barrier && dev->inflight == 1) {
        r = dev->barrier;
        dev->barrier = NULL;
        post(dev, r, V9_UP_REQUEST);
        v9_threads_nudge(dev);
    }
    pthread_cond_broadcast(&dev->idle);
}

/* ---- stragglers --------------------------------------------------------------------------------
 */

static void kill_request(struct v9_device *dev, struct v9_request *r)
{
    if (dev->ring.desc) {
        v9_vring_push(&dev->ring, &r->chain, (uint32_t)v9_request_error(r, EIO));
        dev->unsignalled++;
    }
    dev->inflight--;
    dev->dead++;
    r->dead = true;
    if (r->state == V9_RUNNING) {
        dev->busy--;
    } else if (r->state == V9_FLUSHING) {
        dev->flushing--;
        free_slot(dev, r);
    } else if (r->state == V9_BARRIER) {
        dev->barrier = NULL;
        free_slot(dev, r);
    } else if (r->state == V9_DELAYED) {
        v9_delay_leave(dev, r);
        free_slot(dev, r);
    }
}

/*
 * Answers EIO for what is still in flight (all of it, or only what a thread may be writing into
 * guest memory for) and takes the guest's memory from under it. A read that goes on does not touch
 * the first 11 bytes of its buffer, so an Rlerror and the data do not mix; of an Rerror what may
 * mix is the text and the number, and it stays an error.
 */
void v9_device_kill(struct v9_device *dev, bool all)
{
    if (all)
        while (dev->resumed) {
            dev->resumed->state = V9_UPCALL; /* with a thread no more, nor with Python: free it */
            struct v9_request *r = dev->resumed;
            dev->resumed = r->next;
            kill_request(dev, r);
            free_slot(dev, r);
        }
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && !r->dead && (all || r->state == V9_RUNNING))
            kill_request(dev, r);
    }
    v9_device_signal(dev);
    v9_device_detach(dev);
    if (v9_mem_cut_off(&dev->mem, &dev->graveyard) < 0)
        v9_mem_clear(&dev->mem);
    if (!dev->dead)
        v9_mem_bury(&dev->graveyard);
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
    v9_vring_unmap(&dev->ring);
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && r->state != V9_RUNNING && !r->dead)
            v9_chain_detach(&r->chain, &dev->mem);
    }
}

void v9_device_attach(struct v9_device *dev)
{
    if (dev->ring.num && dev->ring.desc_uva)
        v9_vring_map(&dev->ring, &dev->mem);
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && r->state != V9_RUNNING && !r->dead)
            v9_chain_attach(&r->chain, &dev->mem);
    }
}
