/*
 * injector: makes the n-th system call fail that a serving thread makes for a request.
 *
 * A library to be preloaded into the daemon, which is the ordinary build and knows nothing of it.
 * Its workers have the library, too, since they are clones. They must be confined by no filter of
 * system calls, which would not let the threads be watched. Whoever asks for faults shares a page
 * with it (FAULTS names the file), and tests/system/faults/ injector.py has the other end. A
 * serving thread asks for its CPU clock when it begins (csrc/server/workers.c), and nobody else
 * does: pthread_getcpuclockid(3) is replaced here. From then on the kernel turns each system call
 * of that thread into SIGSYS while the selector in the page says so (Syscall User Dispatch, Linux
 * 5.11): whoever makes the call, libc, the interpreter or syscall(2). The handler counts the calls
 * that may fail with the wanted errno and lets the n-th fail. All others are made here, in a
 * function that the kernel lets pass. What threads ask about each other, in /proc, belongs to no
 * request and is not counted.
 *
 * close(2) is made even if it is to fail, since the descriptor is gone then, too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- what is asked for, and what happened ---------------------------------------------------- */

/* Which calls fail after the n-th one. */
enum lasts { ONCE, REPEATED, ALL }; /* none, the same one if it is tried again, all */

enum { SYSCALL_SIZE = 2 }; /* bytes of the instruction */

/* injector.py's Page */
static struct page {
    uint8_t selector; /* whether calls are looked at */
    uint8_t lasts;    /* enum lasts */
    uint8_t any;      /* every call on a file may fail with every errno */
    uint8_t works;    /* a serving thread has been found */
    uint32_t at;      /* n, from 1; 0: none fails */
    uint32_t error;
    uint32_t count;  /* calls that might have failed so far */
    uint32_t failed; /* calls that did */
    char name[24];   /* the first one of them, with its path and other arguments */
    char path[64];
    int64_t first, third;
} *page;

/* ---- calls that the kernel lets pass --------------------------------------------------------- */

long v9_pass(long number, ...);
void v9_return(void);
extern char v9_passing_end[];

__asm__(".text\n"
        ".global v9_pass\n"
        "v9_pass:\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    mov %rdx, %rsi\n"
        "    mov %rcx, %rdx\n"
        "    mov %r8, %r10\n"
        "    mov %r9, %r8\n"
        "    mov 8(%rsp), %r9\n"
        "    syscall\n"
        "    ret\n"
        ".global v9_return\n"
        "v9_return:\n"
        "    mov $15, %eax\n" /* rt_sigreturn */
        "    syscall\n"
        "    ud2\n" /* the kernel compares the address behind a call */
        ".global v9_passing_end\n"
        "v9_passing_end:\n");

/* ---- which call can fail how ----------------------------------------------------------------- */

struct call {
    long number;
    const long *arguments;
};

enum {
    ON_FILES = 1, /* may fail with EIO, ENOMEM, ESTALE */
    MAKES = 2,    /* makes a descriptor: EMFILE */
    TAKES = 4,    /* takes room: ENOSPC */
    CHANGES = 8,  /* EROFS */
    FLUSHES = 16, /* reports what went wrong before: EIO and ENOSPC */
    OPENS = 32,   /* what it does, its flags say */
    IN_OUT = 64,  /* only if the descriptor is a file's, which an event's is not */
    READ = ON_FILES | IN_OUT,
    WRITTEN = ON_FILES | TAKES | CHANGES | IN_OUT,
    NAMED = ON_FILES | TAKES | CHANGES,
    CHANGED = ON_FILES | CHANGES,
};

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

/* A call with what it does, and its argument that is a path, if any. */
#define CALL(name, kind) {SYS_##name, #name, kind, -1}
#define WITH_PATH(name, kind, at) {SYS_##name, #name, kind, at}

