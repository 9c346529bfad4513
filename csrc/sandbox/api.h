/*
 * api: what Python sees of sandbox/ (vhost9p.h).
 *
 * Belongs in this room: what a process calls to lose rights. Nothing here knows of devices or
 * exports; which rights are needed is decided in Python (vhost9p/confinement.py).
 */
#ifndef V9_SANDBOX_API_H
#define V9_SANDBOX_API_H

#ifndef V9_CDEF
#include <stdint.h>
#endif

/* ---- namespaces.c ---------------------------------------------------------------------------- */

enum { V9_NEW_USER = 1, V9_NEW_PID = 2, V9_NEW_MOUNTS = 4, V9_NEW_NET = 8, V9_NEW_IPC = 16 };
enum { V9_AS_SIBLING = 32 }; /* of v9_namespaces_fork: the child is one of this process's parent */

/*
 * Creates a child as fork(2) does, but in new namespaces (V9_NEW_*). The process has no other
 * thread. `before` runs first, and `in_parent` or `in_child` at the end; nothing runs between them
 * but the system call. Returns the child's pid, or 0 in the child. -EOPNOTSUPP: a kernel without
 * PR_GET_TID_ADDRESS (CONFIG_CHECKPOINT_RESTORE).
 */
int v9_namespaces_fork(uint32_t namespaces, void (*before)(void), void (*in_parent)(void),
                       void (*in_child)(void));
/* Moves this process, which has one thread, to new namespaces; of V9_NEW_PID only its children. */
int v9_namespaces_unshare(uint32_t namespaces);
/* Moves it to those of another process, by a pidfd of it; of none if `namespaces` is 0. */
int v9_namespaces_join(int32_t pidfd, uint32_t namespaces);
/* Moves it to the namespace that a descriptor stands for (namespaces(7), /proc/PID/ns). */
int v9_namespaces_enter(int32_t fd);

/* ---- root_directory.c ------------------------------------------------------------------------ */

struct v9_sandbox_mount {
    const char *source; /* of the host */
    const char *target; /* absolute, in the new root */
    uint32_t readonly;
};
enum { V9_PROC_OWN, V9_PROC_HOST };

/*
 * Makes the mounts the only files of this process, which is in a mount namespace of its own: the
 * root is an empty read-only tmpfs, with a bind mount for each, and /proc. Mounts that the host
 * makes below them later appear if the host's are shared (mount_namespaces(7)). Returns V9_PROC_OWN
 * if /proc is a new one of this pid namespace, V9_PROC_HOST if it is the host's, read-only; on
 * failure -errno, with what failed in `*step`.
 */
int v9_root_pivot(const struct v9_sandbox_mount *mounts, uint32_t count, const char **step);
/*
 * Changes of such a root while it is in use. `v9_root_copy_tree` returns a descriptor of a detached
 * copy of a directory of the host, with the attributes of those above; the others are called in the
 * root's mount namespace, with the rights that made it. They return 0 or -errno.
 */
int v9_root_copy_tree(const char *path, uint32_t readonly);
/* Mounts such a copy at `target` (absolute), where nothing is mounted. */
int v9_root_attach(int32_t tree, const char *target);
/* Takes away what is mounted at a target, if anything is, whoever still uses it. */
int v9_root_detach(const char *target);
/* -EBUSY where a file is open for writing that is not to be writable any more. */
int v9_root_set_readonly(const char *target, uint32_t readonly);
/* Where v9_root_pivot has returned V9_PROC_OWN, in a process that was born into another pid
 * namespace since: a new /proc of that, as a descriptor, which is mounted nowhere yet. */
int v9_root_create_proc(void);
/* It takes the place of /proc, for all processes of this mount namespace. On failure the old one
 * stays, or there is none. */
int v9_root_replace_proc(int32_t proc);
/* chroot(2), which leaves the current directory in /proc (base/proc.h). */
int v9_root_change(const char *path);

/* ---- capabilities.c -------------------------------------------------------------------------- */

/* The effective capabilities, by 1 << number. */
uint64_t v9_caps_effective(void);
/* Gives up all capabilities of this thread but those in `kept`, for good: nothing that it does, and
 * no program that it executes, gains others. Supplementary groups go too, if they may. */
int v9_caps_keep(uint64_t kept);
/* Becomes another user and group, and keeps the capabilities. */
int v9_caps_become(uint32_t uid, uint32_t gid);
/* no_new_privs, and no core dumps: a core would hold the guest's data. */
int v9_caps_forbid_gain(void);

/* ---- landlock.c ------------------------------------------------------------------------------ */

enum {
    V9_LANDLOCK_READ = 0,
    V9_LANDLOCK_CHANGE = 1,
    V9_LANDLOCK_LIST = 2, /* directories only */
};
struct v9_landlock_path {
    const char *path;
    uint32_t access; /* V9_LANDLOCK_* */
};
/*
 * Restricts this thread to the files below these paths, to no network, and to no signals or
 * abstract sockets of other processes, as far as the kernel's Landlock can. With `count` 0 files
 * stay as they are. Returns the kernel's ABI; -ENOSYS or -EOPNOTSUPP: the kernel has none.
 */
int v9_landlock(const struct v9_landlock_path *paths, uint32_t count);

/* ---- system_calls.c -------------------------------------------------------------------------- */

/* Loads libseccomp, before the root directory changes. -ENOENT: it is not installed. */
int v9_syscalls_load(void);
enum { V9_SYSCALLS_KILL, V9_SYSCALLS_LOG };
/* From now on this thread, and those that it starts, make only system calls that serving takes.
 * Others end the process (V9_SYSCALLS_KILL), or go into the kernel's log and are carried out
 * (V9_SYSCALLS_LOG). Loads libseccomp if it is not loaded. */
int v9_syscalls_limit(uint32_t action);
/* Before that: the process may mark directories for groups that it has (fanotify_mark(2)). */
void v9_syscalls_allow_marks(void);

#endif
