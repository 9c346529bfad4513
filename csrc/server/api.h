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
 * `patience_ms` milliseconds later the process ends, with status 0. A thread waits for them: every
 * other thread has to block both signals before. */
int v9_stop_start(int32_t fd, uint32_t patience_ms);
/* The same for a process that starts no threads: handlers take the signals, which are unblocked
 * from now on. */
int v9_stop_handle(int32_t fd, uint32_t patience_ms);
/* In such a process, after the signal: it ends so many milliseconds from now instead. */
void v9_stop_postpone(uint32_t patience_ms);

/* ---- process.c: keepers and workers ---------------------------------------------------------- */

/*
 * Creates a child that shares this process's descriptor table and copies everything else, as
 * fork(2) does. The process has no other thread. `before` runs first, and `in_parent` or `in_child`
 * at the end; nothing runs between them but the system call. Returns the child's pid, 0 in the
 * child, and a pidfd of the child in the shared table. -EOPNOTSUPP: a kernel without
 * PR_GET_TID_ADDRESS (CONFIG_CHECKPOINT_RESTORE).
 */
int v9_process_clone(void (*before)(void), void (*in_parent)(void), void (*in_child)(void),
                     int32_t *pidfd);
/* From now on the kernel kills this process when its parent ends, whose pid is `parent`; changed
 * credentials undo that (prctl(2), PR_SET_PDEATHSIG). -ESRCH: it has ended already. */
int v9_process_end_with(int32_t parent);
/* A process and its descendants may take this one's descriptors, also where Yama's security module
 * would allow it to ancestors only. */
void v9_process_admit(int32_t pid);
/* A copy of a descriptor of the process that a pidfd stands for (pidfd_getfd(2)). */
int v9_process_take(int32_t pidfd, int32_t number);
/* What ps(1) shows: the name of the main thread, at most 15 bytes, and the command line, cut off at
 * the length of the original one. NULL leaves that as it is. */
void v9_process_name(const char *name, const char *title);
/* A signalfd of these signals, which are blocked. */
int v9_process_signals(const int32_t *numbers, uint32_t count);
/* Closes the descriptors from `first` to `last`, if there are any. */
int v9_process_close_range(uint32_t first, uint32_t last);
/* Maps so many bytes of a file, to be shared, at an address that nothing is mapped at; or anywhere
 * if `at` is 0. NULL: there is no room. */
void *v9_process_map(int32_t fd, uint64_t offset, uint64_t size, uint64_t at);
void v9_process_unmap(void *memory, uint64_t size);

/* ---- connection.c: a vhost-user connection that outlives its process ------------------------- */

enum {
    V9_MESSAGE_MAX = 4108, /* bytes: a header and the longest payload that is received */
    V9_MESSAGE_FDS = 8,
    V9_REPLY_MAX = 280,
    V9_CONNECTION_FDS = 10, /* what one may own */
};

enum {
    V9_CONNECTION_NONE,
    V9_CONNECTION_OPEN,
    V9_CONNECTION_ENDING, /* the device is about to lose what the connection has set up */
    V9_CONNECTION_ENDED,
};

/* Read by anybody; changed by the functions below, save where it says otherwise. */
struct v9_connection {
    uint32_t stage; /* V9_CONNECTION_* */
    int32_t fd;     /* -1: closed, or about to be */
    uint64_t steps; /* three for each message: received, handled, answered */
    /* what the session sets */
    uint64_t protocol_features;
    int32_t backend_req_fd; /* -1: none */
    /* of processes that died while they handled the message, or ended the connection */
    uint32_t deaths;
    uint32_t begun; /* a process does */
    /* as they were when the message had been received */
    uint32_t noted_regions;
    uint64_t noted_protocol_features;
    /* the message, as far as it has been received */
    uint32_t received, fd_count, fds_lost;
    int32_t fds[V9_MESSAGE_FDS];
    uint8_t message[V9_MESSAGE_MAX];
    /* its reply, of which so much was sent */
    uint32_t reply_size, sent;
    uint8_t reply[V9_REPLY_MAX];
};

