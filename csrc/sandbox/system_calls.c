/*
 * system_calls: which system calls a worker makes (seccomp(2)).
 *
 * The list says what serving takes: of C's own, of the C library's, Python's and the event loop's.
 * What is not in it ends the process, since only somebody who has taken it over can ask for that.
 * A few calls have a gentler answer, since libraries try whether the kernel has them.
 *
 * libseccomp writes the filter. It is loaded when it is needed, by the name that its interface has
 * kept since version 2.0, so that neither building nor starting depends on it. Its constants for
 * actions are the kernel's.
 */
#define _GNU_SOURCE
#include <asm/ioctls.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/api.h"

/* ---- libseccomp ------------------------------------------------------------------------------ */

enum { EQUAL = 4, MASKED_EQUAL = 7 }; /* enum scmp_compare */

/* struct scmp_arg_cmp: what argument number `arg` must be. */
struct comparison {
    unsigned arg;
    int op;
    uint64_t a, b;
};

static struct {
    void *(*init)(uint32_t default_action);
    int (*rule_add_array)(void *filter, uint32_t action, int number, unsigned count,
                          const struct comparison *comparisons);
    int (*load)(const void *filter);
    void (*release)(void *filter);
} lib;

int v9_syscalls_load(void)
{
    void *handle = lib.load ? NULL : dlopen("libseccomp.so.2", RTLD_NOW | RTLD_LOCAL);

    if (handle) {
        *(void **)&lib.init = dlsym(handle, "seccomp_init");
        *(void **)&lib.rule_add_array = dlsym(handle, "seccomp_rule_add_array");
        *(void **)&lib.release = dlsym(handle, "seccomp_release");
        *(void **)&lib.load = dlsym(handle, "seccomp_load");
    }
    return lib.init && lib.rule_add_array && lib.release && lib.load ? 0 : -ENOENT;
}

/* ---- what is allowed ------------------------------------------------------------------------- */

/* Newer than the headers of some hosts that are served. */
enum {
    CACHESTAT = 451,
    FCHMODAT2 = 452,
    FUTEX_WAKE_NEW = 454, /* and futex_wait, futex_requeue */
    SETXATTRAT = 463,     /* and getxattrat, listxattrat, removexattrat */
    NEWEST = 470,
    NEWER = 64, /* numbers beyond, which libraries may try one day */
};

/* By subject. */
/* clang-format off */
static const int allowed[] = {
    /* files by descriptor */
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv,
    SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_close, SYS_lseek, SYS_fstat, SYS_fstatfs,
    SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_syncfs,
    SYS_getdents64, SYS_flock, SYS_fcntl, SYS_dup, SYS_dup3, SYS_fchmod, SYS_fchown, SYS_fgetxattr,
    SYS_fsetxattr, SYS_flistxattr, SYS_fremovexattr, SYS_copy_file_range, SYS_fadvise64,
    /* files by name */
    SYS_openat, SYS_openat2, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_readlinkat,
    SYS_faccessat, SYS_faccessat2, SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat,
    SYS_unlinkat, SYS_renameat2, SYS_fchmodat, SYS_fchownat, SYS_utimensat, SYS_truncate,
    SYS_getxattr, SYS_lgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_listxattr, SYS_llistxattr,
    SYS_removexattr, SYS_lremovexattr, SYS_name_to_handle_at, SYS_open_by_handle_at, FCHMODAT2,
    SETXATTRAT, SETXATTRAT + 1, SETXATTRAT + 2, SETXATTRAT + 3,
    /* events, and the connection to the frontend */
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_ppoll,
    SYS_pselect6, SYS_eventfd2, SYS_pipe2, SYS_timerfd_create, SYS_timerfd_settime, SYS_accept,
    SYS_accept4, SYS_recvmsg, SYS_recvmmsg, SYS_recvfrom, SYS_sendmsg, SYS_sendmmsg, SYS_sendto,
    SYS_shutdown, SYS_getsockopt, SYS_setsockopt, SYS_getsockname, SYS_getpeername,
    /* memory */
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_memfd_create, SYS_mlock, SYS_munlock,
    SYS_msync, SYS_mincore,
    /* threads, time and signals of this process */
    SYS_exit, SYS_exit_group, SYS_futex, FUTEX_WAKE_NEW, FUTEX_WAKE_NEW + 1, FUTEX_WAKE_NEW + 2,
    SYS_set_robust_list, SYS_rseq, SYS_gettid, SYS_getpid, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_getscheduler,
    SYS_membarrier, SYS_getcpu, SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep,
    SYS_nanosleep, SYS_gettimeofday, SYS_times, SYS_getrusage, SYS_setitimer, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_signalfd4, SYS_restart_syscall,
    /* who this is, and whom files are created for */
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid,
    SYS_getresgid, SYS_getppid, SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset, SYS_umask,
    SYS_uname, SYS_sysinfo, SYS_getrandom, SYS_getcwd,
#ifdef SYS_open /* architectures that have the older forms too */
    SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_unlink, SYS_rmdir,
    SYS_dup2, SYS_epoll_wait, SYS_poll, SYS_select, SYS_time,
#endif
#ifdef SYS_rename
    SYS_rename, SYS_renameat,
#endif
};
/* clang-format on */

