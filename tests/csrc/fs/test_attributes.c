// sources: fs/attributes.c fs/stat_override.c mapped/ export/ base/
/*
 * Guest attributes made of the host's: ids, qids, overrides, and questions that Python decides.
 */
#define _GNU_SOURCE
#include "fs/attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_stat.h"
#include "check.h"

enum { QTDIR = 0x80, QTSYMLINK = 0x02 };

static char path[] = "/var/tmp/v9-attr-XXXXXX";
static struct v9_attr host;
static v9_qidmap *qids;
static v9_export *ex;
static int top;

SET_UP()
{
    struct v9_export_conf conf = {.model = V9_MODEL_HOST};
    int32_t err;

    CHECK(mkdtemp(path));
    conf.root_fd = top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(top, "file", O_CREAT | O_WRONLY, 0640));
    CHECK(symlinkat("file", top, "link") == 0 && v9_host_stat(top, "file", &host) == 0);
    qids = v9_qidmap_new();
    ex = v9_export_new(&conf, qids, &err);
    CHECK(ex && !err);
}

TEAR_DOWN()
{
    v9_export_free(ex);
    v9_qidmap_free(qids);
    CHECK(unlinkat(top, "file", 0) == 0 && unlinkat(top, "link", 0) == 0 && rmdir(path) == 0);
    close(top);
}

static void install(void)
{
    CHECK(v9_qidmap_set_device(qids, host.st_dev, host.mnt_id, 0, V9_DEV_IDENTITY) == 0);
}

TEST(an_unknown_device_is_a_question_and_attributes_are_filled_in)
{
    struct v9_attr attr;

    CHECK(v9_attr_read(ex, top, "file", &attr) == -V9_NO_DEVICE);
    CHECK(attr.st_ino == host.st_ino && attr.mode == (S_IFREG | 0640));
    install();
    CHECK(v9_attr_read(ex, top, "file", &attr) == 0 && attr.qid.path == host.st_ino);
}

TEST(a_qid_shows_the_type_and_each_change_of_size)
{
    struct v9_attr attr, larger;

    install();
    CHECK(v9_attr_read(ex, top, "", &attr) == 0 && attr.qid.type == QTDIR);
    CHECK(v9_attr_read(ex, top, "link", &attr) == 0 && attr.qid.type == QTSYMLINK);
    CHECK(v9_attr_read(ex, top, "file", &attr) == 0 && attr.qid.type == 0 && attr.qid.version);
    larger = host;
    larger.size++;
    CHECK(v9_attr_complete(ex, top, 0, &larger) == 0 && larger.qid.version != attr.qid.version);
}

TEST(a_host_id_outside_the_map_is_nobodys)
{
    const struct v9_id_range range = {.guest = 5, .host = 4000000, .count = 1};
    const struct v9_id_conf conf = {.ranges = &range, .count = 1};
    struct v9_attr attr;

    install();
    CHECK(v9_export_set_ids(ex, V9_UID, &conf) == 0);
    CHECK(v9_attr_read(ex, top, "file", &attr) == 0);
    CHECK(attr.uid == V9_ID_NOBODY && attr.gid == host.gid);
}

TEST(an_overridden_file_has_other_numbers)
{
    struct v9_attr attr;

    CHECK(v9_export_override_stat(ex, 0, 1, 2) == -EINVAL);
    for (uint64_t ino = 1; ino <= 200; ino++)
        CHECK(v9_export_override_stat(ex, host.st_ino + ino, 7, ino) == 0);
    CHECK(v9_export_override_stat(ex, host.st_ino, 99, 1234) == 0);
    CHECK(v9_attr_read(ex, top, "file", &attr) == -V9_NO_DEVICE);
    CHECK(attr.st_dev == 99 && attr.st_ino == 1234 && attr.mnt_id == 0);
}
