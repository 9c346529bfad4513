/*
 * dispatch: which handler answers a request, and what happens with its result.
 */
#define _GNU_SOURCE
#include "p9/dispatch.h"

#include <errno.h>

#include "base/refusal.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/failure.h"
#include "request/reply.h"
#include "request/trace.h"
#include "request/upcall.h"

static v9_handler *const handlers[256] = {
    [P9_TSTATFS] = v9_p9_statfs,       [P9_TLOPEN] = v9_p9_lopen,
    [P9_TREADLINK] = v9_p9_readlink,   [P9_TGETATTR] = v9_p9_getattr,
    [P9_TREADDIR] = v9_p9_readdir,     [P9_TWALK] = v9_p9_walk,
    [P9_TREAD] = v9_p9_read,           [P9_TWRITE] = v9_p9_write,
    [P9_TCLUNK] = v9_p9_clunk,         [P9_TLCREATE] = v9_p9_lcreate,
    [P9_TMKDIR] = v9_p9_mkdir,         [P9_TMKNOD] = v9_p9_mknod,
    [P9_TSYMLINK] = v9_p9_symlink,     [P9_TUNLINKAT] = v9_p9_unlinkat,
    [P9_TLINK] = v9_p9_link,           [P9_TRENAME] = v9_p9_rename,
    [P9_TRENAMEAT] = v9_p9_renameat,   [P9_TSETATTR] = v9_p9_setattr,
    [P9_TXATTRWALK] = v9_p9_xattrwalk, [P9_TXATTRCREATE] = v9_p9_xattrcreate,
    [P9_TFSYNC] = v9_p9_fsync,         [P9_TLOCK] = v9_p9_lock,
    [P9_TGETLOCK] = v9_p9_getlock,
};

/* 9P2000.u has no messages with numbers below Tversion's. */
static v9_handler *const handlers_u[256] = {
    [P9_TWALK] = v9_p9_walk,   [P9_TOPEN] = v9_p9_open,   [P9_TREAD] = v9_p9_read,
    [P9_TWRITE] = v9_p9_write, [P9_TCLUNK] = v9_p9_clunk,
};

/* The kind of question to Python (V9_UP_*) that a handler's result means; 0: none. */
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
        return 0;
    }
}

/* For requests that Python answers: brings their fids up to date first. */
static int pass_to_python(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                          struct v9_scratch *scratch)
{
    const int err = v9_p9_prepare(dev, r);

    (void)in, (void)scratch;
    return err ? err : -V9_NOT_OURS;
}

/* Runs a handler; runs it again after Python has answered its question. */
static int handle(struct v9_device *dev, struct v9_request *r, v9_handler *handler,
                  struct v9_scratch *scratch)
{
    int result;

    do {
        struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
        uint32_t kind;
        result = handler(dev, r, &in, scratch);
        kind = question_kind(result);
        if (!kind)
            return result;
        result = v9_upcall_question(dev, r, kind, &scratch->worker);
    } while (!result);
    return result;
}

/* Runs a request, without the device's lock. Returns the size of the reply, which is written
 * already, or -V9_NOT_OURS, -V9_IS_FLUSH or -V9_NOT_YET. */
int v9_p9_run(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch)
{
    v9_handler *handler = (r->dialect == V9_9P2000U ? handlers_u : handlers)[r->type];
    int result = r->error;

    if (v9_trace_is_on(dev))
        v9_trace_begin(dev, r);
    if (r->done)
        return (int)r->reply_size;
    if (v9_failures_are_reported(dev))
        v9_refusal_begin(&scratch->denied);
    if (!result && r->type == P9_TFLUSH)
        result = r->size == P9_TFLUSH_SIZE ? -V9_IS_FLUSH : -EINVAL;
    else if (!result)
        result = handle(dev, r, handler ? handler : pass_to_python, scratch);
    if (result == -V9_NOT_OURS || result == -V9_IS_FLUSH || result == -V9_NOT_YET)
        return result;
    /* Here, not under the lock: closing a host file may hang. */
    if (v9_created_is_open(&r->created))
        v9_created_close(&r->created);
    v9_evidence_end(&r->evidence);
    if (r->question.fd >= 0)
        v9_budget_close(r->question.fd);
    if (result < 0 || r->type == P9_TWALK)
        v9_failure_report(dev, r, result, &scratch->worker);
    return result < 0 ? v9_request_error(r, -result) : result;
}
