/*
 * Running one case: its directory, its end, its line of output, and putting things right after it.
 *
 * An unmet expectation leaves the case through longjmp to run(); nothing but the static state here
 * is read after that, so no automatic variable needs to survive it.
 */
#include "posix.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

enum outcome { PASSED = 0, FAILED, SKIPPED };

static jmp_buf case_end;
static char case_name[256];
static char message[1024];
static char work[PATH_MAX];
static int work_fd = -1;
static unsigned counts[3];
static unsigned serial;

static const char *base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *error_name(int error)
{
    const char *name = error ? strerrorname_np(error) : "success";
    return name ? name : "an unknown error";
}

_Noreturn void fail(const char *file, int line, const char *what, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof(message))
        snprintf(message + used, sizeof(message) - (size_t)used, " (%s:%d: %s)", base(file), line,
                 what);
    longjmp(case_end, FAILED);
}

_Noreturn void skip(const char *reason)
{
    snprintf(message, sizeof(message), "%s", reason);
    longjmp(case_end, SKIPPED);
}

long check_ok(long result, const char *file, int line, const char *what)
{
    if (result < 0)
        fail(file, line, what, "expected success got %s", error_name(errno));
    return result;
}

void check_error(int one, int other, long result, const char *file, int line, const char *what)
{
    int got = result < 0 ? errno : 0;
    if (got == one || got == other)
        return;
    if (one == other)
        fail(file, line, what, "expected %s got %s", error_name(one), error_name(got));
    fail(file, line, what, "expected %s or %s got %s", error_name(one), error_name(other),
         error_name(got));
}

void check_same(long long want, long long got, const char *file, int line, const char *what)
{
    if (want != got)
        fail(file, line, what, "expected %lld got %lld", want, got);
}

void check_mode(mode_t want, const char *path, const char *file, int line)
{
    mode_t got = mode_of(path);
    if (want != got)
        fail(file, line, path, "expected mode %04o got %04o", want, got);
}

void check_bytes(const void *want, const void *got, size_t size, const char *file, int line,
                 const char *what)
{
    const unsigned char *w = want, *g = got;
    for (size_t i = 0; i < size; i++)
        if (w[i] != g[i])
            fail(file, line, what, "expected byte %u at %zu got %u", w[i], i, g[i]);
}

static _Noreturn void give_up(const char *what, const char *path)
{
    fprintf(stderr, "posix: %s %s: %s\n", what, path, strerror(errno));
    exit(2);
}

static void report(enum outcome outcome)
{
    static const char *const words[] = {"ok", "not ok", "skip"};
    counts[outcome]++;
    if (outcome == PASSED && options.quiet)
        return;
    printf("%s %s%s%s\n", words[outcome], case_name, message[0] ? " " : "", message);
}

/* Undoes what a case may have left: user, umask, peer, descriptors, files. 0 or an errno. */
static int put_right(const char *directory)
{
    as_self();
    umask(0);
    peer_exit();
    if (fchdir(work_fd) < 0)
        give_up("cannot enter", work);
    close_range((unsigned)work_fd + 1, ~0U, 0);
    int fd = openat(work_fd, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 ? errno : empty_directory(fd);
    if (!error && unlinkat(work_fd, directory, AT_REMOVEDIR) < 0)
        error = errno;
    return error;
}

static void run_here(case_fn *fn, const struct arg *a)
{
    static enum outcome outcome;
    static char directory[32];
    message[0] = 0;
    snprintf(directory, sizeof(directory), "%u", serial++);
    if (mkdir(directory, 0777) < 0 || chdir(directory) < 0)
        give_up("cannot make or enter a directory in", work);
    outcome = PASSED;
    switch (setjmp(case_end)) {
    case 0:
        fn(a);
        break;
    case FAILED:
        outcome = FAILED;
        break;
    default:
        outcome = SKIPPED;
    }
    int error = put_right(directory);
    if (error && outcome != FAILED) {
        outcome = FAILED;
        snprintf(message, sizeof(message), "expected to remove what the case left got %s",
                 error_name(error));
    }
    report(outcome);
}

/* Whether --every leaves this case in: the 1st, N+1st, 2N+1st, … call with the same function. */
static bool is_due(case_fn *fn)
{
    static struct {
        case_fn *fn;
        unsigned calls;
    } seen[512];
    size_t i = 0;
    while (i < COUNT(seen) && seen[i].fn && seen[i].fn != fn)
        i++;
    if (i == COUNT(seen))
        return true;
    seen[i].fn = fn;
    return seen[i].calls++ % options.every == 0;
}

void run(case_fn *fn, struct arg a, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(case_name, sizeof(case_name), format, arguments);
    va_end(arguments);
    if (strncmp(case_name, options.only, strlen(options.only)) || !is_due(fn))
        return;
    if (options.list)
        puts(case_name);
    else
        run_here(fn, &a);
}

void run_plain(const char *group, const struct plain_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        run(cases[i].fn, (struct arg){0}, "%s/%s", group, cases[i].name);
}

void begin_run(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (options.list)
        return;
    umask(0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    snprintf(work, sizeof(work), "%s/posix-XXXXXX", options.root);
    if (!mkdtemp(work) || chmod(work, 0777) < 0)
        give_up("cannot make a directory in", options.root);
    work_fd = open(work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (work_fd < 0 || fchdir(work_fd) < 0)
        give_up("cannot enter", work);
}

int end_run(void)
{
    if (options.list)
        return 0;
    int error = empty_directory(dup(work_fd));
    if (chdir("/") < 0 || error || rmdir(work) < 0)
        fprintf(stderr, "posix: %s is left behind\n", work);
    printf("%u passed, %u failed, %u skipped\n", counts[PASSED], counts[FAILED], counts[SKIPPED]);
    if (counts[PASSED] + counts[FAILED] + counts[SKIPPED] == 0) {
        fprintf(stderr, "posix: no case begins with %s\n", options.only);
        return 2;
    }
    return counts[FAILED] != 0;
}