/* The one in memory of v9_connection_size() bytes that others map, too: a new one in zeros. */
struct v9_connection *v9_connection_at(void *memory);
uint32_t v9_connection_size(void);
/* A new one in memory that this process shares with its children. NULL: no memory. */
struct v9_connection *v9_connection_new(void);
void v9_connection_free(struct v9_connection *connection);

/* A frontend has connected: its socket, owned from now on. */
void v9_connection_begin(struct v9_connection *connection, int32_t fd);
/* Receives at most `size` bytes of the message, and the descriptors that come with them, without
 * waiting. The number of bytes, 0 at the end of the stream; errors of recvmsg(2), -EMSGSIZE. */
int v9_connection_receive(struct v9_connection *connection, uint32_t size);
/* The message is whole, and is handled from now on. When that begins once more, after a death, the
 * number of regions of guest memory that was noted the first time stays. */
void v9_connection_received(struct v9_connection *connection, uint32_t regions);
/* The message was handled, and will not be again. Its descriptors are the caller's, who closes
 * them, but for backend_req_fd. -EMSGSIZE: the reply is too long. */
int v9_connection_handled(struct v9_connection *connection, const uint8_t *reply, uint32_t size);
/* Sends the reply without waiting. 0 when all of it has been sent: the next message may come. Else
 * the number of bytes that are left, or -errno of sendmsg(2). */
int v9_connection_send(struct v9_connection *connection);
/* The connection is ending, from here to v9_connection_ended. Once more after a death. */
void v9_connection_end(struct v9_connection *connection);
void v9_connection_ended(struct v9_connection *connection);
/* While it ends: what it owned of a kind becomes the caller's, who closes it. The socket, or -1;
 * the message's descriptors, how many. */
int32_t v9_connection_take_fd(struct v9_connection *connection);
uint32_t v9_connection_take_fds(struct v9_connection *connection, int32_t fds[V9_MESSAGE_FDS]);

/* After a death, before all else, once: whether a message was being handled, or the connection
 * ended. If `blame` is set, that is one of its deaths. */
int v9_connection_blame(struct v9_connection *connection, uint32_t blame);
/* After the death of the process that used it, before another one does: enters what the kernel has
 * done and the process has not entered. 0 if the state makes no sense: the connection is ending. */
int v9_connection_recover(struct v9_connection *connection);
/* Before that, if all descriptors were lost with the process: the socket and backend_req_fd, which
 * had the numbers `known`, have the numbers `instead` now. Those of a message are not to be had any
 * more. Done again, it changes nothing. -ESTALE: the connection has others. */
int v9_connection_lose_descriptors(struct v9_connection *connection, const int32_t known[2],
                                   const int32_t instead[2]);
/* The descriptors that it owns; how many. */
uint32_t v9_connection_list(const struct v9_connection *connection, int32_t fds[V9_CONNECTION_FDS]);
/* There is no connection, and never was: what it owned is closed by others. */
void v9_connection_forget(struct v9_connection *connection);

/* ---- device.c, ring_setup.c: one vhost-user device with its ring, memory and fids ------------ */

/* The device of so many fids in memory of v9_device_size(max_fids) bytes, which others map, too, at
 * the same address: a new one in zeros. */
v9_device *v9_device_at(void *memory, uint32_t max_fids);
uint64_t v9_device_size(uint32_t max_fids);
/* A new one in memory that processes share that are cloned from now on; NULL: there is no room. */
v9_device *v9_device_reserve(uint32_t max_fids);
/* Begins to serve it, or goes on if it was recovered; conf->max_fids is the same. 0 or -errno: then
 * no thread serves it, and all it holds is left for another process. */
