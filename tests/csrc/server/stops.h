/*
 * Stops of a process that is watched by ptrace(2): at each system call of its threads, before and
 * after it. V9_COMMIT is a system call in the build for these tests.
 *
 * A stop is *new* if anything that outlives the process has changed since the one before: memory
 * that it shares, or what a system call changes in the kernel. To kill it at another stop leads to
 * what was seen before. Waits for locks are not counted.
 */
#ifndef SERVER_STOPS_H
#define SERVER_STOPS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/ptrace.h>

enum { STOPS_MAX = 4000, PAGE = 4096, AREAS_MAX = 4 };

struct stops {
    uint32_t count;
    bool is_new[STOPS_MAX];
};

/* Memory that outlives a process. */
static struct area {
    const void *at, *end;
} areas[AREAS_MAX];

static struct {
    uint64_t seen; /* a hash of the areas at the last stop */
    bool changes;  /* a system call has changed something since */
} lasting;

/* Those calls that change nothing which outlives their process. */
static inline bool is_fleeting(long call)
{
    static const short calls[] = {
        SYS_getppid,   SYS_fstat,           SYS_newfstatat,   SYS_statx,          SYS_statfs,
        SYS_fstatfs,   SYS_readlinkat,      SYS_readlink,     SYS_pread64,        SYS_fgetxattr,
        SYS_getxattr,  SYS_lgetxattr,       SYS_flistxattr,   SYS_listxattr,      SYS_llistxattr,
        SYS_mmap,      SYS_munmap,          SYS_mprotect,     SYS_madvise,        SYS_brk,
        SYS_prctl,     SYS_capget,          SYS_capset,       SYS_setfsuid,       SYS_setfsgid,
        SYS_getpid,    SYS_gettid,          SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_epoll_wait,
        SYS_getrandom, SYS_sched_yield,     SYS_clone3,       SYS_futex,          SYS_clock_gettime,
        SYS_rseq,      SYS_set_robust_list,
    };

    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
        if (calls[i] == call)
            return true;
    return false;
}

static inline uint64_t hash_words(uint64_t hash, uintptr_t at, uintptr_t end)
{
    for (; at + sizeof(uint64_t) <= end; at += sizeof(uint64_t))
        hash = (hash ^ *(const uint64_t *)at) * 0x9E3779B97F4A7C15ull; /* NOLINT */
    return hash ^ hash >> 32;
}

/* Calls a function for each part of the areas that was ever used; sums up. */
static inline uint64_t each_part(uint64_t (*visit)(uint64_t sum, uintptr_t at, uintptr_t end),
                                 uint64_t sum)
{
    static uint8_t used[1 << 17];

    for (int i = 0; i < AREAS_MAX && areas[i].at; i++) {
        const uintptr_t at = (uintptr_t)areas[i].at, end = (uintptr_t)areas[i].end;
        const uintptr_t first = at / PAGE * PAGE;
        if (mincore((void *)first, end - first, used) < 0)
            continue;
        for (uintptr_t page = first; page < end; page += PAGE)
            if (used[(page - first) / PAGE] & 1)
                sum = visit(sum, page < at ? at : page, page + PAGE < end ? page + PAGE : end);
    }
    return sum;
}

/* ---- watching -------------------------------------------------------------------------------- */

static inline struct ptrace_syscall_info info_of(pid_t tid)
{
    struct ptrace_syscall_info info = {0};

    ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info);
    return info;
}

/* Begins to watch a thread, and those that it starts. It stops. */
static inline void watch(pid_t tid)
{
    ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE);
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    waitpid(tid, NULL, __WALL);
    lasting.seen = 0;
    lasting.changes = false;
}

static inline void go_on(pid_t tid, int signal)
{
    ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(intptr_t)signal);
}

/* Takes notes of a stop. */
static inline void note_stop(struct stops *stops, const struct ptrace_syscall_info *info, long call)
{
    const bool ended = info->op == PTRACE_SYSCALL_INFO_EXIT && !info->exit.is_error;
    const uint64_t now = each_part(hash_words, 1);

    lasting.changes |= ended && !is_fleeting(call);
    if (stops->count < STOPS_MAX)
        stops->is_new[stops->count++] = lasting.changes || now != lasting.seen;
    lasting.seen = now;
    lasting.changes = false;
}

/* Whether a thread begins to wait for work: for requests, or on a condition variable. */
static inline bool is_idle(const struct ptrace_syscall_info *info)
{
    return info->op == PTRACE_SYSCALL_INFO_ENTRY &&
           (info->entry.nr == SYS_epoll_wait ||
            (info->entry.nr == SYS_futex &&
             (info->entry.args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET));
}

/* Has the process go on until the next stop of any of its threads that counts; returns the thread.
 * 0: the process has ended. */
static inline pid_t next_stop(pid_t process, struct ptrace_syscall_info *info, long *call)
{
    static long calls[64]; /* of threads, by their numbers */
    int status;
    pid_t tid;

    while ((tid = waitpid(-1, &status, __WALL)) > 0) {
        const bool at_call = WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80);
        if (!WIFSTOPPED(status) && tid == process)
            return 0;
        if (at_call) {
            *info = info_of(tid);
            if (info->op == PTRACE_SYSCALL_INFO_ENTRY)
                calls[tid % 64] = (long)info->entry.nr;
            *call = calls[tid % 64];
        }
        if (at_call && *call != SYS_rt_sigreturn && (*call != SYS_futex || is_idle(info)))
            return tid;
        if (WIFSTOPPED(status))
            go_on(tid, at_call || status >> 16 ? 0 : WSTOPSIG(status));
    }
    return 0;
}

#endif
