// sources: fid/forget.c fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c
// fid/fid_names.c fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c
// fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * Which fids are forgotten with another one, and that each is so once.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/fid.h"
#include "fid/forget.h"

enum { FIDS = 100, STRAY = 5000000 };

static struct v9_fids table, *const fids = &table;

SET_UP()
{
    CHECK(v9_fids_init(fids, FIDS, v9_fid_table_map(FIDS), NULL, &v9_evict_ops) == 0);
}

TEAR_DOWN()
{
    v9_fids_destroy(fids);
}

/* Enters a fid that has walked to the name of a file. */
static void walk(uint32_t number, uint64_t ino, const char *name)
{
    const struct v9_attr attr = {.mode = S_IFREG | 0644, .st_ino = ino, .nlink = 1};
    const struct v9_route route = {.root = 0, .size = (uint32_t)strlen(name), .text = name};
    const struct v9_fid_new as = {number, 1000, V9_FID_WALKED, -1, 0, &route, NULL};
    const struct v9_found file = {open("/", O_PATH | O_CLOEXEC), -1, 0, &attr};

    CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
}

static struct v9_fid *pinned(uint32_t number)
{
    struct v9_fid *fid = NULL;

    CHECK(v9_fids_pin(fids, number, &fid) == 0);
    return fid;
}

static void forget(uint32_t number)
{
    struct v9_fid *fid = pinned(number);

    v9_fids_forget(fids, fid);
    v9_fids_unpin(fids, fid);
}

static void clone_to(uint32_t from, uint32_t number)
{
    struct v9_fid *fid = pinned(from);

    CHECK(v9_fids_clone(fids, fid, number, true) == 0);
    v9_fids_unpin(fids, fid);
}

TEST(a_fid_is_forgotten_once)
{
    walk(1, 10, "file");
    CHECK(!v9_fids_take_forgotten(fids, 1));
    forget(1);
    CHECK(v9_fids_take_forgotten(fids, 1));
    CHECK(!v9_fids_take_forgotten(fids, 1));
    CHECK(!v9_fids_take_forgotten(fids, 2));
}

TEST(all_that_have_walked_to_the_file_or_the_name_are_forgotten)
{
    walk(1, 10, "file");
    walk(2, 10, "file");
    walk(STRAY, 10, "other name");
    walk(3, 11, "file"); /* another file has the name by now */
    walk(4, 12, "elsewhere");
    forget(1);
    for (uint32_t number = 1; number <= 3; number++)
        CHECK(v9_fids_take_forgotten(fids, number));
    CHECK(v9_fids_take_forgotten(fids, STRAY));
    CHECK(!v9_fids_take_forgotten(fids, 4));
}

TEST(what_stands_for_the_file_itself_is_not_forgotten)
{
    struct v9_fid *opened;

    walk(1, 10, "file");
    walk(2, 10, "file");
    opened = pinned(2);
    CHECK(v9_fids_open(fids, opened, open("/", O_RDONLY | O_CLOEXEC), O_RDONLY) == 0);
    v9_fids_unpin(fids, opened);
    clone_to(1, 3); /* it is about to be opened, or stands for the root */
    forget(2);
    CHECK(v9_fids_take_forgotten(fids, 1));
    CHECK(!v9_fids_take_forgotten(fids, 2) && !v9_fids_take_forgotten(fids, 3));
}

TEST(a_number_that_is_used_again_is_not_forgotten)
{
    walk(1, 10, "file");
    forget(1);
    CHECK(v9_fids_remove(fids, 1) == 0);
    walk(1, 10, "file");
    CHECK(!v9_fids_take_forgotten(fids, 1));
}
