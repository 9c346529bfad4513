#define _GNU_SOURCE
#include "request/recover.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
#include "base/wire.h"
#include "fid/fid.h"
#include "fs/created.h"
#include "request/reply.h"
#include "request/request.h"
#include "request/suspects.h"

/* Calls a function for each request that was in flight. */
static void each(struct v9_device *dev, void (*visit)(struct v9_device *, struct v9_request *))
{
    for (uint32_t i = 0; i < dev->slots_used && i < V9_SLOTS; i++)
        if (dev->slots[i].state != V9_FREE && !dev->slots[i].dead)
            visit(dev, &dev->slots[i]);
}

static void detach(struct v9_device *dev, struct v9_request *r)
{
    v9_chain_detach_dead(&r->chain, &dev->mem);
}

void v9_requests_detach_dead(struct v9_device *dev)
{
    each(dev, detach);
}

static void lose_descriptors(struct v9_device *dev, struct v9_request *r)
{
    (void)dev;
    v9_created_forget(&r->created);
    v9_evidence_lose_descriptors(&r->evidence);
}

void v9_requests_lose_descriptors(struct v9_device *dev)
{
    each(dev, lose_descriptors);
}

void v9_requests_leave_exports(struct v9_device *dev, const bool served[V9_EXPORTS_MAX])
{
    for (uint32_t i = 0; i < dev->slots_used && i < V9_SLOTS; i++) {
        struct v9_request *r = &dev->slots[i];
        if (r->created_in < V9_EXPORTS_MAX && served[r->created_in])
            continue;
        v9_created_forget(&r->created); /* its descriptors are nobody's now */
        V9_COMMIT();
        r->created_in = 0;
    }
}

/* ---- what was done --------------------------------------------------------------------------- */

/* Whether the fid that a request was the last to change is what the request makes of it. */
static bool has_changed(struct v9_device *dev, const struct v9_request *r)
{
    const struct v9_fid *fid = v9_fids_entered(&dev->fids, r->changes);

    switch (r->type) {
    case P9_TWALK:
    case P9_TLCREATE:
    case P9_TCREATE:
    case P9_TXATTRWALK:
        return fid;
    case P9_TLOPEN:
    case P9_TOPEN:
        return fid && fid->io_fd != -1;
    case P9_TFSYNC:
    case P9_TWSTAT: /* a sync in the other dialect */
        return fid && !fid->lost_writes;
    case P9_TXATTRCREATE:
        return fid && fid->flags & V9_FID_XATTR;
    case P9_TCLUNK:
    case P9_TREMOVE:
        return !fid;
    default:
        return false;
    }
}

/* What Python entered for a Tattach, whose reply it had not sent, is taken back. */
static void withdraw(struct v9_device *dev, const struct v9_request *r)
{
    if (r->type == P9_TATTACH && r->changes)
        v9_fids_remove_handle(&dev->fids, r->changes);
}

/* Answers a Twrite that has appended its data. */
static bool has_appended(struct v9_request *r)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE + 12, r->data + r->data_size, false};
    uint8_t reply[P9_IO_SIZE];
    uint32_t put = r->type == P9_TWRITE ? v9_evidence_appended(&r->evidence, v9_in_u32(&in)) : 0;

    if (!put)
        return false;
    v9_put(v9_put_header(reply, sizeof(reply), P9_TWRITE + 1, r->tag), put, 4);
    v9_request_promise(r, reply, sizeof(reply));
    return true;
}

static bool is_errno(int error)
{
    return error > 0 && error < 4096;
}

/* Whether a request can be what a process has left. */
static bool is_sane(const struct v9_request *r)
{
    return r->data_size <= r->size && r->size <= r->chain.readable_size &&
           r->data_size <= V9_REQUEST_DATA && r->data_size >= P9_HEADER_SIZE &&
           r->dialect <= V9_9P2000U && r->evidence.count <= V9_STEPS_MAX &&
           r->reply_size <= r->chain.writable_size && r->created_in < V9_EXPORTS_MAX;
}

/* One whose memory was damaged fails. */
static void fail(struct v9_request *r)
{
    r->error = -EIO;
    r->dialect = r->dialect <= V9_9P2000U ? r->dialect : V9_9P2000L;
    v9_created_forget(&r->created);
    r->changes = 0;
    v9_evidence_clear(&r->evidence);
}

/* A fid has no number after its Tclunk or Tremove, whatever the reply (clunk(9P), remove(9P)): the
 * client gives the number to another one. */
static void end_fid(struct v9_device *dev, const struct v9_request *r)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    const uint32_t number = v9_in_u32(&in);
    uint64_t handle;

    if ((r->type == P9_TCLUNK || r->type == P9_TREMOVE) && !in.bad &&
        v9_fids_find(&dev->fids, number, &handle) == 0)
        v9_fids_remove_handle(&dev->fids, handle);
}

/* Answers a request with an error at which too many processes died. */
static void convict(struct v9_device *dev, struct v9_request *r)
{
    r->convicted = r->error != -EIO;
    if (!r->error)
        end_fid(dev, r);
    V9_COMMIT();
    r->error = -EIO;
}