static const struct rule {
    long number;
    const char *name;
    int kind;
    int path;
} rules[] = {
    WITH_PATH(open, OPENS, 0),
    WITH_PATH(openat, OPENS, 1),
    WITH_PATH(openat2, OPENS, 1),
    CALL(open_by_handle_at, OPENS),
    CALL(dup, MAKES),
    CALL(fcntl, 0),
    CALL(read, READ),
    CALL(pread64, READ),
    CALL(preadv, READ),
    CALL(preadv2, READ),
    CALL(write, WRITTEN),
    CALL(writev, WRITTEN),
    CALL(pwrite64, WRITTEN),
    CALL(pwritev, WRITTEN),
    CALL(pwritev2, WRITTEN),
    WITH_PATH(mkdirat, NAMED, 1),
    WITH_PATH(mknodat, NAMED, 1),
    WITH_PATH(symlinkat, NAMED, 2),
    WITH_PATH(linkat, NAMED, 3),
    WITH_PATH(renameat, NAMED, 1),
    WITH_PATH(renameat2, NAMED, 1),
    WITH_PATH(setxattr, NAMED, 1),
    WITH_PATH(lsetxattr, NAMED, 1),
    WITH_PATH(fsetxattr, NAMED, 1),
    CALL(fallocate, NAMED),
    WITH_PATH(unlinkat, CHANGED, 1),
    CALL(ftruncate, CHANGED),
    CALL(fchmod, CHANGED),
    WITH_PATH(fchmodat, CHANGED, 1),
    CALL(fchmodat2, CHANGED),
    CALL(fchown, CHANGED),
    CALL(fchownat, CHANGED),
    CALL(utimensat, CHANGED),
    WITH_PATH(removexattr, CHANGED, 1),
    WITH_PATH(lremovexattr, CHANGED, 1),
    WITH_PATH(fremovexattr, CHANGED, 1),
    CALL(fsync, FLUSHES),
    CALL(fdatasync, FLUSHES),
    CALL(syncfs, FLUSHES),
    CALL(sync_file_range, FLUSHES),
    CALL(close, FLUSHES | IN_OUT),
    WITH_PATH(stat, ON_FILES, 0),
    WITH_PATH(lstat, ON_FILES, 0),
    CALL(fstat, ON_FILES),
    WITH_PATH(newfstatat, ON_FILES, 1),
    WITH_PATH(statx, ON_FILES, 1),
    CALL(statfs, ON_FILES),
    CALL(fstatfs, ON_FILES),
    CALL(lseek, ON_FILES),
    CALL(getdents64, ON_FILES),
    WITH_PATH(readlink, ON_FILES, 0),
    WITH_PATH(readlinkat, ON_FILES, 1),
    WITH_PATH(faccessat, ON_FILES, 1),
    CALL(name_to_handle_at, ON_FILES),
    WITH_PATH(getxattr, ON_FILES, 1),
    WITH_PATH(lgetxattr, ON_FILES, 1),
    WITH_PATH(fgetxattr, ON_FILES, 1),
    CALL(listxattr, ON_FILES),
    CALL(llistxattr, ON_FILES),
    CALL(flistxattr, ON_FILES),
    CALL(flock, ON_FILES),
    CALL(ioctl, ON_FILES),
};

static const struct rule *find_rule(long number)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++)
        if (rules[i].number == number)
            return &rules[i];
    return NULL;
}

static long open_flags(const struct call *call)
{
    if (call->number == SYS_openat2)
        return (long)*(const uint64_t *)call->arguments[2];
    return call->arguments[call->number == SYS_open ? 1 : 2];
}

static int kind_of_open(long flags)
{
    const bool creates = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    const bool writes = !(flags & O_PATH) && (flags & O_ACCMODE) != O_RDONLY;

    return ON_FILES | MAKES | (creates ? TAKES : 0) | (creates || writes ? CHANGES : 0);
}

static int kind_of_fcntl(long command)
{
    switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
        return MAKES;
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
    case F_OFD_GETLK:
        return ON_FILES;
    default:
        return 0;
    }
}

static bool is_file(long fd)
{
    struct stat st;
    return v9_pass(SYS_fstat, fd, &st) == 0 && st.st_mode & S_IFMT;
}

static int kind_of(const struct call *call, const struct rule *rule)
{
    if (rule->kind & OPENS)
        return kind_of_open(open_flags(call));
    if (call->number == SYS_fcntl)
        return kind_of_fcntl(call->arguments[1]);
    return rule->kind & IN_OUT && !is_file(call->arguments[0]) ? 0 : rule->kind;
}

static int kinds_with(uint32_t error)
{
    switch (error) {
    case EMFILE:
        return MAKES;
    case ENOSPC:
        return TAKES | FLUSHES;
    case EROFS:
        return CHANGES;
    case EIO:
        return ON_FILES | FLUSHES;
    default:
        return ON_FILES;
    }
}

/* ---- failing --------------------------------------------------------------------------------- */

