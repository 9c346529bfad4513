// sources: fs/created.c fs/ mapped/ export/ quota/ base/
/*
 * The descriptors of a new file, which outlive a process that is killed while it closes them: what
 * is recorded is open.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>

#include "base/budget.h"
#include "check.h"
#include "fs/created.h"
#include "stepped.h"

static struct v9_created *created;

static void close_all(void)
{
    v9_created_close(created);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

TEST(what_is_recorded_is_open_at_each_instruction)
{
    const int fds[] = {open("/", O_PATH | O_CLOEXEC), open("/", O_PATH | O_CLOEXEC),
                       open("/", O_PATH | O_CLOEXEC)};
    pid_t child;

    created =
        mmap(NULL, sizeof(*created), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *created = (struct v9_created){.path_fd = fds[0], .meta_fd = fds[1], .io_fd = fds[2]};
    child = stepped_start(close_all);
    do
        CHECK(created->path_fd < 0 ||
              (created->path_fd == fds[0] && created->meta_fd == fds[1] &&
               created->io_fd == fds[2] && is_open(fds[0]) && is_open(fds[1]) && is_open(fds[2])));
    while (stepped_once(child));
    stepped_kill(child);
    CHECK(created->path_fd == -1 && created->meta_fd == -1 && created->io_fd == -1);
    CHECK(!is_open(fds[0]) && !is_open(fds[1]) && !is_open(fds[2]));
}