int v9_device_start(v9_device *dev, const struct v9_device_conf *conf);
/* The memory that a device of these takes at most, in bytes, whatever its guest does. */
struct v9_device_memory {
    uint64_t files;    /* fids, inodes, names, recipes */
    uint64_t values;   /* of extended attributes */
    uint64_t requests; /* in flight, `slots` at most */
    uint64_t thread;   /* of a serving thread, of which there are `threads` at most */
    uint32_t slots, threads;
};
void v9_device_memory(uint32_t max_fids, uint32_t msize_max, struct v9_device_memory *out);
/* Its account of descriptors. */
uint32_t v9_device_account(const v9_device *dev);
/* Stops the threads, closes every descriptor, and frees the device: 1. The exports stay. 0 if
 * threads hang in system calls and will use the device again: it then stays until the process
 * ends. */
int v9_device_free(v9_device *dev);
/* Adds an export. Index 0 is the one that Tattach without a name attaches. Setting it makes the
 * device serve, so it is set last. -ENOSPC at V9_EXPORTS_MAX. */
int v9_device_set_export(v9_device *dev, uint32_t index, v9_export *ex);
/* Marks the directories that the guest's fids stand for (export/dir_marks.c), unless they are
 * marked already. */
void v9_device_mark_dirs(v9_device *dev);
/* Returns to the state after v9_device_new: the ring is stopped, fids are removed, and so is memory
 * unless `memory_stays`. */
void v9_device_reset(v9_device *dev, uint32_t memory_stays);
/* -EBUSY while the ring runs. */
int v9_device_set_features(v9_device *dev, uint64_t features);
void v9_device_set_msize(v9_device *dev, uint32_t msize);
/* The session's dialect: which requests C knows, and what an error looks like. */
void v9_device_set_dialect(v9_device *dev, uint32_t dialect);
/* What the guest's session and the frontend have agreed upon. */
struct v9_device_session {
    uint32_t msize, dialect, ring_size;
};
void v9_device_session(v9_device *dev, struct v9_device_session *out);
/* Live counts, which tests for leaks read. */
struct v9_device_stats {
    uint64_t fids, inflight, requests, upcalls, signals;
    uint64_t inodes, evicted; /* files in the table; those without descriptors (fid/evict.h) */
    uint32_t threads, broken;
};
void v9_device_stats(v9_device *dev, struct v9_device_stats *out);

/*
 * What another process sees of a device, which reads the memory without the lock: from a copy of
 * its first v9_device_view_size() bytes. A process that an attacker controls may have written it,
 * so any number may be wrong. The counts of an export are v9_device_counts_at(index) bytes behind
 * the beginning.
 */
struct v9_device_view {
    uint64_t requests, answered, upcalls, signals;
    uint64_t values_bytes, guest_memory;
    uint32_t fids, inodes, evicted, values; /* as of v9_device_stats; values of xattrs */
    uint32_t inflight, rate_limited, dead;  /* requests */
    uint32_t threads, regions;
    uint32_t msize, dialect, started, broken, ring_size;
};
uint32_t v9_device_view_size(void);
void v9_device_view(const void *copy, struct v9_device_view *out);
uint64_t v9_device_counts_at(uint32_t index);

/* Memory table; descriptors are duplicated. -EINVAL, -EEXIST (overlap), -ENOSPC (mem_regions),
 * -ENOMEM (mem_bytes). */
int v9_device_mem_add(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd);
int v9_device_mem_remove(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva);
/* The number of regions. */
uint32_t v9_device_mem_count(v9_device *dev);
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

/* How many requests were answered, by all processes. Needs no lock. */
uint64_t v9_device_answered(const v9_device *dev);

/* ---- recover.c: a device whose process died -------------------------------------------------- */

/* Makes it good again, before it is started: 1. 0 if no process has served it yet; -errno. */
int v9_device_recover(v9_device *dev, uint32_t max_fids);
/* Before that: how many requests ran when the process died, and whether one was on trial. */
uint32_t v9_device_running(v9_device *dev, uint32_t max_fids);
uint32_t v9_device_is_trying(const v9_device *dev);
/* Then, also if nobody is to blame (V9_BLAME_*, request/suspects.h). */
void v9_device_blame(v9_device *dev, uint32_t max_fids, uint32_t blame);
/* Of a device that awaits its start, with all of its exports: runs suspects one at a time, which
 * takes a few seconds at most. All devices of the process await their start. */
