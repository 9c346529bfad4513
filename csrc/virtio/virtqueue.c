#define _GNU_SOURCE
#include "virtio/virtqueue.h"

#include <errno.h>

#include "virtio/packed.h"
#include "virtio/split.h"

/* ---- set-up ---------------------------------------------------------------------------------- */

static const char *check_setup(const struct v9_virtqueue_setup *setup)
{
    if (!setup->num || setup->num > V9_VRING_MAX)
        return "its size was not set (SET_VRING_NUM: 1 to 32768)";
    return setup->packed ? v9_packed_check(setup) : v9_split_check(setup);
}

static const char *map_ring(struct v9_virtqueue *vq, struct v9_mem *mem)
{
    const char *reason = vq->setup.packed ? v9_packed_map(vq, mem) : v9_split_map(vq, mem);

    if (reason)
        v9_virtqueue_unmap(vq);
    return reason;
}

const char *v9_virtqueue_start(struct v9_virtqueue *vq, const struct v9_virtqueue_setup *setup,
                               struct v9_mem *mem)
{
    const char *reason = check_setup(setup);

    v9_virtqueue_stop(vq);
    if (reason)
        return reason;
    vq->setup = *setup;
    reason = map_ring(vq, mem);
    if (reason)
        return reason;
    vq->generation++;
    vq->running = true;
    vq->unsignalled = 0;
    vq->must_signal = true;
    if (setup->packed)
        v9_packed_begin(vq);
    else
        v9_split_begin(vq);
    return NULL;
}

void v9_virtqueue_stop(struct v9_virtqueue *vq)
{
    if (vq->running)
        vq->setup.base = vq->setup.packed ? v9_packed_base(vq) : v9_split_base(vq);
    vq->running = false;
    vq->broken = NULL;
    v9_virtqueue_unmap(vq);
}

void v9_virtqueue_unmap(struct v9_virtqueue *vq)
{
    vq->desc = NULL;
    vq->avail = vq->used = NULL;
    for (int i = 0; i < 3; i++)
        v9_mapping_end(&vq->windows[i]);
}

void v9_virtqueue_remap(struct v9_virtqueue *vq, struct v9_mem *mem)
{
    v9_virtqueue_unmap(vq);
    if (vq->running)
        map_ring(vq, mem);
}

/* ---- either layout --------------------------------------------------------------------------- */

int v9_virtqueue_peek(struct v9_virtqueue *vq)
{
    if (vq->broken)
        return -EPROTO;
    return vq->setup.packed ? v9_packed_peek(vq) : v9_split_peek(vq);
}

int v9_virtqueue_pop(struct v9_virtqueue *vq, struct v9_mem *mem, struct v9_chain *chain)
{
    v9_chain_begin(chain);
    chain->generation = vq->generation;
    return vq->setup.packed ? v9_packed_pop(vq, mem, chain) : v9_split_pop(vq, mem, chain);
}

bool v9_virtqueue_push(struct v9_virtqueue *vq, const struct v9_chain *chain, uint32_t written)
{
    if (!v9_virtqueue_is_live(vq) || chain->generation != vq->generation)
        return false;
    if (vq->setup.packed)
        v9_packed_push(vq, chain, written);
    else
        v9_split_push(vq, chain, written);
    return true;
}

bool v9_virtqueue_should_signal(struct v9_virtqueue *vq)
{
    const uint16_t went = vq->unsignalled;

    vq->unsignalled = 0;
    v9_full_barrier(); /* used chains are visible before we check whether the driver sleeps */
    if (vq->must_signal) {
        vq->must_signal = false;
        return true;
    }
    return vq->setup.packed ? v9_packed_wants_signal(vq, went) : v9_split_wants_signal(vq, went);
}

bool v9_virtqueue_enable_notification(struct v9_virtqueue *vq)
{
    return vq->setup.packed ? v9_packed_enable_notification(vq) : v9_split_enable_notification(vq);
}

void v9_virtqueue_disable_notification(struct v9_virtqueue *vq)
{
    if (vq->setup.packed)
        v9_packed_disable_notification(vq);
    else
        v9_split_disable_notification(vq);
}
