#define _GNU_SOURCE
#include "request/reply.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
#include "virtio/iov.h"

int v9_request_reply(struct v9_request *r, const void *data, uint32_t size)
{
    if (size > r->chain.writable_size)
        return v9_request_error(r, EMSGSIZE);
    r->failed = 0;
    v9_iov_scatter(r->chain.iov + r->chain.readable_count, r->chain.writable_count, 0, data, size);
    return (int)size;
}

static int promise(struct v9_request *r, int written)
{
    r->changes = 0;
    V9_COMMIT();
    r->reply_size = (uint32_t)written;
    V9_COMMIT();
    return written;
}

int v9_request_promise(struct v9_request *r, const void *data, uint32_t size)
{
    return promise(r, v9_request_reply(r, data, size));
}

void v9_request_promise_error(struct v9_request *r, int error)
{
    promise(r, v9_request_error(r, error));
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

    r->failed = (uint8_t)error;
    if (r->dialect == V9_9P2000U)
        size = put_rerror(r, error, reply);
    else
        v9_put(v9_put_header(reply, size, P9_RLERROR, r->tag), (uint32_t)error, 4);
    return (int)v9_iov_scatter(r->chain.iov + r->chain.readable_count, r->chain.writable_count, 0,
                               reply, size);
}
