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

enum { STOPS_MAX = 4000, AREAS_MAX = 4 };

struct stops {
    uint32_t count;
    bool is_new[STOPS_MAX];
};

/* Memory that outlives a process: a file without a name, and those parts of it that count. */
static struct {
    int fd;
    const uint8_t *map;
} kept;
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

/* Each word by itself, so that the processor takes several at a time. */
static inline uint64_t hash_words(const uint8_t *at, const uint8_t *end)
{
    uint64_t sum = 0;

    for (; at + sizeof(uint64_t) <= end; at += sizeof(uint64_t)) {
        const uint64_t word = (*(const uint64_t *)at + (uintptr_t)at) * 0x9E3779B97F4A7C15ull;
        sum += word ^ word >> 32;
    }
    return sum;
}

/* Hashes the parts of the areas that were ever used. Most were not, and the file knows where they
 * are (lseek(2)). */
static inline uint64_t hash_areas(void)
{
    uint64_t sum = 1;

    for (int i = 0; i < AREAS_MAX && areas[i].at; i++) {
        const off_t end = (const uint8_t *)areas[i].end - kept.map;
        off_t at = (const uint8_t *)areas[i].at - kept.map;
        while ((at = lseek(kept.fd, at, SEEK_DATA)) >= 0 && at < end) {
            const off_t hole = lseek(kept.fd, at, SEEK_HOLE), to = hole < end ? hole : end;
            sum += hash_words(kept.map + at, kept.map + to);
            at = hole;
        }
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
    const uint64_t now = hash_areas();

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
