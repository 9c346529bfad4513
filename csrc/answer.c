/*
 * answer: what a request is answered with: a reply or an error, in C or through Python.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <string.h>

#include "iov.h"

int v9_request_reply(struct v9_request *r, const void *data, uint32_t size)
{
    if (size > r->chain.writable_size)
        return v9_request_error(r, EMSGSIZE);
    v9_iov_scatter(r->chain.iov + r->chain.readable_count, r->chain.writable_count, 0, data, size);
    return (int)size;
}

/*
 * size[4] Rerror tag[2] ename[s] errno[4]: the text of strerror(3), cut to what the guest's buffer
 * holds. A buffer of 11 or 12 bytes, which no client is known to post, gets the Rerror of plain
 * 9P2000, which ends with the text.
 */
static uint32_t put_rerror(const struct v9_request *r, int error, uint8_t reply[P9_RERROR_MAX])
{
    const bool numbered = r->chain.writable_size >= P9_RERROR_SIZE;
    const uint32_t fixed = numbered ? P9_RERROR_SIZE : P9_RERROR_SIZE - 4;
    const char *text = strerrordesc_np(error);
    size_t length = text ? strlen(text) : 0, room = P9_RERROR_MAX;
    uint8_t *at;

    if (room > r->chain.writable_size)
        room = r->chain.writable_size;
    if (length > room - fixed)
        length = room - fixed;
    at = v9_put_header(reply, fixed + (uint32_t)length, P9_RERROR, r->tag);
    at = v9_put(at, length, 2);
    memcpy(at, text ? text : "", length);
    if (numbered)
        v9_put(at + length, (uint32_t)error, 4);
    return fixed + (uint32_t)length;
}

int v9_request_error(struct v9_request *r, int error)
{
    uint8_t reply[P9_RERROR_MAX];
    uint32_t size = P9_RLERROR_SIZE;

    if (r->dialect == V9_9P2000U)
        size = put_rerror(r, error, reply);
    else
        v9_put(v9_put_header(reply, size, P9_RLERROR, r->tag), (uint32_t)error, 4);
    return (int)v9_iov_scatter(r->chain.iov + r->chain.readable_count, r->chain.writable_count, 0,
                               reply, size);
}

/* ---- Python's side -----------------------------------------------------------------------------
 */

static struct v9_request *find_upcall(struct v9_device *dev, uint32_t slot, uint32_t seq)
{
    struct v9_request *r = slot < dev->slots_used ? &dev->slots[slot] : NULL;
    return r && r->seq == seq && r->state == V9_UPCALL ? r : NULL;
}

/* With data, or where that is NULL with an error. */
static int answer(v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data, uint32_t size,
                  int32_t error)
{
    struct v9_request *r;
    int err = -ESTALE, result = 0;

    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (r) {
        err = r->dead ? -ESTALE : 0;
        r->dialect = dev->dialect; /* a Tversion has just changed it */
        if (!r->dead)
            result = data ? v9_request_reply(r, data, size) : v9_request_error(r, error);
        v9_request_finish(dev, r, result);
        v9_device_signal(dev);
    }
    v9_device_unlock(dev);
    return err;
}

int v9_reply(v9_device *dev, uint32_t slot, uint32_t seq, const uint8_t *data, uint32_t size)
{
    return answer(dev, slot, seq, data, size, 0);
}

int v9_fail(v9_device *dev, uint32_t slot, uint32_t seq, int32_t error)
{
    return answer(dev, slot, seq, NULL, 0, error);
}

int v9_resume(v9_device *dev, uint32_t slot, uint32_t seq)
{
    struct v9_request *r;
    int err = -ESTALE;

    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (r && r->dead) {
        v9_request_finish(dev, r, 0);
    } else if (r) {
        r->state = V9_RESUMED;
        r->next = dev->resumed;
        dev->resumed = r;
        v9_threads_nudge(dev);
        err = 0;
    }
    v9_device_unlock(dev);
    return err;
}

int v9_gather(v9_device *dev, uint32_t slot, uint32_t seq, uint32_t offset, uint8_t *out,
              uint32_t size)
{
    struct v9_request *r;
    int got = -ESTALE;

    pthread_mutex_lock(&dev->lock);
    r = find_upcall(dev, slot, seq);
    if (r && !r->dead) {
        uint32_t rest = offset < r->size ? r->size - offset : 0;
        got = (int)v9_iov_gather(r->chain.iov, r->chain.readable_count, offset, out,
                                 size < rest ? size : rest);
    }
    pthread_mutex_unlock(&dev->lock);
    return got;
}
