#define _GNU_SOURCE
#include "virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
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
    V9_COMMIT();
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

/* ---- progress -------------------------------------------------------------------------------- */

struct v9_place v9_virtqueue_pop_place(const struct v9_virtqueue *vq)
{
    return vq->setup.packed ? vq->pop_at : (struct v9_place){{vq->last_avail}, false};
}

struct v9_place v9_virtqueue_push_place(const struct v9_virtqueue *vq)
{
    return vq->setup.packed ? vq->push_at : (struct v9_place){{vq->used_idx}, false};
}

/* Whether a chain was popped since the ring began. */
static bool is_of_ring(const struct v9_virtqueue *vq, const struct v9_chain *chain)
{
    return v9_virtqueue_is_live(vq) && chain->generation == vq->generation &&
           chain->slots <= vq->setup.num;
}

/* Whether a place lies in the ring. */
static bool is_place(const struct v9_virtqueue *vq, struct v9_place place)
{
    return !vq->setup.packed || place.index.value < vq->setup.num;
}

void v9_virtqueue_set_pop_place(struct v9_virtqueue *vq, struct v9_place place)
{
    if (!is_place(vq, place))
        return;
    if (vq->setup.packed)
        vq->pop_at = place;
    else
        vq->last_avail = (uint16_t)place.index.value;
}

void v9_virtqueue_recover(struct v9_virtqueue *vq, struct v9_mem *mem)
{
    memset(vq->windows, 0, sizeof(vq->windows)); /* they went with their process */
    vq->unsignalled = 0;
    vq->must_signal = true;
    if (vq->broken)
        vq->broken = "it was broken before its process died";
    if (check_setup(&vq->setup) || !is_place(vq, vq->pop_at) || !is_place(vq, vq->push_at))
        vq->running = false;
    v9_virtqueue_remap(vq, mem);
}

void v9_virtqueue_push_again(struct v9_virtqueue *vq, const struct v9_chain *chain,
                             uint32_t written, struct v9_place place)
{
    if (!is_of_ring(vq, chain) || !is_place(vq, place))
        return;
    if (vq->setup.packed)
        v9_packed_push_again(vq, chain, written, place);
    else
        v9_split_push_again(vq, chain, written, place);
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
    if (!is_of_ring(vq, chain))
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
