/*
 * reply: writing a reply, or an error in the session's dialect, into the guest's buffers.
 */
#ifndef V9_REQUEST_REPLY_H
#define V9_REQUEST_REPLY_H

#include "request/state.h"

/* Write a whole reply (EMSGSIZE if it does not fit), or an error; return its size. */
int v9_request_reply(struct v9_request *r, const void *data, uint32_t size);
/* Writes the reply before the change of a fid that makes it come true (v9_fids_will_change), so
 * that after a death in between the change is not made twice. If it fails, the handler returns the
 * error instead. */
int v9_request_promise(struct v9_request *r, const void *data, uint32_t size);
void v9_request_promise_error(struct v9_request *r, int error);
int v9_request_error(struct v9_request *r, int error);

#endif
