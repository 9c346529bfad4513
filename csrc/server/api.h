/*
 * api: what Python sees of server/ (vhost9p.h).
 */
#ifndef V9_SERVER_API_H
#define V9_SERVER_API_H

#include "fid/api.h"
#include "fs/api.h"
#include "request/api.h"

/* Process-wide set-up: the SIGBUS handler for guest memory that the frontend truncates. */
int v9_init(void);

/* ---- stop.c: SIGTERM and SIGINT -------------------------------------------------------------- */

/* From now on, the first of these signals is written to the eventfd `fd` by its number, and
 * `patience_ms` milliseconds later the process ends, with status 0. Every thread has to block both
 * signals before. */
int v9_stop_start(int32_t fd, uint32_t patience_ms);

/* ---- device.c, ring_setup.c: one vhost-user device with its ring, memory and fids ------------ */

v9_device *v9_device_new(const struct v9_device_conf *conf, int32_t *err);
/* Its account of descriptors. */
uint32_t v9_device_account(const v9_device *dev);
/* Stops the threads, closes every descriptor, and frees the device: 1. The exports stay. 0 if
 * threads hang in system calls and will use the device again: it then stays until the process
 * ends. */
int v9_device_free(v9_device *dev);
/* Adds an export. Index 0 is the one that Tattach without a name attaches. Setting it makes the
 * device serve, so it is set last. -ENOSPC at V9_EXPORTS_MAX. */
int v9_device_set_export(v9_device *dev, uint32_t index, v9_export *ex);
/* Returns to the state after v9_device_new: the ring is stopped, fids are removed, and so is memory
 * unless `memory_stays`. */
void v9_device_reset(v9_device *dev, uint32_t memory_stays);
/* -EBUSY while the ring runs. */
int v9_device_set_features(v9_device *dev, uint64_t features);
void v9_device_set_msize(v9_device *dev, uint32_t msize);
/* The session's dialect: which requests C knows, and what an error looks like. */
void v9_device_set_dialect(v9_device *dev, uint32_t dialect);
/* Live counts, which tests for leaks read. */
struct v9_device_stats {
    uint64_t fids, inflight, requests, upcalls, signals;
    uint64_t inodes, evicted; /* files in the table; those without descriptors (fid/evict.h) */
    uint32_t threads, broken;
};
void v9_device_stats(v9_device *dev, struct v9_device_stats *out);

/* Memory table; descriptors are duplicated. -EINVAL, -EEXIST (overlap), -ENOSPC (mem_regions),
 * -ENOMEM (mem_bytes). */
int v9_device_mem_add(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd);
int v9_device_mem_remove(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva);
/* Replaces all regions; on failure, none is left. */
struct v9_region_conf {
    uint64_t gpa, size, uva, mmap_offset;
    int32_t fd;
};
int v9_device_mem_set(v9_device *dev, const struct v9_region_conf *regions, uint32_t count);

/* Set-up of a stopped ring; -EBUSY while it runs. -EINVAL for a value that is invalid by itself. */
int v9_ring_set_num(v9_device *dev, uint32_t num);
int v9_ring_set_base(v9_device *dev, uint32_t base);
int v9_ring_set_addr(v9_device *dev, uint64_t desc, uint64_t used, uint64_t avail);
/*
 * Starts the ring, or replaces the kick descriptor of a running one. Descriptors are duplicated; -1
 * means "none: poll" (kick) or "do not signal" (call). -EINVAL with a *reason if the set-up makes
 * no valid ring; it then stays stopped.
 */
int v9_ring_set_kick(v9_device *dev, int32_t fd, const char **reason);
/* Whether the ring was started and not stopped since. */
uint32_t v9_ring_is_started(v9_device *dev);
int v9_ring_set_call(v9_device *dev, int32_t fd);
int v9_ring_set_err(v9_device *dev, int32_t fd);
int v9_ring_enable(v9_device *dev, uint32_t enable);
/* Stops taking requests (they stay in the ring). Returns at once. */
void v9_ring_pause(v9_device *dev);
/* After v9_ring_pause: waits up to timeout_ms for the requests in flight, answers EIO to those that
 * are left, and cuts them off from guest memory. Returns the base for GET_VRING_BASE. */
uint32_t v9_ring_drain(v9_device *dev, uint32_t timeout_ms);

/* ---- fids.c: a device's fids ----------------------------------------------------------------- */
struct v9_fid_info {
    uint64_t handle;  /* identifies this fid, and no other that ever has its number (fid/fid.h) */
    int32_t path_fd;  /* O_PATH */
    int32_t meta_fd;  /* metadata file (mapped/mapped.c), -1: none */
    int32_t io_fd;    /* -1 unless opened */
    int32_t io_flags; /* open(2) flags of io_fd */
    uint32_t uid;     /* n_uname of the Tattach from which it descends */
    uint32_t flags;   /* V9_FID_* */
    uint32_t export;  /* index of the export that the file belongs to */
    uint64_t st_dev, st_ino;
};

/* Pins the entry: its descriptors stay open until v9_fid_put, whatever the guest does. -EBADF. */
int v9_fid_get(v9_device *dev, uint32_t fid, struct v9_fid_info *out);
void v9_fid_put(v9_device *dev, uint64_t handle);
/* The present handle of a number, even if its file cannot be reopened. -EBADF. */
int v9_fid_find(v9_device *dev, uint32_t fid, uint64_t *handle);
/* Enters a fid, and returns its handle in *handle. On success it owns path_fd. -EBADF if the
 * number is in use (the kernel's client never does this) or the session is over; -EMFILE at the
 * cap. */
int v9_fid_add(v9_device *dev, uint32_t fid, int32_t path_fd, uint32_t export, uint32_t uid,
               const struct v9_attr *attr, uint64_t *handle);
/* Tcreate: the fid of a directory now stands for the file created in it as `name`. On success it
 * owns the descriptors. */
struct v9_created;
int v9_fid_become(v9_device *dev, uint64_t handle, const char *name, const struct v9_created *made,
                  const struct v9_attr *attr);
/* Adds flags, V9_FID_LOCKS: from now on, only Python clunks the fid. Python stores its state for
 * the fid, by the handle, before this call. -EBADF: the fid has lost its number, or is not open. */
int v9_fid_mark(v9_device *dev, uint64_t handle, uint32_t flags);
/* v9_lock_open for the file of a pinned fid, which is open: a descriptor, or -errno. */
int v9_fid_open_for_locks(v9_device *dev, uint64_t handle, int32_t *access);
/* Changes attributes of a pinned fid's file, for the guest: errors as of v9_setattr; -EROFS. */
int v9_fid_setattr(v9_device *dev, uint64_t handle, const struct v9_setattr *to);
/* Changes names of a pinned fid's file, for the guest; `name` is one component that the caller has
 * checked. Errors as of p9/names.h. One more name, in the directory of another pinned fid: */
int v9_fid_link(v9_device *dev, uint64_t handle, uint64_t directory, const char *name);
/* The name by which the guest reached it becomes another one of the same directory, or is gone: */
int v9_fid_rename(v9_device *dev, uint64_t handle, const char *name);
int v9_fid_unlink(v9_device *dev, uint64_t handle);
/* Makes the file of a pinned fid durable, whether it is open or not. */
int v9_fid_sync(v9_device *dev, uint64_t handle);
/* Removes a fid's number; its descriptors are closed with its last pin. -EBADF: it had no number
 * any more. */
int v9_fid_clunk(v9_device *dev, uint64_t handle);
/* Begins a session, and removes all fids. -ESTALE if another session has begun meanwhile. */
int v9_fid_clear(v9_device *dev);

#endif
