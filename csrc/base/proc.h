/*
 * proc: where /proc is, and what this process uses below it (proc(5)).
 *
 * A root directory that was changed may have no /proc; then it is the current directory
 * (sandbox/root_directory.c). A process that serves goes on to the directory of its descriptors
 * (v9_proc_go_to_fds, base/api.h): a path to one has a single name there, which the kernel follows
 * sooner than four.
 */
#ifndef V9_BASE_PROC_H
#define V9_BASE_PROC_H

#include "base/api.h"

enum {
    V9_PROC_NUMBER = 12, /* of a descriptor, and NUL */
    V9_PROC_PATH = 40,
};

/* From now on /proc is the current directory. */
void v9_proc_is_here(void);
/* A path that leads to the file of a descriptor, O_PATH or not, for calls that take no such
 * descriptor. */
void v9_proc_path(int fd, char path[V9_PROC_PATH]);
/* The last name of such a path. */
void v9_proc_number(int fd, char number[V9_PROC_NUMBER]);
/* The directory of all such paths. */
void v9_proc_fds(char path[V9_PROC_PATH]);
/* The file that shows the system call in which a thread is. */
void v9_proc_system_call(int tid, char path[V9_PROC_PATH]);

#endif
