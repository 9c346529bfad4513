/*
 * upcall: serving threads call Python, and Python answers some requests later. The theory is in
 * upcall.h.
 */
#include "request/upcall.h"

#include <errno.h>
#include <string.h>

#include "request/failure.h"
#include "request/notify.h"
#include "request/reply.h"
#include "request/request.h"

static struct v9_request *find_upcall(struct v9_device *dev, uint32_t slot, uint32_t seq)
{
    struct v9_request *r = slot < dev->slots_used ? &dev->slots[slot] : NULL;
    return r && r->seq == seq && (r->state == V9_AWAY || r->state == V9_LATER) ? r : NULL;
}

/* Ends a request with `result` bytes of data, or with an error (-errno). */
static void end(struct v9_device *dev, struct v9_request *r, const void *data, int32_t result)
{
    int size = 0;

    r->dialect = dev->dialect; /* a Tversion has just changed it */
    if (!r->dead)
        size =
            result < 0 ? v9_request_error(r, -result) : v9_request_reply(r, data, (uint32_t)result);
    v9_request_finish(dev, r, size);
}

/* The request that the calling thread has passed to Python. */
static _Thread_local struct {
    struct v9_device *dev;
    struct v9_request *request;
} passed;

void v9_upcall_promise(struct v9_device *dev, int err, uint8_t type, const void *body,
                       uint32_t size)
{
    struct v9_request *r = passed.dev == dev ? passed.request : NULL;
    uint8_t reply[P9_HEADER_SIZE + V9_PROMISE_MAX];

    if (!r)
        return;
    memcpy(v9_put_header(reply, P9_HEADER_SIZE + size, type, r->tag), body, size);
    pthread_mutex_lock(&dev->lock); /* the memory table may change meanwhile */
    if (!r->dead && err)
        v9_request_promise_error(r, -err);
    else if (!r->dead)
        v9_request_promise(r, reply, P9_HEADER_SIZE + size);
    pthread_mutex_unlock(&dev->lock);
}

static void set_in_python(struct v9_worker *worker, bool in_python)
{
    __atomic_store_n(&worker->in_python, in_python, __ATOMIC_RELAXED);
}

/* ---- on a serving thread --------------------------------------------------------------------- */

void v9_upcall_request(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch)
{
    const uint32_t slot = r->slot, seq = r->seq;
    int32_t result;

    r->state = V9_AWAY;
    dev->upcalls++;
    pthread_cond_broadcast(&dev->idle); /* no thread uses its memory any more */
    pthread_mutex_unlock(&dev->lock);
    set_in_python(&scratch->worker, true);
    passed.dev = dev;
    passed.request = r;
    result = v9_up_request(dev->conf.id, slot, seq, (const char *)r->data, r->data_size,
                           (char *)scratch->reply);
    passed.request = NULL;
    set_in_python(&scratch->worker, false);
    if (result < 0)
        v9_failure_report(dev, r, result, &scratch->worker);
    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (!r)
        return; /* another thread has answered it already */
    if (result) {
        end(dev, r, scratch->reply, result);
        return;
    }
    r->state = V9_LATER;
    pthread_cond_broadcast(&dev->idle); /* a trial ends here */
    if (v9_request_is_cancelled(dev, r))
        v9_device_schedule_report(dev);
}

int v9_upcall_question(struct v9_device *dev, struct v9_request *r, uint32_t kind,
                       struct v9_worker *worker)
{
    const struct v9_question asked = r->question;
    int err;

    r->question.fd = -1;
    set_in_python(worker, true);
    err = v9_up_question(dev->conf.id, kind, asked.a, asked.b, asked.fd);
    set_in_python(worker, false);
    return err;
}

int v9_upcall_lock(struct v9_device *dev, const struct v9_lock_request *lock,
                   struct v9_worker *worker)
{
    int err;

    set_in_python(worker, true);
    err = v9_up_lock(dev->conf.id, lock->fid, lock->writable, lock->st_dev, lock->st_ino,
                     lock->client_id, lock->client_size, lock->proc_id, lock->type, lock->start,
                     lock->length, lock->flock, lock->request);
    set_in_python(worker, false);
    return err;
}

static struct v9_request *find_cancelled(struct v9_device *dev)
{
    for (uint32_t i = 0; i < dev->slots_used; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->state == V9_LATER && !r->flush_reported && v9_request_is_cancelled(dev, r))
            return r;
    }
    return NULL;
}

void v9_upcall_report(struct v9_device *dev, struct v9_worker *worker)
{
    const char *reason = dev->broken_unreported ? dev->ring.broken : NULL;
    struct v9_request *r = find_cancelled(dev);
    uint32_t slot = 0, seq = 0;

    dev->report_due = dev->broken_unreported = false;
    if (r) {
        slot = r->slot;
        seq = r->seq;
        r->flush_reported = true;
        dev->report_due = true; /* there may be more */
    }
    pthread_mutex_unlock(&dev->lock);
    set_in_python(worker, true);
    if (reason)
        v9_up_broken(dev->conf.id, reason);
    if (r)
        v9_up_flush(dev->conf.id, slot, seq);
    set_in_python(worker, false);
    pthread_mutex_lock(&dev->lock);
}

/* ---- on any thread, for Python --------------------------------------------------------------- */

static int reply(struct v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data,
                 int32_t result)
{
    struct v9_request *r;
    int err = -ESTALE;

    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (r) {
        err = r->dead ? -ESTALE : 0;
        end(dev, r, data, result);
        v9_device_signal(dev);
    }
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev);
    return err;
}

int v9_reply(v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data, uint32_t size)
{
    return reply(dev, slot, seq, data, (int32_t)size);
}

/* The message of a request that may end meanwhile; its size, or 0. */
static uint32_t copy_message(struct v9_device *dev, uint32_t slot, uint32_t seq, uint8_t *data)
{
    const struct v9_request *r;
    uint32_t size = 0;

    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (r && !r->dead) {
        size = r->data_size;
        memcpy(data, r->data, size);
    }
    pthread_mutex_unlock(&dev->lock);
    return size;
}

int v9_reply_error(v9_device *dev, uint32_t slot, uint32_t seq, int32_t error)
{
    uint8_t data[V9_REQUEST_DATA];
    uint32_t size;

    if (v9_failures_are_reported(dev) && (size = copy_message(dev, slot, seq, data)))
        v9_failure_report_later(dev, data, size, error);
    return reply(dev, slot, seq, NULL, -error);
}
