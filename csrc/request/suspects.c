#define _GNU_SOURCE
#include "request/suspects.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
#include "request/notify.h"
#include "request/request.h"

/* Whether a thread has the request: it may be what ended the process. */
static bool runs(const struct v9_request *r)
{
    return (r->state == V9_RUNNING || r->state == V9_AWAY) && !r->dead;
}

static uint32_t used(const struct v9_device *dev)
{
    return dev->slots_used < V9_SLOTS ? dev->slots_used : V9_SLOTS;
}

static bool is_on_trial(const struct v9_device *dev, const struct v9_request *r)
{
    return dev->on_trial == (uint32_t)(r - dev->slots) + 1;
}

/* ---- after a death --------------------------------------------------------------------------- */

/* Whether the process died while it took a chain from the ring. */
static bool popped(const struct v9_device *dev)
{
    return dev->popping && !dev->pop_blamed;
}

uint32_t v9_suspects_running(const struct v9_device *dev)
{
    uint32_t count = popped(dev);

    for (uint32_t i = 0; i < used(dev); i++)
        count += runs(&dev->slots[i]);
    return count;
}

static void suspect(uint8_t *deaths, bool is_alone)
{
    if (*deaths < V9_DEATHS_MAX - !is_alone)
        ++*deaths;
}

static void blame_pop(struct v9_device *dev, uint32_t blame)
{
    if (!popped(dev))
        return;
    dev->pop_blamed = true;
    V9_COMMIT(); /* a death from here on is none of the chain's */
    if (blame != V9_BLAME_NOBODY && !dev->on_trial)
        suspect(&dev->pop_deaths, blame == V9_BLAME_ONE);
}

void v9_suspects_blame(struct v9_device *dev, uint32_t blame)
{
    blame_pop(dev, blame);
    for (uint32_t i = 0; i < used(dev); i++) {
        struct v9_request *r = &dev->slots[i];
        if (!runs(r))
            continue;
        r->state = V9_AGAIN;
        V9_COMMIT(); /* a death from here on is none of the request's */
        if (blame != V9_BLAME_NOBODY && (!dev->on_trial || is_on_trial(dev, r)))
            suspect(&r->deaths, blame == V9_BLAME_ONE);
    }
    dev->on_trial = 0;
}

/* The next poison at or behind slot `from` (request/api.h). */
int v9_device_poison(const v9_device *dev, uint32_t from, struct v9_poison *out)
{
    for (uint32_t i = from; i < used(dev); i++) {
        const struct v9_request *r = &dev->slots[i];
        const bool is_short = r->data_size < sizeof(out->data);
        if (r->state == V9_FREE || r->dead || !r->convicted)
            continue;
        *out = (struct v9_poison){.slot = i,
                                  .type = r->type,
                                  .dialect = r->dialect,
                                  .tag = r->tag,
                                  .size = r->size,
                                  .data_size = is_short ? r->data_size : sizeof(out->data)};
        memcpy(out->data, r->data, out->data_size);
        return 1;
    }
    return 0;
}

/* ---- the trial ------------------------------------------------------------------------------- */

/* The next suspect; none can run while the ring stands still, or the memory table changes. */
static struct v9_request *next_suspect(struct v9_device *dev)
{
    struct v9_request *r = dev->again;

    return r && v9_request_is_suspect(r) && v9_request_can_run_again(dev) ? r : NULL;
}

/* Runs one, or waits in vain. */
static void try_one(struct v9_device *dev, struct v9_request *r, int64_t patience_ns)
{
    const struct timespec until = v9_from_now(patience_ns);
    const uint32_t seq = r->seq;
    int err = 0;

    dev->on_trial = r->slot + 1;
    v9_device_wake(dev);
    while (!err && r->seq == seq && (r->state == V9_AGAIN || runs(r)))
        err = pthread_cond_timedwait(&dev->idle, &dev->lock, &until);
    dev->on_trial = 0;
    r->overdue = err && r->seq == seq;
}

void v9_suspects_try(struct v9_device *dev, int64_t patience_ns, uint32_t overdue_max)
{
    struct v9_request *r;

    while (overdue_max && (r = next_suspect(dev))) {
        try_one(dev, r, patience_ns);
        overdue_max -= r->overdue;
    }
}
