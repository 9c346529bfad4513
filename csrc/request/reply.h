/*
 * reply: what a request is answered with: a reply or an error.
 */
#ifndef V9_REQUEST_REPLY_H
#define V9_REQUEST_REPLY_H

#include "request/state.h"

/* Writes a whole reply, or the dialect's error, into the guest's buffers; returns its size. */
int v9_request_reply(struct v9_request *r, const void *data, uint32_t size);
int v9_request_error(struct v9_request *r, int error);

#endif
