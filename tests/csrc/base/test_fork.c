// sources: base/fork.c
/*
 * fork: what the child shares with its parent, and what runs where.
 */
#define _GNU_SOURCE
#include "base/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

static struct {
    int before, in_parent, in_child, tid;
} *ran;

static void before(void)
{
    ran->before++;
}

static void in_parent(void)
{
    ran->in_parent++;
}

static void in_child(void)
{
    ran->in_child++;
    ran->tid = (int)gettid();
}

SET_UP()
{
    ran = mmap(NULL, sizeof(*ran), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

TEAR_DOWN()
{
    munmap(ran, sizeof(*ran));
}

static int status_of(int pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(the_child_has_a_copy_and_its_own_number)
{
    const int fd = open("/dev/null", O_RDONLY);
    const int pid = v9_fork(0, NULL, before, in_parent, in_child);

    if (pid == 0) {
        close(fd);
        _exit(7);
    }
    if (pid == -EOPNOTSUPP)
        SKIP("a kernel without CONFIG_CHECKPOINT_RESTORE");
    CHECK(pid > 0 && status_of(pid) == 7);
    CHECK(ran->before == 1 && ran->in_parent == 1 && ran->in_child == 1 && ran->tid == pid);
    CHECK(fcntl(fd, F_GETFD) >= 0 && close(fd) == 0);
}

TEST(with_a_shared_table_the_childs_close_is_the_parents)
{
    const int fd = open("/dev/null", O_RDONLY);
    int32_t pidfd = -1;
    const int pid = v9_fork(CLONE_FILES | CLONE_PIDFD, &pidfd, before, in_parent, in_child);

    if (pid == 0) {
        close(fd);
        _exit(0);
    }
    if (pid == -EOPNOTSUPP)
        SKIP("a kernel without CONFIG_CHECKPOINT_RESTORE");
    CHECK(pid > 0 && status_of(pid) == 0);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    CHECK(pidfd >= 0 && close(pidfd) == 0);
}

TEST(what_the_kernel_refuses_is_the_parents_to_handle)
{
    CHECK(v9_fork(CLONE_THREAD, NULL, before, in_parent, in_child) == -EINVAL);
    CHECK(ran->before == 1 && ran->in_parent == 1 && ran->in_child == 0);
}
