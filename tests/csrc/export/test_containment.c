// sources: export/containment.c export/export.c export/hidden_names.c export/ base/
/*
 * Files reached from below and by paths: what proves that they are inside, and in how many calls.
 * Those below stand in the C library's place.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "export/containment.h"

/* ---- counted calls --------------------------------------------------------------------------- */

static unsigned opened; /* calls that resolve a name */

int openat(int dir, const char *path, int flags, ...)
{
    long fd = syscall(SYS_openat, dir, path, flags, 0600);

    opened++;
    return (int)fd;
}

/* ---- an export ------------------------------------------------------------------------------- */

static char top[] = "/tmp/v9-reach-XXXXXX";
static v9_qidmap *map;
static v9_export *ex;
static int root;

SET_UP()
{
    struct v9_export_conf conf = {0};
    char path[64];
    int err;

    CHECK(mkdtemp(top) != NULL);
    snprintf(path, sizeof(path), "%s/export", top);
    CHECK(mkdir(path, 0755) == 0);
    conf.root_fd = root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    map = v9_qidmap_new();
    ex = v9_export_new(&conf, map, &err);
    CHECK(ex != NULL);
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(ex);
    v9_qidmap_free(map);
    close(root);
    snprintf(command, sizeof(command), "rm -r %s", top);
    CHECK(system(command) == 0);
}

static int step(int fd, const char *name)
{
    v9_export *where = ex;
    int next = v9_export_step(&where, V9_NO_ID, fd, name);

    CHECK(where == ex);
    return next;
}

static bool is_same(int one, int other)
{
    struct stat a, b;
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino;
}

/* A chain of directories of one name below the root: the last one. */
static int dig(const char *name, int depth)
{
    int at = dup(root), below;

    for (int i = 0; i < depth; i++) {
        CHECK(mkdirat(at, name, 0755) == 0);
        below = step(at, name);
        CHECK(below >= 0);
        close(at);
        at = below;
    }
    return at;
}

/* Steps up from the end of such a chain to the root, each with at most so many calls. */
static void step_up_from(const char *name, int depth, unsigned calls)
{
    int at = dig(name, depth), up;

    for (int i = depth; i > 0; i--) {
        opened = 0;
        up = i % 16 && i > 16 ? openat(at, "..", O_PATH) : step(at, "..");
        CHECK(up >= 0 && opened <= calls);
        close(at);
        at = up;
    }
    CHECK(is_same(at, root));
    up = step(at, "..");
    CHECK(is_same(up, root)); /* and no further */
    close(up);
    close(at);
}

TEST(a_step_up_takes_one_call_where_a_path_shows_the_place)
{
    step_up_from("d", 1980, 1);
}

TEST(a_step_up_takes_bounded_calls_where_no_path_shows_the_place)
{
    char name[252];

    step_up_from("dd", 1700, 64);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    step_up_from(name, 40, 8);
}

TEST(a_step_up_from_too_deep_a_place_is_refused)
{
    int at = dig("e", 4000), up;

    opened = 0;
    up = step(at, "..");
    CHECK(up == -ENAMETOOLONG && opened < 70);
    close(at);
}

TEST(what_was_moved_out_of_the_export_leads_nowhere)
{
    char name[V9_NAME_SIZE];
    int at = dig("out", 3), mid = step(root, "out"), up;
    char from[64], to[64];

    snprintf(from, sizeof(from), "%s/export/out/out", top);
    snprintf(to, sizeof(to), "%s/outside", top);
    CHECK(rename(from, to) == 0);
    CHECK(step(at, "..") == -ESTALE);
    CHECK(v9_export_parent(ex, at, name) == -EBUSY);
    CHECK(rename(to, from) == 0);
    up = step(at, "..");
    CHECK(up >= 0);
    CHECK(v9_export_parent(ex, root, name) == -EBUSY);
    close(up);
    up = v9_export_parent(ex, at, name);
    CHECK(up >= 0 && !strcmp(name, "out"));
    close(up);
    /* Another directory has its name. */
    CHECK(renameat(mid, "out", root, "elsewhere") == 0 && mkdirat(mid, "out", 0755) == 0);
    up = step(at, "..");
    CHECK(up >= 0);
    close(up);
    CHECK(unlinkat(mid, "out", AT_REMOVEDIR) == 0);
    CHECK(renameat(root, "elsewhere", mid, "out") == 0);
    close(mid);
    close(at);
}