void v9_device_try_suspects(v9_device *dev);
/* It serves from now on. */
void v9_device_begin(v9_device *dev);
/* Instead of going on with all: the fids are lost, and requests in flight are answered with EIO.
 * The device is recovered next. 0 or -errno. */
int v9_device_lose_fids(v9_device *dev, uint32_t max_fids);
/* The device is as one that nobody has served. */
void v9_device_lose_all(v9_device *dev, uint32_t max_fids);
/* Lists the descriptors that the frontend has set up: for kicks, for notifications (call, err), and
 * of each region of memory; -1: none. How many, of which at most `room` are stored. */
uint32_t v9_device_session_descriptors(v9_device *dev, int32_t *fds, uint32_t room);
/*
 * After a death with which all descriptors were lost, before all else: the `count` ones of the
 * session, which had the numbers `known`, have the numbers `instead` now, and no other number means
 * anything. Done again, it changes nothing. -ESTALE: the session has other descriptors.
 */
int v9_device_lose_descriptors(v9_device *dev, uint32_t max_fids, const int32_t *known,
                               const int32_t *instead, uint32_t count);
/*
 * Of a device that was recovered, before it is started, if the operator may have taken exports
 * away: the device has those with these indexes, and the first one. Fids of all others lose their
 * files and names (fid/lost.h), and the descriptors are nobody's. Their indexes may be used again.
 * Done again, it changes nothing. 1 if anything was lost, else 0.
 */
int v9_device_keep_exports(v9_device *dev, uint32_t max_fids, const uint32_t *indexes,
                           uint32_t count);
/* Before that: the files of an export that `paths` hide are of none, so their fids lose them, too.
 * `root` is the export's directory as this process has it. */
void v9_device_hide(v9_device *dev, uint32_t max_fids, uint32_t index, const char *root,
                    const v9_hidden_paths *paths);
/* Of a device that was recovered after that: how many fids stand for files that cannot be reopened.
 */
uint32_t v9_device_lost_fids(v9_device *dev);
/* Lists the descriptors that it has then: how many, of which at most `room` are stored. All others
 * were about to be used or closed by the process that died. */
uint32_t v9_device_descriptors(const v9_device *dev, int32_t *fds, uint32_t room);
/* Before those are closed: its requests get back what they have created and opened, unless it is
 * among what others own, any device or the keeper. How many more descriptors it has then. */
uint32_t v9_device_adopt_orphans(v9_device *dev, const int32_t *owned, uint32_t count);

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
/* What is known of a fid at once, without its file being reopened or a server asked. */
struct v9_fid_view {
    uint32_t uid, export, flags;
    uint32_t
        path_size; /* of the name by which the guest has reached it, below the export's root: */
    uint8_t path_known; /* 0: there is none any more */
    uint8_t path_cut;   /* `path` is the end of it */
    char path[V9_FID_PATH];
    struct v9_file_facts facts;
};
int v9_fid_look(v9_device *dev, uint32_t fid, struct v9_fid_view *out); /* -EBADF */
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
/* Adds flags, V9_FID_LOCKS or V9_FID_STREAM: from now on, only Python clunks the fid. Python stores
 * its state for the fid, by the handle, before this call. -EBADF: the fid has lost its number, or
 * is not open. */
int v9_fid_mark(v9_device *dev, uint64_t handle, uint32_t flags);
/* Of a pinned fid of the stream, which is open; -EBADF for any other. */
int v9_fid_get_stream(v9_device *dev, uint64_t handle, struct v9_stream *out);
void v9_fid_set_stream(v9_device *dev, uint64_t handle, const struct v9_stream *to);
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
