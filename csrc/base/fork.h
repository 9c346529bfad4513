/*
 * fork: children that share with their parent what fork(2) copies, or that are in namespaces of
 * their own.
 */
#ifndef V9_BASE_FORK_H
#define V9_BASE_FORK_H

#include <stdint.h>

/*
 * Creates a child as fork(2) does, with these flags of clone(2), too, and its pidfd in *pidfd, if
 * CLONE_PIDFD is one. The process has no other thread. `before` runs first, and `in_parent` or
 * `in_child` at the end; nothing runs between them but the system call. Returns the child's pid, 0
 * in the child. -EOPNOTSUPP: a kernel without PR_GET_TID_ADDRESS (CONFIG_CHECKPOINT_RESTORE).
 */
int v9_fork(unsigned long flags, int32_t *pidfd, void (*before)(void), void (*in_parent)(void),
            void (*in_child)(void));

#endif
