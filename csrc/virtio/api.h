/*
 * api: what Python sees of virtio/ (vhost9p.h).
 */
#ifndef V9_VIRTIO_API_H
#define V9_VIRTIO_API_H

#ifndef V9_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

/* The size of the process's address space, in bytes. */
uint64_t v9_address_space(void);

enum { V9_MEM_REGIONS = 509 }; /* what GET_MAX_MEM_SLOTS answers, at most */

#endif
