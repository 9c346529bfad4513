// sources: server/process.c base/fork.c
/*
 * Children that share the descriptor table, and what a keeper does with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "check.h"
#include "server/api.h"

static int steps[3];

static void before(void)
{
    steps[0]++;
}

static void in_parent(void)
{
    steps[1]++;
}

static void in_child(void)
{
    steps[2]++;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static int wait_for(int pid)
{
    int status = -1;

    return waitpid(pid, &status, 0) == pid ? status : -1;
}

TEST(what_a_killed_child_has_opened_stays_open)
{
    const int before_it = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int pidfd = -1, status;
    const int pid = v9_process_clone(before, in_parent, in_child, &pidfd);

    if (pid == 0) {
        if (steps[0] != 1 || steps[1] || steps[2] != 1 || open("/dev/null", O_RDONLY) < 0)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    CHECK(pid > 0 && steps[0] == 1 && steps[1] == 1 && !steps[2]);
    status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(pidfd == before_it + 1 && is_open(pidfd) && is_open(pidfd + 1) && !is_open(pidfd + 2));
}

static void *number(void *unused)
{
    return NULL;
}

/* Or abort(3) and locks that know their owner would take the child for its parent. */
TEST(the_library_knows_the_childs_thread)
{
    int pidfd, status;
    const int pid = v9_process_clone(before, in_parent, in_child, &pidfd);

    if (pid == 0) {
        pthread_t thread;

        if (pthread_kill(pthread_self(), 0) || pthread_create(&thread, NULL, number, NULL) ||
            pthread_join(thread, NULL))
            _exit(1);
        pthread_kill(pthread_self(), SIGKILL);
        _exit(2);
    }
    status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(a_pidfd_shows_the_end)
{
    struct pollfd poller = {.events = POLLIN};
    int pidfd;
    const int pid = v9_process_clone(before, in_parent, in_child, &pidfd);

    if (pid == 0)
        for (;;)
            pause();
    poller.fd = pidfd;
    CHECK(poll(&poller, 1, 0) == 0);
    CHECK(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0);
    CHECK(poll(&poller, 1, -1) == 1 && poller.revents == POLLIN);
    CHECK(WIFSIGNALED(wait_for(pid)));
}

TEST(a_child_ends_with_its_parent)
{
    int ends[2], status;
    char byte;
    pid_t parent;

    CHECK(pipe(ends) == 0);
    parent = fork();
    if (parent == 0) {
        const pid_t self = getpid();

        if (fork() == 0) {
            if (v9_process_end_with(self) || write(ends[1], "x", 1) != 1)
                _exit(1);
            for (;;)
                pause();
        }
        if (read(ends[0], &byte, 1) != 1)
            _exit(1);
        kill(self, SIGKILL);
    }
    close(ends[1]);
    status = wait_for(parent);
    CHECK(WIFSIGNALED(status));
    CHECK(read(ends[0], &byte, 1) == 0); /* nobody has the other end any more */
}

TEST(a_parent_that_has_ended_is_noticed)
{
    CHECK(v9_process_end_with(getppid()) == 0);
    CHECK(v9_process_end_with(getpid()) == -ESRCH);
}

static size_t read_file(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    const size_t got = file ? fread(text, 1, size - 1, file) : 0;

    if (file)
        fclose(file);
    text[got] = 0;
    return got;
}

TEST(ps_shows_name_and_title)
{
    char text[1000];

    v9_process_name("a-name", "a title");
    read_file("/proc/self/comm", text, sizeof(text));
    CHECK(!strcmp(text, "a-name\n"));
    read_file("/proc/self/cmdline", text, sizeof(text));
    CHECK(!strcmp(text, "a title"));
}

TEST(a_title_is_cut_off)
{
    char text[1000], title[3000];
    const size_t size = read_file("/proc/self/cmdline", text, sizeof(text));

    memset(title, 'x', sizeof(title) - 1);
    title[sizeof(title) - 1] = 0;
    v9_process_name("name", title);
    CHECK(read_file("/proc/self/cmdline", text, sizeof(text)) == size);
    CHECK(strlen(text) == size - 1 && text[0] == 'x');
    CHECK(getenv("PATH") != NULL && *getenv("PATH") != 'x');
}

TEST(signals_are_read)
{
    const int32_t numbers[] = {SIGHUP, SIGUSR1};
    struct signalfd_siginfo info;
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = v9_process_signals(numbers, 2);
    CHECK(fd >= 0 && read(fd, &info, sizeof(info)) < 0 && errno == EAGAIN);
    raise(SIGUSR1);
    CHECK(read(fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
}

TEST(a_range_is_closed)
{
    const int first = open("/dev/null", O_RDONLY), second = dup(first), third = dup(first);

    CHECK(v9_process_close_range((uint32_t)second, (uint32_t)second) == 0);
    CHECK(is_open(first) && !is_open(second) && is_open(third));
    CHECK(v9_process_close_range((uint32_t)second, UINT32_MAX) == 0);
    CHECK(is_open(first) && !is_open(third));
    CHECK(v9_process_close_range(2, 1) == -EINVAL);
}

/* ---- what an upgrade needs ------------------------------------------------------------------- */

static int shared_file(size_t size)
{
    const int fd = memfd_create("shared", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

TEST(a_file_is_mapped_at_an_address)
{
    const uint64_t at = 0x200000000000;
    const int fd = shared_file(12288);
    char byte = 0, *memory;

#if defined(__SANITIZE_THREAD__)
    SKIP("this sanitizer keeps such addresses to itself");
#endif
    memory = v9_process_map(fd, 4096, 8192, at);
    if (!CHECK(memory == (char *)(uintptr_t)at))
        return;
    memory[1] = 'x';
    CHECK(pread(fd, &byte, 1, 4097) == 1 && byte == 'x');
    CHECK(!v9_process_map(fd, 0, 4096, at)); /* it is in use, */
    memory = v9_process_map(fd, 0, 4096, 0); /* elsewhere there is room */
    CHECK(memory && memory[4097 - 4096] == 0);
    v9_process_unmap((void *)(uintptr_t)at, 8192);
    CHECK(v9_process_map(fd, 0, 4096, at));
}

/* Waits until somebody closes the other end. */
static int wait_in_child(int *end, void (*work)(void))
{
    int ends[2], pid;

    CHECK(pipe(ends) == 0);
    pid = fork();
    if (pid == 0) {
        char byte;

        close(ends[1]);
        work();
        _exit(read(ends[0], &byte, 1) != 0);
    }
    close(ends[0]);
    *end = ends[1];
    return pid;
}

static void admit_parent(void)
{
    v9_process_admit(getppid());
}

TEST(a_descriptor_is_taken_with_its_position)
{
    const int file = shared_file(100);
    int end, taken, pidfd, pid;

    CHECK(lseek(file, 17, SEEK_SET) == 17);
    pid = wait_in_child(&end, admit_parent);
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    taken = v9_process_take(pidfd, file);
    if (taken == -EPERM || taken == -ENOSYS)
        SKIP("this host refuses it");
    CHECK(taken > file && lseek(taken, 5, SEEK_CUR) == 22 && lseek(file, 0, SEEK_CUR) == 22);
    CHECK(fcntl(taken, F_GETFD) == FD_CLOEXEC);
    CHECK(v9_process_take(pidfd, 1000) == -EBADF);
    close(end);
    CHECK(wait_for(pid) == 0);
    CHECK(v9_process_take(pidfd, file) == -ESRCH);
}
