// sources: base/proc.c base/sys.c base/
/*
 * The calls that open files of the host: what they refuse, and that they follow no symlink.
 */
#define _GNU_SOURCE
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/api.h"
#include "check.h"

static char path[] = "/var/tmp/v9-sys-XXXXXX";
static int top, proc;

SET_UP()
{
    CHECK(mkdtemp(path));
    top = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(mkdirat(top, "dir", 0755) == 0 && mkfifoat(top, "fifo", 0644) == 0);
    CHECK(symlinkat("dir", top, "link") == 0);
}

TEAR_DOWN()
{
    CHECK(unlinkat(top, "dir", AT_REMOVEDIR) == 0 && unlinkat(top, "fifo", 0) == 0);
    CHECK(unlinkat(top, "link", 0) == 0 && rmdir(path) == 0);
    close(top);
    close(proc);
}

TEST(a_symlink_is_reached_and_never_followed)
{
    struct stat st;
    const int fd = v9_sys_reach(top, "link", 0);

    CHECK(fd >= 0 && fstat(fd, &st) == 0 && S_ISLNK(st.st_mode));
    CHECK(v9_sys_open_file(proc, fd, false, O_RDONLY) == -ELOOP);
    CHECK(v9_sys_resolve(top, "link/.", 0, RESOLVE_BENEATH) == -ELOOP);
    close(fd);
}

TEST(a_path_stays_below_its_directory)
{
    const int fd = v9_sys_resolve(top, "dir", O_DIRECTORY, RESOLVE_BENEATH);
    char found[PATH_MAX];

    CHECK(fd >= 0 && v9_sys_path(proc, fd, found) == (int)strlen(found));
    CHECK(!strncmp(found, path, strlen(path)) && !strcmp(found + strlen(path), "/dir"));
    CHECK(v9_sys_resolve(top, "dir/../..", 0, RESOLVE_BENEATH) == -EXDEV);
    close(fd);
}

TEST(only_regular_files_and_directories_are_opened)
{
    const int fifo = v9_sys_reach(top, "fifo", 0), dir = v9_sys_reach(top, "dir", 0);
    int fd;

    CHECK(v9_sys_open_file(proc, fifo, false, O_RDONLY) == -ENXIO);
    fd = v9_sys_open_file(proc, dir, false, O_RDONLY);
    CHECK(fd >= 0 && faccessat(fd, "..", F_OK, 0) == 0);
    close(fd);
    close(fifo);
    close(dir);
}

TEST(the_guests_open_flags_become_the_hosts)
{
    const int always = O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

    CHECK(v9_sys_open_flags(0) == (O_RDONLY | always));
    CHECK(v9_sys_open_flags(01 | 02000) == (O_WRONLY | O_APPEND | always));
    CHECK(v9_sys_open_flags(02 | 02000) == (O_RDWR | always)); /* pages are written by offset */
    CHECK(v9_sys_open_flags(02 | 01000) == (O_RDWR | O_TRUNC | always));
    CHECK(v9_sys_open_mode(0x10 | 1) == (O_WRONLY | 01000));
    CHECK(v9_sys_open_mode(0x40) == -EOPNOTSUPP);
}
