// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost_writes.c fid/mark_dirs.c fid/recipe.c fid/recipe_store.c
// fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * Marking all directories of a table: open and evicted ones, and those above them.
 */
#define _GNU_SOURCE
#include "fid/mark_dirs.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_stat.h"
#include "base/sys.h"
#include "check.h"
#include "export/dir_marks.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "host_files.h"

static v9_export *export, *exports[V9_EXPORTS_MAX];
static v9_qidmap *qidmap;
static v9_dir_marks *marks;
static struct v9_fids fids;
static int root_fd, bell;
static int32_t lacking; /* why this kernel has no marks; 0: it has */

SET_UP()
{
    struct v9_attr attr;
    int32_t err;

    host_begins();
    qidmap = v9_qidmap_new();
    root_fd = open(top, O_PATH | O_CLOEXEC);
    export = exports[0] = v9_export_new(&(struct v9_export_conf){.root_fd = root_fd}, qidmap, &err);
    v9_budget_init();
    CHECK(export && v9_fids_init(&fids, 100, v9_fid_table_map(100), exports, &v9_evict_ops) == 0);
    v9_budget_charge(fids.inodes.account);
    CHECK(v9_host_stat(root_fd, "", &attr) == 0);
    fids.inodes.cached_mounts[0] = attr.mnt_id;
    bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    marks = v9_dir_marks_new(bell, 100, &lacking);
    CHECK(mkdir(host("a"), 0700) == 0 && mkdir(host("a/b"), 0700) == 0);
    close(creat(host("a/file"), 0600));
}

TEAR_DOWN()
{
    v9_fids_destroy(&fids);
    v9_export_free(export);
    if (marks)
        v9_dir_marks_free(marks);
    v9_qidmap_free(qidmap);
    close(bell);
    close(root_fd);
    host_ends();
}

/* Enters a fid for a file, by its path. */
static void walk(const char *path, uint32_t number)
{
    const struct v9_route route = {.root = 0, .size = (uint32_t)strlen(path), .text = path};
    const struct v9_fid_new as = {number, 0, 0, -1, 0, &route, NULL};
    struct v9_attr attr;
    const struct v9_found found = {v9_sys_resolve(root_fd, path, 0, 0), -1, 0, &attr};

    CHECK(found.path_fd >= 0 && v9_host_stat(found.path_fd, "", &attr) == 0);
    CHECK(v9_fids_enter(&fids, &as, &found, NULL) == 0);
}

/* Marks all, and writes the paths of the notes, each with a space behind it. */
static void mark(char paths[64])
{
    struct v9_dir_note note;

    v9_export_set_dir_marks(export, marks);
    v9_fids_mark_dirs(&fids);
    for (*paths = 0; v9_dir_marks_next(marks, &note);) {
        CHECK(!note.error);
        strcat(strcat(paths, note.is_root ? "." : note.path), " ");
    }
}

TEST(directories_and_those_above_are_marked_once)
{
    char paths[64];

    if (lacking)
        SKIP("no fanotify for this user");
    walk("a/file", 1);
    mark(paths);
    CHECK(!strcmp(paths, ""));
    walk("a/b", 2);
    walk("a", 3);
    mark(paths);
    CHECK(!strcmp(paths, ". a a/b "));
    mark(paths);
    CHECK(!strcmp(paths, ""));
}

TEST(evicted_directories_are_restored)
{
    char paths[64];

    if (lacking)
        SKIP("no fanotify for this user");
    usleep(1100000); /* until a birth time is old enough for a recipe without a handle */
    walk("a/b", 1);
    while (v9_evict_ops.evict(&fids.shrinker, 16) || v9_evict_ops.evict(&fids.shrinker, 16))
        ;
    CHECK(fids.inodes.open.count == 0);
    mark(paths);
    CHECK(!strcmp(paths, ". a a/b "));
    CHECK(fids.inodes.entries[0].pins == 0 && fids.inodes.entries[0].refs == 2);
}
