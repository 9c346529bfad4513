// sources: mapped/sidecar.c mapped/ export/ base/
/*
 * Metadata files while names change: there before their name, gone after it.
 */
#define _GNU_SOURCE
#include "mapped/sidecar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define META ".virtfs_metadata"

static char path[] = "/var/tmp/v9-sidecar-XXXXXX";
static const struct v9_mapped metadata = {.has = V9_HAS_UID, .uid = 7};
static v9_qidmap *qids;
static v9_export *ex;
static int top;

SET_UP()
{
    struct v9_export_conf conf = {.model = V9_MODEL_FILE};
    int32_t err;

    CHECK(mkdtemp(path));
    conf.root_fd = top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    qids = v9_qidmap_new();
    ex = v9_export_new(&conf, qids, &err);
    CHECK(ex && !err);
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(ex);
    v9_qidmap_free(qids);
    close(top);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    CHECK(system(command) == 0);
}

static bool is_there(const char *name)
{
    return faccessat(top, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Places metadata for `name`, which then appears, or has `failed` to. */
static void place(const char *name, bool failed)
{
    int meta_dir, meta_fd;

    CHECK(v9_sidecar_place(ex, top, name, &metadata, &meta_dir, &meta_fd) == 0 && meta_fd >= 0);
    CHECK(is_there(META) && !is_there(name));
    if (!failed)
        close(openat(top, name, O_CREAT | O_WRONLY, 0600));
    v9_sidecar_placed(meta_dir, name, failed);
    close(meta_fd);
}

TEST(metadata_are_there_before_their_name_and_go_after_it)
{
    place("f", false);
    CHECK(is_there(META "/f"));
    CHECK(v9_sidecar_remove(ex, top, "f", false) == 0);
    CHECK(!is_there("f") && !is_there(META "/f"));
}

TEST(a_name_that_did_not_appear_leaves_no_metadata)
{
    place("f", true);
    CHECK(!is_there(META "/f"));
}

TEST(a_name_in_use_keeps_its_metadata)
{
    int meta_dir, meta_fd;

    place("f", false);
    CHECK(v9_sidecar_place(ex, top, "f", &metadata, &meta_dir, &meta_fd) == -EEXIST);
    CHECK(is_there(META "/f"));
}

TEST(metadata_of_nothing_make_way_for_a_new_name)
{
    place("f", false);
    CHECK(unlinkat(top, "f", 0) == 0 && is_there(META "/f"));
    place("f", false);
    CHECK(is_there(META "/f"));
}

TEST(a_directory_with_nothing_but_metadata_counts_as_empty)
{
    CHECK(mkdirat(top, "d", 0700) == 0 && mkdirat(top, "d/" META, 0700) == 0);
    close(openat(top, "d/" META "/left", O_CREAT | O_WRONLY, 0600));
    close(openat(top, "d/file", O_CREAT | O_WRONLY, 0600));
    CHECK(v9_sidecar_remove(ex, top, "d", true) == -ENOTEMPTY && is_there("d/" META "/left"));
    CHECK(unlinkat(top, "d/file", 0) == 0);
    CHECK(v9_sidecar_remove(ex, top, "d", true) == 0 && !is_there("d"));
}
