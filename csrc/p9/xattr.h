/*
 * xattr: what Tread, Twrite and Tclunk do with the fid of an extended attribute.
 */
#ifndef V9_P9_XATTR_H
#define V9_P9_XATTR_H

#include "request/state.h"

/* Whether a pinned fid has the value of an extended attribute. */
static inline bool v9_p9_is_xattr(const struct v9_fid *fid)
{
    return v9_fid_flags(fid) & V9_FID_XATTR;
}
/* Reads a piece of a pinned fid's value into a request's reply: the number of bytes. -EBADF for a
 * value that is being written. */
int v9_p9_xattr_read(const struct v9_request *r, const struct v9_fid *fid, uint64_t offset,
                     uint32_t count);
/* Writes a request's data, which is of that many bytes, as the next piece of a pinned fid's value:
 * the number of bytes. Errors are those of v9_xattr_value_append. */
int v9_p9_xattr_write(const struct v9_request *r, const struct v9_fid *fid, uint64_t offset,
                      uint32_t count, struct v9_scratch *scratch);
/* Sets the value of a fid whose value is to be set, and ends the fid, even if that fails; the error
 * is promised then (request/reply.h). -EINVAL if not all of it was written; -V9_NOT_OURS for a fid
 * without a value, which does not end. */
int v9_p9_xattr_clunk(struct v9_device *dev, struct v9_request *r, uint32_t number);

#endif
