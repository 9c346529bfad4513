// sources: fid/forget.c fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c
// fid/fid_names.c fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c
// fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * Which fids find nothing, and when: forgotten ones once, those of a session that renews its names
 * while another file has theirs; and that a file keeps its version.
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

/* Enters a fid that has walked to the name of a file, whose attributes were not reported yet. */
static void walk_only(uint32_t number, uint64_t ino, const char *name, uint32_t version)
{
    const struct v9_attr attr = {
        .mode = S_IFREG | 0644, .st_ino = ino, .nlink = 1, .qid.version = version};
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

/* What Tgetattr reports of a file that has this version now; 0: the fid finds nothing. */
static uint32_t version_reported(uint32_t number, uint32_t version)
{
    struct v9_fid *fid = pinned(number);
    struct v9_qid qid = {0, version, 0};
    const bool found = v9_fids_report(fids, fid, &qid);

    v9_fids_unpin(fids, fid);
    return found ? qid.version : 0;
}

static bool finds(uint32_t number)
{
    return version_reported(number, 1) != 0;
}

static void walk(uint32_t number, uint64_t ino, const char *name)
{
    walk_only(number, ino, name, 1);
    CHECK(finds(number));
}

/* Has a fid follow its name. */
static void move(uint32_t number)
{
    struct v9_fid *fid = pinned(number);

    CHECK(v9_fids_move(fids, fid) == 1);
    v9_fids_unpin(fids, fid);
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
    CHECK(finds(1));
    forget(1);
    CHECK(!finds(1));
    CHECK(finds(1));
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
        CHECK(!finds(number));
    CHECK(!finds(STRAY));
    CHECK(finds(4));
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
    CHECK(finds(3));
    forget(2);
    CHECK(!finds(1));
    CHECK(finds(2) && finds(3));
}

TEST(a_walk_that_has_not_ended_is_not_forgotten)
{
    walk(1, 10, "file");
    walk_only(2, 10, "file", 1);
    forget(1);
    CHECK(finds(2));
    CHECK(!finds(1));
}

TEST(a_number_that_is_used_again_is_not_forgotten)
{
    walk(1, 10, "file");
    forget(1);
    CHECK(v9_fids_remove(fids, 1) == 0);
    walk(1, 10, "file");
    CHECK(finds(1));
}

TEST(a_forgotten_fid_that_follows_its_name_is_forgotten_still)
{
    walk(1, 10, "file");
    walk(2, 11, "file");
    forget(1);
    move(1);
    CHECK(!finds(1) && finds(1));
}

TEST(what_was_replaced_finds_nothing_where_names_are_renewed)
{
    walk(1, 10, "file");
    walk_only(2, 10, "file", 1);
    walk(3, 11, "file");
    move(1);
    move(2);
    CHECK(finds(1) && finds(2)); /* other sessions: the fid follows its name */
    v9_fids_renew(fids);
    CHECK(!finds(1) && !finds(1));
    CHECK(finds(2)); /* it has reported no other file */
    CHECK(finds(3));
    CHECK(v9_fids_clear(fids) == 0);
    walk(1, 10, "file");
    walk(2, 11, "file");
    move(1);
    CHECK(finds(1)); /* another session */
}

TEST(a_file_keeps_the_version_that_was_reported_first)
{
    walk_only(1, 10, "file", 5);
    CHECK(version_reported(1, 6) == 6); /* it was changed since */
    CHECK(version_reported(1, 7) == 6);
    walk_only(2, 10, "other name", 8);
    CHECK(version_reported(2, 9) == 6);
    CHECK(v9_fids_remove(fids, 1) == 0 && v9_fids_remove(fids, 2) == 0);
    walk_only(1, 10, "file", 10);
    CHECK(version_reported(1, 10) == 10);
}

TEST(a_file_that_is_forgotten_gets_its_present_version)
{
    walk_only(1, 10, "file", 5);
    CHECK(version_reported(1, 5) == 5);
    forget(1);
    CHECK(version_reported(1, 6) == 0);
    walk_only(2, 10, "file", 6);
    CHECK(version_reported(2, 6) == 6);
    walk_only(3, 11, "file", 7); /* which was known by another name before, and takes this one */
    CHECK(version_reported(3, 7) == 7);
    forget(1);
    move(1);
    CHECK(version_reported(1, 8) == 0);
    walk_only(4, 11, "file", 8);
    CHECK(version_reported(4, 8) == 8);
}
