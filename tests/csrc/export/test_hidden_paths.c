// sources: export/hidden_paths.c export/hidden_names.c export/ base/
/*
 * Hidden paths of a tree of the host: by entries of directories, by directories, and what a rename
 * may change. What patterns mean is shown by tests/policy/test_hidden_paths.py.
 */
#define _GNU_SOURCE
#include "export/hidden_paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "export/hidden_names.h"

/* `**` / `*.k`, and `a` / `**` / `b`, and `a` / `[cd]` */
static const struct v9_hidden_component components[] = {
    {0, 0}, {3, 1}, {1, 0}, {0, 0}, {1, 1}, {1, 0}, {1, 1},
};
static const uint16_t tokens[] = {V9_HIDDEN_STAR, '.', 'k', 'a', 'b', 'a', V9_HIDDEN_SET};
static const uint8_t sets[V9_HIDDEN_SET_BYTES] = {['c' / 8] = 1 << 'c' % 8 | 1 << 'd' % 8};
static const struct v9_hidden_patterns patterns = {components, tokens, sets, 7, 7, 1};

static char root[] = "/tmp/v9-hidden-XXXXXX";
static v9_hidden_paths *paths;
static v9_qidmap *qidmap;
static v9_export *ex;
static int top;

static int dir(const char *path)
{
    int fd;

    CHECK(mkdirat(top, path, 0700) == 0 || errno == EEXIST);
    fd = openat(top, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

SET_UP()
{
    int32_t err;

    strcpy(root + sizeof(root) - 7, "XXXXXX");
    CHECK(mkdtemp(root));
    top = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    paths = v9_hidden_paths_new(&patterns);
    qidmap = v9_qidmap_new();
    CHECK(top >= 0 && paths && qidmap);
    ex = v9_export_new(&(struct v9_export_conf){.root_fd = top}, qidmap, &err);
    CHECK(ex);
    v9_export_hide(ex, paths);
}

TEAR_DOWN()
{
    char command[sizeof(root) + 16];

    v9_export_free(ex);
    v9_qidmap_free(qidmap);
    v9_hidden_paths_free(paths);
    close(top);
    snprintf(command, sizeof(command), "rm -rf %s", root);
    CHECK(system(command) == 0);
}

TEST(a_name_at_any_depth_needs_no_path)
{
    CHECK(v9_export_hides(ex, top, "x.k") == V9_IS_HIDDEN);
    CHECK(v9_export_hides(ex, top, ".k") == V9_IS_HIDDEN);
    CHECK(v9_export_hides(ex, top, "x.kk") == V9_VISIBLE);
    CHECK(v9_export_hides(ex, -1, "x.k") == V9_IS_HIDDEN); /* whatever the directory is */
    CHECK(v9_export_hides(ex, -1, "x") == V9_VISIBLE);
}

TEST(another_path_is_that_of_the_directory_now)
{
    const int a = dir("a"), x = dir("a/x");

    CHECK(v9_export_hides(ex, top, "b") == V9_VISIBLE);
    CHECK(v9_export_hides(ex, a, "b") == V9_IS_HIDDEN);
    CHECK(v9_export_hides(ex, x, "b") == V9_IS_HIDDEN);
    CHECK(v9_export_hides(ex, a, "c") == V9_IS_HIDDEN);
    CHECK(v9_export_hides(ex, x, "c") == V9_VISIBLE);
    CHECK(renameat(top, "a/x", top, "x") == 0);
    CHECK(v9_export_hides(ex, x, "b") == V9_VISIBLE);
    CHECK(renameat(top, "x", top, "a/c") == 0);
    CHECK(v9_export_hides_directory(ex, x) == -ENOENT);
    CHECK(v9_export_hides(ex, x, "c") == V9_IS_HIDDEN); /* all below is hidden */
    close(a);
    close(x);
}

TEST(every_directory_has_itself_and_its_parent)
{
    const int a = dir("a");

    CHECK(v9_export_hides(ex, a, ".") == V9_VISIBLE);
    CHECK(v9_export_hides(ex, a, "..") == V9_VISIBLE);
    CHECK(v9_export_hides_directory(ex, top) == 0);
    CHECK(v9_export_hides_directory(ex, a) == 0);
    close(a);
}

TEST(what_has_left_the_export_is_hidden)
{
    char outside[sizeof(root) + 4];
    const int a = dir("a");

    snprintf(outside, sizeof(outside), "%s-out", root);
    CHECK(renameat(top, "a", AT_FDCWD, outside) == 0);
    CHECK(v9_export_hides_directory(ex, a) == -ENOENT);
    CHECK(v9_export_hides(ex, a, "b") == V9_IS_HIDDEN);
    CHECK(rmdir(outside) == 0);
    close(a);
}

TEST(a_path_that_is_too_long_is_not_known)
{
    char name[NAME_MAX + 1];
    int at = dir("long"), next;

    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    for (int i = 0; i < PATH_MAX / NAME_MAX + 1; i++) {
        CHECK(mkdirat(at, name, 0700) == 0);
        next = openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK(next >= 0);
        close(at);
        at = next;
    }
    CHECK(v9_export_hides(ex, at, "b") == -ENAMETOOLONG);
    CHECK(v9_export_hides(ex, at, "x") == V9_VISIBLE); /* no pattern ends so */
    CHECK(v9_export_hides_directory(ex, at) == -ENAMETOOLONG);
    close(at);
}

static int may_move(const char *old, const char *new)
{
    return v9_export_may_move(ex, top, old, top, new);
}

TEST(a_directory_keeps_what_is_hidden_below_it)
{
    close(dir("a"));
    close(dir("x"));
    CHECK(may_move("x", "y") == 0);
    CHECK(may_move("a", "y") == -EACCES);
    CHECK(may_move("x", "a") == -EACCES);
    CHECK(may_move("z", "a") == 0); /* rename(2) says that there is none */
    CHECK(may_move("x", "x.k") == -ENOENT);
}

TEST(a_file_may_go_where_a_directory_may_not)
{
    close(openat(top, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    CHECK(may_move("f", "a") == 0);
}

TEST(errors_for_changes)
{
    CHECK(v9_export_check_name(ex, top, "x.k", EACCES) == -EACCES);
    CHECK(v9_export_check_name(ex, top, "x.k", ENOENT) == -ENOENT);
    CHECK(v9_export_check_name(ex, top, "x", EACCES) == 0);
}

TEST(paths_are_followed_from_the_root)
{
    CHECK(v9_hidden_paths_hide(paths, "a/q/b/z"));
    CHECK(!v9_hidden_paths_hide(paths, "q/a/b"));
    CHECK(!v9_hidden_paths_hide(paths, ""));
}