static void note(const struct call *call, const struct rule *rule)
{
    const char *path = rule->path < 0 ? NULL : (const char *)call->arguments[rule->path];

    strncpy(page->name, rule->name, sizeof(page->name) - 1);
    strncpy(page->path, path ? path : "", sizeof(page->path) - 1);
    page->first = call->arguments[0];
    page->third = call->arguments[2];
}

/* Whether it is the call that failed first, once more. */
static bool is_noted(const struct call *call, const struct rule *rule)
{
    const char *path = rule->path < 0 ? NULL : (const char *)call->arguments[rule->path];

    return !strcmp(page->name, rule->name) && page->first == call->arguments[0] &&
           page->third == call->arguments[2] &&
           !strncmp(page->path, path ? path : "", sizeof(page->path) - 1);
}

/* What takes no new room goes on where all is full: a name, or an attribute, gets its old one back.
 */
static bool is_spared(const struct call *call)
{
    if (!page->failed || page->error != ENOSPC)
        return false;
    return call->number == SYS_renameat || call->number == SYS_renameat2 ||
           call->number == SYS_setxattr || call->number == SYS_fsetxattr;
}

static bool must_fail(const struct call *call)
{
    const struct rule *rule = find_rule(call->number);
    const int kind = rule ? kind_of(call, rule) : 0;

    if (!(page->any ? kind : kind & kinds_with(page->error)) || is_spared(call))
        return false;
    page->count++;
    if (!page->at || page->count < page->at)
        return false;
    if (page->count == page->at)
        note(call, rule);
    else if (page->lasts == ONCE || (page->lasts == REPEATED && !is_noted(call, rule)))
        return false;
    page->failed++;
    return true;
}

/* What a thread reads of another one, which it opens, reads and closes. */
static __thread long looked_at = -1;

static bool looks_at_thread(const struct call *call)
{
    if (call->number == SYS_openat)
        return strstr((const char *)call->arguments[1], "self/task/");
    return (call->number == SYS_read || call->number == SYS_close) &&
           call->arguments[0] == looked_at;
}

/* Whether a call cannot be made by the handler, on whose stack it would return. */
static bool needs_own_stack(long number)
{
    return number == SYS_clone || number == SYS_clone3 || number == SYS_vfork ||
           number == SYS_rt_sigreturn;
}

/* The end of the handler sets the signal mask that it found. */
static void keep_mask(ucontext_t *context)
{
    v9_pass(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &context->uc_sigmask, sizeof(uint64_t));
    sigdelset(&context->uc_sigmask, SIGSYS);
}

static void on_call(int signal, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long arguments[] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    const struct call call = {info->si_syscall, arguments};
    const bool looks = looks_at_thread(&call);
    const bool fails = !looks && must_fail(&call);
    long result = 0;

    (void)signal;
    if (needs_own_stack(call.number)) {
        page->selector = SYSCALL_DISPATCH_FILTER_ALLOW;
        r[REG_RIP] -= SYSCALL_SIZE; /* once more */
        return;
    }
    if (!fails || call.number == SYS_close)
        result = v9_pass(call.number, arguments[0], arguments[1], arguments[2], arguments[3],
                         arguments[4], arguments[5]);
    if (looks && call.number != SYS_read)
        looked_at = call.number == SYS_openat ? result : -1;
    r[REG_RAX] = fails ? -(long)page->error : result;
    if (call.number == SYS_rt_sigprocmask)
        keep_mask(context);
}

/* ---- finding the threads --------------------------------------------------------------------- */

static int (*get_clock)(pthread_t, clockid_t *); /* libc's */

/* libc's sigaction(2) would have the handler return by a call that the kernel does not let pass. */
static void handle_calls(void)
{
    static const struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } action = {on_call, SA_SIGINFO | SA_NODEFER | 0x04000000 /* SA_RESTORER */, v9_return, 0};

    v9_pass(SYS_rt_sigaction, SIGSYS, &action, NULL, sizeof(action.mask));
}

static void watch_this_thread(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    v9_pass(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, NULL, sizeof(uint64_t));
    page->works = !prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, v9_pass,
                         v9_passing_end - (char *)v9_pass, &page->selector);
}

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("FAULTS");
    const int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;

    get_clock = (int (*)(pthread_t, clockid_t *))dlsym(RTLD_NEXT, "pthread_getcpuclockid");
    if (fd < 0)
        return;
    page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        abort();
    handle_calls();
}

int pthread_getcpuclockid(pthread_t thread, clockid_t *clock)
{
    if (page)
        watch_this_thread();
    return get_clock(thread, clock);
}
