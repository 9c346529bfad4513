// sources: export/notices.c export/containment.c export/export.c export/hidden_names.c export/
// base/
/*
 * The directory of notices: its qids and owners, which no other file has, what steps and names lead
 * to it, and who may use it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "export/containment.h"
#include "export/hidden_names.h"
#include "export/notices.h"

enum { STREAM = 77, SOMEBODY = 1000 };

static char top[] = "/tmp/v9-notices-XXXXXX";
static v9_qidmap *map;
static v9_export *ex, *notices;
static uint64_t end;
static int root;

static v9_export *export(const char *name)
{
    struct v9_export_conf conf = {.notifies = true};
    v9_export *made;
    int err;

    CHECK(mkdirat(root, name, 0755) == 0);
    conf.root_fd = openat(root, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    made = v9_export_new(&conf, map, &err);
    close(conf.root_fd);
    CHECK(made != NULL);
    return made;
}

SET_UP()
{
    CHECK(mkdtemp(top) != NULL);
    root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    map = v9_qidmap_new();
    ex = export("export");
    notices = export("notices");
    v9_export_set_notices(notices, STREAM, &end, false);
    CHECK(v9_export_join(ex, ".name", notices) == 0);
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(notices);
    v9_export_free(ex);
    v9_qidmap_free(map);
    close(root);
    snprintf(command, sizeof(command), "rm -r %s", top);
    CHECK(system(command) == 0);
}

TEST(only_the_file_that_was_named_is_the_stream)
{
    CHECK(v9_notices_are(notices) && !v9_notices_are(ex));
    CHECK(v9_notices_stream(notices, STREAM) && !v9_notices_stream(notices, STREAM + 1));
    CHECK(!v9_notices_stream(ex, STREAM));
}

TEST(its_files_have_owners_and_qids_of_their_own)
{
    struct v9_attr one = {.st_ino = 5, .uid = 1, .gid = 2}, other = {.st_ino = 6};

    v9_notices_own(&one);
    v9_notices_own(&other);
    CHECK(!one.uid && !one.gid && one.qid.path != other.qid.path);
    CHECK(one.qid.path >> 32 && other.qid.path >> 32);
}

TEST(versions_say_what_is_cached_and_directories_keep_theirs)
{
    struct v9_attr directory = {.mode = S_IFDIR}, empty = {.mode = S_IFREG};
    struct v9_attr program = {.mode = S_IFREG, .size = 9};
    const uint32_t constant = v9_notices_version(ex, &directory, 8);

    CHECK(v9_notices_version(ex, &directory, 9) == constant && constant);
    CHECK(v9_notices_version(notices, &directory, 9) == constant);
    CHECK(v9_notices_version(notices, &empty, 9) == 0);
    CHECK(v9_notices_version(notices, &program, 9) == 9);
    CHECK(v9_notices_version(ex, &empty, 9) == 9);
    ex->conf.notifies = false;
    CHECK(v9_notices_version(ex, &directory, 9) == 9);
}

TEST(its_name_leads_there_from_the_root_alone)
{
    v9_export *where = ex;
    int below, fd = v9_export_step(&where, SOMEBODY, ex->conf.root_fd, ".name");

    CHECK(fd >= 0 && where == notices);
    close(fd);
    CHECK(mkdirat(ex->conf.root_fd, "below", 0755) == 0);
    below = openat(ex->conf.root_fd, "below", O_PATH | O_DIRECTORY | O_CLOEXEC);
    where = ex;
    CHECK(v9_export_step(&where, SOMEBODY, below, ".name") == -ENOENT);
    CHECK(v9_export_check_name(ex, below, ".name", EACCES) == 0);
    CHECK(v9_export_check_name(ex, ex->conf.root_fd, ".name", EACCES) == -EEXIST);
    CHECK(v9_export_check_name(ex, ex->conf.root_fd, ".name", ENOENT) == -EBUSY);
    CHECK(v9_export_joins(ex, ".name") && !v9_export_joins(ex, "name"));
    close(below);
}

TEST(a_map_of_ids_admits_whoever_refreshes)
{
    const struct v9_id_range own = {0, 0, 1};
    const struct v9_id_conf conf = {.ranges = &own, .count = 1};

    CHECK(v9_export_admits(ex, SOMEBODY) == 0);
    CHECK(v9_export_set_ids(ex, V9_UID, &conf) == 0);
    CHECK(v9_export_admits(ex, SOMEBODY) == -EPERM);
    CHECK(v9_export_admits(ex, V9_REFRESH_UID) == 0);
    ex->conf.notifies = false;
    CHECK(v9_export_admits(ex, V9_REFRESH_UID) == -EPERM);
}
