// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c
// fid/recover.c fid/renames.c fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/
// quota/ base/
/*
 * A fid table whose process died, and all of its descriptors with it (fid/dying_table.h).
 */
#define _GNU_SOURCE
#include "fid/lost.h"

#include "fid/dying_table.h"

static void close_it(void *context, int32_t fd)
{
    (void)context;
    v9_budget_close(fd);
}

static void forget(void)
{
    v9_lost_forget_descriptors(fids);
}

static void forget_and_recover(void)
{
    forget();
    CHECK(v9_fids_recover(fids) == 0);
}

/* The numbers of the descriptors come to mean something else. */
static void lose(void)
{
    const int null = open("/dev/null", O_RDWR);

    v9_fids_list_descriptors(fids, close_it, NULL);
    for (int i = 0; i < 8; i++)
        dup(null);
    forget_and_recover();
    for (int fd = null; fd < null + 32; fd++)
        if (fd != root_fd && fd != shared_fd)
            close(fd);
}

static void age(void)
{
    nanosleep(&(struct timespec){1, 200000000}, NULL);
}

/* Whether a fid leads to its file: 0, or why not. */
static int use(uint32_t number, const char *name)
{
    struct v9_fid *fid;
    char path[PATH_MAX];
    struct stat there, open_one;
    int err = v9_fids_pin(fids, number, &fid);

    if (err)
        return err;
    path_to(name, path);
    CHECK(stat(path, &there) == 0);
    CHECK(fstat(v9_fids_inode(fids, fid)->path_fd, &open_one) == 0);
    CHECK(there.st_ino == open_one.st_ino);
    if (v9_fid_io(fid) >= 0)
        CHECK(fstat(v9_fid_io(fid), &open_one) == 0 && there.st_ino == open_one.st_ino);
    v9_fids_unpin(fids, fid);
    return 0;
}

static void count(void *context, int32_t fd)
{
    (void)fd;
    ++*(int *)context;
}

TEST(fids_come_back_by_their_names)
{
    int owned = 0;

    age();
    lose();
    v9_fids_list_descriptors(fids, count, &owned);
    CHECK(owned == 0 && v9_lost_count(fids) == 0);
    CHECK(use(1, "d") == 0 && use(2, "d/x") == 0 && use(900, "d/e/f/y") == 0);
    CHECK(use(4, "d/e/f/z") == 0 && use(5, "d/e") == 0);
}

TEST(evicted_ones_keep_their_recipes)
{
    age();
    evict_all();
    CHECK(fids->inodes.recipes.count > 3);
    lose();
    CHECK(use(1, "d") == 0 && use(2, "d/x") == 0 && use(900, "d/e/f/y") == 0);
    evict_all();
    lose();
    CHECK(use(1, "d") == 0 && use(2, "d/x") == 0 && use(900, "d/e/f/y") == 0);
}

TEST(it_can_be_lost_again)
{
    age();
    for (int i = 0; i < 3; i++) {
        lose();
        CHECK(use(4, "d/e/f/z") == 0 && use(5, "d/e") == 0);
    }
}

TEST(young_files_are_lost)
{
    lose();
    CHECK(v9_lost_count(fids) == 5);
    CHECK(use(2, "d/x") == -ESTALE && use(4, "d/e/f/z") == -ESTALE);
    age(); /* nobody knows what has happened since */
    CHECK(v9_fids_recover(fids) == 0);
    CHECK(use(2, "d/x") == -ESTALE);
    CHECK(enter(77, "d/x", O_RDWR, NULL) == 0 && use(77, "d/x") == 0);
    CHECK(use(2, "d/x") == -ESTALE);
}

TEST(files_without_a_name_are_lost)
{
    char path[PATH_MAX];

    age();
    CHECK(enter(6, "other", -1, NULL) == 0 && enter(7, "a", O_RDWR, NULL) == 0);
    path_to("d/e/f/z", path);
    CHECK(unlink(path) == 0);
    path_to("a", path);
    CHECK(unlink(path) == 0);
    close(open(path, O_CREAT | O_WRONLY, 0644)); /* another one */
    lose();
    CHECK(use(4, "d/e") == -ESTALE && use(7, "a") == -ESTALE);
    CHECK(use(2, "d/x") == 0 && use(6, "other") == 0);
}

TEST(locks_are_forgotten)
{
    uint64_t handle;

    age();
    CHECK(v9_fids_find(fids, 2, &handle) == 0 && v9_fids_mark(fids, handle, V9_FID_LOCKS) == 0);
    lose();
    CHECK(v9_fids_remove(fids, 2) == 0);
}

TEST(it_may_die_meanwhile)
{
    char *expected = shared_text(), *text = shared_text();
    unsigned points = 0;
    pid_t child;

    age();
    find_parts();
    CHECK(recovers(forget, expected));
    CHECK(strstr(expected, "/d/e/f/y"));
    child = stepped_start(forget_and_recover);
    has_changed();
    while (stepped_once(child)) {
        if (!has_changed())
            continue;
        points++;
        CHECK(recovers(forget, text) && !strcmp(text, expected));
    }
    CHECK(points > 20);
    stepped_kill(child);
}
