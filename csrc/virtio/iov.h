/*
 * iov: copying between flat memory and scattered segments (struct iovec arrays).
 *
 * Headers of a message may be split anywhere, so they are gathered, never cast; file data is moved
 * by the kernel (preadv, pwritev) on a slice of the same segments.
 */
#ifndef V9_VIRTIO_IOV_H
#define V9_VIRTIO_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Copies up to len bytes from byte `offset` of the segments; returns how many there were. */
size_t v9_iov_gather(const struct iovec *iov, uint32_t count, size_t offset, void *dst, size_t len);
/* Copies up to len bytes to byte `offset` of the segments; returns how many fitted. */
size_t v9_iov_scatter(const struct iovec *iov, uint32_t count, size_t offset, const void *src,
                      size_t len);
/* The segments of [offset, offset+len), cut short at the end; returns their number (<= count).
 * dst has room for count. */
uint32_t v9_iov_slice(const struct iovec *iov, uint32_t count, size_t offset, size_t len,
                      struct iovec *dst);

#endif