static bool marks_allowed;

/* Answered with an errno. */
static const struct {
    int number, error;
} refused[] = {
    {SYS_clone3, ENOSYS}, /* its flags are in memory: the C library then calls clone */
    {SYS_io_uring_setup, ENOSYS},
    {SYS_setgroups, EPERM},
    {CACHESTAT, ENOSYS},
};

enum {
    NEW = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
          CLONE_NEWCGROUP,
};

struct filter {
    void *of_library;
    int err; /* the first */
};

static void add(struct filter *filter, uint32_t action, int number, unsigned count,
                const struct comparison *comparisons)
{
    if (!filter->err)
        filter->err = lib.rule_add_array(filter->of_library, action, number, count, comparisons);
}

static void allow_if(struct filter *filter, int number, unsigned arg, uint64_t mask, uint64_t value)
{
    const struct comparison only = {arg, MASKED_EQUAL, mask, value};

    add(filter, SECCOMP_RET_ALLOW, number, 1, &only);
}

/* Pairs of streams, for event loops. A datagram socket of a pair could send to any other. */
static void allow_pairs(struct filter *filter)
{
    const struct comparison only[] = {
        {0, MASKED_EQUAL, UINT32_MAX, AF_UNIX},
        {1, MASKED_EQUAL, UINT32_MAX & ~(unsigned)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM},
    };

    add(filter, SECCOMP_RET_ALLOW, SYS_socketpair, 2, only);
}

/* What depends on an argument: threads but no processes, and none whose creator sleeps until it
 * ends, which could not be stopped then (vhost9p/old_keeper.py); no code that was not there before,
 * signals to this process only, pairs of sockets but no others. */
static void add_conditional(struct filter *filter)
{
    const uint64_t all = UINT64_MAX, low = UINT32_MAX;

    allow_pairs(filter);
    allow_if(filter, SYS_clone, 0, CLONE_THREAD | CLONE_VFORK | (unsigned)NEW, CLONE_THREAD);
    allow_if(filter, SYS_mmap, 2, PROT_EXEC, 0);
    allow_if(filter, SYS_mprotect, 2, PROT_EXEC, 0);
    allow_if(filter, SYS_tgkill, 0, low, (uint32_t)getpid());
    allow_if(filter, SYS_prlimit64, 0, all, 0);
#ifdef SYS_getrlimit
    add(filter, SECCOMP_RET_ALLOW, SYS_getrlimit, 0, NULL);
#endif
#ifdef SYS_arch_prctl
    add(filter, SECCOMP_RET_ALLOW, SYS_arch_prctl, 0, NULL);
#endif
    allow_if(filter, SYS_prctl, 0, low, PR_SET_NAME);
    allow_if(filter, SYS_prctl, 0, low, PR_GET_NAME);
    allow_if(filter, SYS_ioctl, 1, low, FIONBIO);
    allow_if(filter, SYS_ioctl, 1, low, FIONREAD);
    allow_if(filter, SYS_ioctl, 1, low, FIOCLEX);
    allow_if(filter, SYS_ioctl, 1, low, TCGETS);
}

void v9_syscalls_allow_marks(void)
{
    marks_allowed = true;
}

int v9_syscalls_limit(uint32_t action)
{
    const bool logs = action == V9_SYSCALLS_LOG;
    struct filter filter = {.err = v9_syscalls_load()};

    if (filter.err)
        return filter.err;
    filter.of_library = lib.init(logs ? SECCOMP_RET_LOG : SECCOMP_RET_KILL_PROCESS);
    if (!filter.of_library)
        return -ENOMEM;
    for (unsigned i = 0; i < sizeof(allowed) / sizeof(*allowed); i++)
        add(&filter, SECCOMP_RET_ALLOW, allowed[i], 0, NULL);
    add_conditional(&filter);
    if (marks_allowed)
        add(&filter, SECCOMP_RET_ALLOW, SYS_fanotify_mark, 0, NULL);
    for (unsigned i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        add(&filter, SECCOMP_RET_ERRNO | (unsigned)refused[i].error, refused[i].number, 0, NULL);
    for (int i = 1; i <= NEWER; i++)
        add(&filter, SECCOMP_RET_ERRNO | ENOSYS, NEWEST + i, 0, NULL);
    if (!filter.err)
        filter.err = lib.load(filter.of_library);
    lib.release(filter.of_library);
    return filter.err;
}