TEST(a_path_stays_inside_the_export)
{
    char path[PATH_MAX] = "";
    int fd, other;

    close(dig("out", 2));
    fd = v9_export_descend(ex, "out/out");
    CHECK(fd >= 0);
    close(fd);
    while (strlen(path) + 4 < sizeof(path)) /* as an attach may ask for */
        strcat(path, "../");
    opened = 0;
    fd = v9_export_descend(ex, path);
    other = v9_export_descend(ex, "out/../out/../../..");
    CHECK(is_same(fd, root) && is_same(other, root) && !opened);
    close(fd);
    close(other);
    CHECK(v9_export_descend(ex, "nowhere/..") == -ENOENT);
    CHECK(symlinkat("out", root, "link") == 0);
    CHECK(v9_export_descend(ex, "link/out") == -ELOOP);
}

/* Nothing but files and directories is opened for I/O. */
TEST(only_files_and_directories_are_opened_for_io)
{
    int fifo, link, fd;

    CHECK(mkfifoat(root, "fifo", 0600) == 0 && symlinkat("out", root, "link") == 0);
    fifo = step(root, "fifo");
    link = step(root, "link");
    opened = 0;
    CHECK(v9_export_open(ex, fifo, O_RDONLY) == -ENXIO);
    CHECK(v9_export_open(ex, fifo, O_RDWR) == -ENXIO);
    CHECK(v9_export_open(ex, link, O_RDONLY) == -ELOOP && !opened);
    CHECK(v9_export_open_known(ex, fifo, false, O_RDONLY) == -ENXIO);
    CHECK(v9_export_open_known(ex, link, false, O_RDONLY) == -ELOOP && !opened);
    fd = v9_export_open(ex, root, O_RDONLY);
    CHECK(fd >= 0 && opened == 1);
    close(fd);
    fd = v9_export_reopen(ex, fifo);
    CHECK(fd >= 0);
    close(fd);
    close(fifo);
    close(link);
}

/* ---- paths -------------------------------------------------------------------------------------
 */

static int path_is(int fd, const char *name, const char *expected)
{
    char path[PATH_MAX];
    const int size = v9_export_path(ex, fd, name, path);

    CHECK(size < 0 || strlen(path) == (size_t)size);
    return size < 0 ? size : !strcmp(path, expected);
}

TEST(paths_are_below_the_root)
{
    char beside[64];
    int fd;

    snprintf(beside, sizeof(beside), "%s/export2", top); /* whose path begins as the root's does */
    CHECK(mkdir(beside, 0755) == 0 && mkdirat(root, "dir", 0755) == 0);
    CHECK(mkdirat(root, "dir/sub", 0755) == 0);
    fd = openat(root, "dir/sub", O_PATH | O_CLOEXEC);
    CHECK(path_is(root, "new", "new") == 1);
    CHECK(path_is(fd, "", "dir/sub") == 1 && path_is(fd, "new", "dir/sub/new") == 1);
    close(fd);
    CHECK(path_is(root, "", "") == -EBUSY);
    fd = open(beside, O_PATH | O_CLOEXEC);
    CHECK(path_is(fd, "", "") == -ENOENT && path_is(fd, "new", "") == -ENOENT);
    close(fd);
    fd = open("/", O_PATH | O_CLOEXEC);
    CHECK(path_is(fd, "tmp", "") == -ENOENT);
    close(fd);
}

TEST(a_path_that_is_too_long_is_refused)
{
    char name[V9_NAME_SIZE] = {0}, path[PATH_MAX];
    const char *level = memset(name, 'n', 100);
    int fd, below, size = 0;

    for (fd = dup(root); size < PATH_MAX - V9_NAME_SIZE; fd = below) {
        CHECK(mkdirat(fd, level, 0755) == 0);
        below = openat(fd, level, O_PATH | O_CLOEXEC);
        close(fd);
        size = v9_export_path(ex, below, "", path);
        if (!CHECK(size > 0))
            break;
    }
    memset(name, 'n', V9_NAME_SIZE - 1);
    CHECK(v9_export_path(ex, fd, name, path) == -ENAMETOOLONG);
    name[PATH_MAX - 1 - size] = 0; /* no room for the NUL */
    CHECK(v9_export_path(ex, fd, name, path) == -ENAMETOOLONG);
    name[PATH_MAX - 2 - size] = 0;
    CHECK(v9_export_path(ex, fd, name, path) == PATH_MAX - 1);
    CHECK(strlen(path) == PATH_MAX - 1);
    close(fd);
}