static void settle(struct v9_device *dev, struct v9_request *r)
{
    v9_chain_attach(&r->chain, &dev->mem);
    if (r->error ? !is_errno(-r->error) : !is_sane(r))
        fail(r);
    r->done = has_appended(r) || (r->reply_size && r->changes && has_changed(dev, r));
    if (r->done)
        v9_created_forget(&r->created); /* the fid has them */
    else
        withdraw(dev, r);
    r->convicted = false;
    if (!r->done && r->deaths >= V9_DEATHS_MAX)
        convict(dev, r);
}

/* ---- the ring -------------------------------------------------------------------------------- */

/* A request that was being popped and is not whole is popped again. */
static void settle_popping(struct v9_device *dev)
{
    const uint32_t slot = dev->popping;

    if (slot && slot <= V9_SLOTS && dev->slots[slot - 1].state == V9_FREE)
        v9_virtqueue_set_pop_place(&dev->ring, dev->slots[slot - 1].pop_at);
    V9_COMMIT();
    dev->popping = 0;
    V9_COMMIT();
    dev->pop_blamed = false;
}

static void settle_pushing(struct v9_device *dev)
{
    const uint32_t slot = dev->pushing;
    struct v9_request *r = &dev->slots[slot - 1];

    if (slot && slot <= V9_SLOTS && r->state != V9_FREE) {
        v9_virtqueue_push_again(&dev->ring, &r->chain, r->reply_size, r->push_at);
        V9_COMMIT();
        r->state = V9_FREE;
    }
    V9_COMMIT();
    dev->pushing = 0;
}

/* Nobody knows how long the chain is at which processes died. */
static void settle_pop_deaths(struct v9_device *dev)
{
    if (dev->pop_deaths < V9_DEATHS_MAX || !v9_virtqueue_is_live(&dev->ring))
        return;
    dev->ring.broken = "several processes died while they took a chain from it";
    dev->pop_deaths = 0;
    dev->report_due = dev->broken_unreported = dev->notify.err_due = true;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Which suspects come first, those that only take long last; 0: it is none. */
static uint32_t suspicion(const struct v9_request *r)
{
    if (!v9_request_is_suspect(r))
        return 0;
    return r->overdue ? 1 : 1u + r->deaths;
}

static bool is_before(const struct v9_request *r, const struct v9_request *other)
{
    return suspicion(r) != suspicion(other) ? suspicion(r) > suspicion(other)
                                            : r->order < other->order;
}

/* Queues a request, by suspicion and age. */
static void run_again(struct v9_device *dev, struct v9_request *r)
{
    struct v9_request **at = &dev->again;

    while (*at && is_before(*at, r))
        at = &(*at)->next;
    r->next = *at;
    *at = r;
    r->slot = (uint32_t)(r - dev->slots);
    r->state = V9_AGAIN;
    r->again = true;
    r->flush_reported = false;
    r->flushers = 0;
    r->asked = 0;
    r->rate_queues = NULL;
    r->question.fd = -1;
    v9_evidence_recover(&r->evidence);
    dev->inflight++;
}

static void enter_tags(struct v9_device *dev)
{
    for (struct v9_request *r = dev->again; r; r = r->next)
        v9_request_enter_tag(dev, r);
}

static void list_free(struct v9_device *dev)
{
    for (uint32_t i = dev->slots_used; i-- > 0;) {
        struct v9_request *r = &dev->slots[i];
        if (r->state != V9_FREE && !r->dead)
            continue;
        r->state = V9_FREE;
        r->next = dev->free_slots;
        dev->free_slots = r;
    }
}

void v9_requests_recover(struct v9_device *dev)
{
    if (dev->slots_used > V9_SLOTS)
        dev->slots_used = V9_SLOTS;
    memset(dev->tags, 0, sizeof(dev->tags));
    dev->free_slots = dev->again = NULL;
    dev->inflight = dev->dead = dev->busy = dev->rate_limited = 0;
    dev->barrier = NULL;
    dev->starved = dev->hurry = false;
    dev->due = 0;
    dev->on_trial = 0;
    settle_popping(dev);
    settle_pushing(dev);
    each(dev, settle);
    list_free(dev);
    each(dev, run_again);
    enter_tags(dev);
    settle_pop_deaths(dev);
    dev->unsignalled = 1; /* the process may have died before it signalled */
}

void v9_requests_fail(struct v9_device *dev)
{
    for (uint32_t i = 0; i < dev->slots_used && i < V9_SLOTS; i++)
        if (dev->slots[i].state != V9_FREE && !dev->slots[i].dead)
            fail(&dev->slots[i]);
}

void v9_requests_list_descriptors(const struct v9_device *dev,
                                  void (*owns)(void *context, int32_t fd), void *context)
{
    for (const struct v9_request *r = dev->again; r; r = r->next) {
        owns(context, r->evidence.made);
        if (r->created.path_fd < 0)
            continue;
        owns(context, r->created.path_fd);
        owns(context, r->created.meta_fd);
        owns(context, r->created.io_fd);
    }
}
