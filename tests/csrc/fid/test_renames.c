// sources: fid/renames.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * The guest's changes of names: fids keep the names by which they were reached, and what is evicted
 * or cached is prepared before a file loses its name.
 */
#define _GNU_SOURCE
#include "fid/renames.h"

#include <sys/syscall.h>

#include "base/host_stat.h"
#include "p9/device.h"

/* What happens as soon as the host has renamed something. */
static void (*after_rename)(void);

static int renamed(int result)
{
    void (*const then)(void) = after_rename;

    after_rename = NULL;
    if (!result && then)
        then();
    else
        after_rename = then;
    return result;
}

int renameat(int from, const char *old, int to, const char *new)
{
    return renamed((int)syscall(SYS_renameat2, from, old, to, new, 0));
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    return renamed((int)syscall(SYS_renameat2, from, old, to, new, flags));
}

/* What happens before a name is looked at. */
static void (*before_look)(void);
static const char *looked_at;

int fstatat(int dir, const char *name, struct stat *st, int flags)
{
    void (*const then)(void) = before_look;

    if (then && !strcmp(name, looked_at)) {
        before_look = NULL;
        then();
    }
    return (int)syscall(SYS_newfstatat, dir, name, st, flags);
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

/* A fid of a path below the root. */
static void reach(int fid, const char *path)
{
    char names[64], *name, *rest = names;

    strcpy(names, path);
    CHECK(ask(P9_TWALK, "442", ROOT, fid, 0) == 0);
    while ((name = strsep(&rest, "/")))
        CHECK(ask(P9_TWALK, "442s", fid, fid, 1, name) == 0);
}

static struct v9_fid *pinned(int number)
{
    struct v9_fid *fid = NULL;

    CHECK(v9_fids_pin(&dev.fids, (uint32_t)number, &fid) == 0);
    return fid;
}

/* Renames an entry of a fid's directory, or its own file (""); `into` -1: in its own directory. */
static int renames(int number, const char *old, int into, const char *new)
{
    struct v9_fid *fid = pinned(number), *directory = into < 0 ? NULL : pinned(into);
    const int err = v9_renames_entry(&dev.fids, fid, old, directory, new);

    v9_fids_unpin(&dev.fids, fid);
    if (directory)
        v9_fids_unpin(&dev.fids, directory);
    return err;
}

static int unlinks(int number, const char *name, bool directory)
{
    struct v9_fid *fid = pinned(number);
    const int err = *name ? v9_renames_unlink(&dev.fids, fid, name, directory)
                          : v9_renames_remove(&dev.fids, fid);

    v9_fids_unpin(&dev.fids, fid);
    return err;
}

/* Whether a fid's own name is this one of a directory; 1, 0 or -errno. */
static int is_at(int number, const char *directory, const char *name)
{
    struct v9_fid *fid = pinned(number);
    char own[V9_NAME_SIZE];
    const int fd = v9_renames_name_of(&dev.fids, fid, own);
    struct stat st = {0};

    v9_fids_unpin(&dev.fids, fid);
    if (fd < 0)
        return fd;
    CHECK(fstat(fd, &st) == 0);
    v9_budget_close(fd);
    return st.st_ino == host_ino(directory) && !strcmp(own, name);
}

static void host_links(const char *old, const char *new)
{
    CHECK(link(host(old), host(new)) == 0);
}

/* ---- the names of fids -------------------------------------------------------------------------
 */

TEST(a_fid_has_the_name_by_which_it_was_reached)
{
    host_makes_directory("dir");
    host_writes("a", "text");
    host_links("a", "dir/b");
    reach(1, "a");
    reach(2, "dir");
    reach(3, "dir/b");
    CHECK(is_at(1, "", "a") == 1 && is_at(2, "", "dir") == 1 && is_at(3, "dir", "b") == 1);
    CHECK(is_at(ROOT, "", "") == -EBUSY);
    CHECK(renames(ROOT, "", -1, "x") == -EBUSY && unlinks(ROOT, "", true) == -EBUSY);
}

/* What the guest has removed is gone, even if the same file gets the same name again. */
TEST(a_name_that_is_lost_is_no_fids_name)
{
    host_writes("a", "text");
    host_links("a", "b");
    host_links("a", "c");
    host_links("a", "d");
    reach(1, "a");
    reach(2, "b");
    reach(3, "c");
    CHECK(unlinks(ROOT, "a", false) == 0 && unlinks(2, "", false) == 0);
    CHECK(unlink(host("c")) == 0); /* by the host */
    CHECK(is_at(1, "", "a") == -ENOENT && is_at(2, "", "b") == -ENOENT);
    CHECK(renames(1, "", -1, "x") == -ENOENT && renames(3, "", -1, "x") == -ENOENT);
    CHECK(unlinks(3, "", false) == -ENOENT);
    host_links("d", "a");
    host_links("d", "b");
    host_links("d", "c");
    CHECK(is_at(1, "", "a") == -ENOENT && is_at(2, "", "b") == -ENOENT && is_at(3, "", "c") == 1);
}

TEST(a_directory_is_removed_by_its_own_name)
{
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    reach(1, "dir");
    reach(2, "dir/sub");
    CHECK(unlinks(1, "", true) == -ENOTEMPTY && is_at(1, "", "dir") == 1);
    CHECK(unlinks(2, "", true) == 0 && unlinks(1, "", true) == 0);
    CHECK(access(host("dir"), F_OK) < 0 && is_at(1, "", "dir") == -ENOENT);
}

TEST(a_name_that_is_moved_is_a_fids_name_where_it_is_now)
{
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    host_writes("a", "text");
    host_writes("dir/sub/below", "text");
    reach(1, "dir");
    reach(2, "a");
    reach(3, "dir/sub");
    reach(4, "dir/sub/below");
    CHECK(renames(ROOT, "a", ROOT, "b") == 0 && is_at(2, "", "b") == 1);
    CHECK(renames(2, "", 1, "c") == 0 && is_at(2, "dir", "c") == 1);
    CHECK(renames(2, "", -1, "d") == 0 && is_at(2, "dir", "d") == 1);
    CHECK(renames(1, "d", ROOT, "e") == 0 && is_at(2, "", "e") == 1);
    CHECK(renames(1, "sub", ROOT, "sub") == 0);
    CHECK(is_at(3, "", "sub") == 1 && is_at(4, "sub", "below") == 1);
}

TEST(a_file_that_a_rename_replaces_loses_its_name)
{
    host_writes("old", "text");
    host_writes("new", "text");
    reach(1, "old");
    reach(2, "new");
    CHECK(renames(ROOT, "old", ROOT, "new") == 0);
    CHECK(is_at(1, "", "new") == 1 && is_at(2, "", "new") == -ENOENT);
}

TEST(a_rename_that_fails_moves_no_name)
{
    host_writes("file", "text");
    host_makes_directory("dir");
    reach(1, "file");
    CHECK(renames(ROOT, "file", ROOT, "dir") == -EISDIR && is_at(1, "", "file") == 1);
    CHECK(renames(ROOT, "none", ROOT, "file") == -ENOENT && is_at(1, "", "file") == 1);
}

/* rename(2) does nothing where both names are of one file. */
TEST(a_rename_to_another_name_of_the_file_moves_none)
{
    host_writes("one", "text");
    host_links("one", "two");
    reach(1, "one");
    reach(2, "two");
    CHECK(renames(ROOT, "one", ROOT, "two") == 0 && renames(1, "", -1, "one") == 0);
    CHECK(is_at(1, "", "one") == 1 && is_at(2, "", "two") == 1);
}

/* ---- others take the old name ------------------------------------------------------------------
 */

static void write_old(void)
{
    host_writes("old", "another's");
}

static void rename_again(void)
{
    CHECK(rename(host("old"), host("new")) == 0);
}

static void write_and_rename(void)
{
    write_old();
    looked_at = "new";
    before_look = rename_again;
}

/* Whether a fid that was reached by a name has the one that it was renamed to, and by that the
 * file that is there now. */
static bool has_new_name(int number)
{
    names_grow_old();
    return ino_of_fid(number) == host_ino("new") && host_has("old", "another's");
}

TEST(a_fid_does_not_stand_for_what_somebody_else_gives_its_old_name)
{
    host_writes("old", "text");
    host_writes("new", "text");
    reach(1, "old");
    after_rename = write_old;
    CHECK(renames(ROOT, "old", ROOT, "new") == 0 && !after_rename);
    CHECK(is_at(1, "", "new") == 1 && has_new_name(1));
}

/* Several save a file by way of the same other name. */
TEST(a_fid_does_not_stand_for_what_somebody_else_renames_next)
{
    host_writes("old", "text");
    host_writes("new", "text");
    reach(1, "old");
    after_rename = write_and_rename;
    CHECK(renames(ROOT, "old", ROOT, "new") == 0 && !after_rename && !before_look);
    write_old();
    CHECK(has_new_name(1));
}

/* ---- before a name is lost ---------------------------------------------------------------------
 */

static uint64_t evicted(void)
{
    return dev.fids.inodes.recipes.count;
}

static void evict_now(void)
{
    for (int round = 0; round < 3; round++) /* what was used lately is spared at first */
        while (v9_evict_ops.evict(&dev.fids.shrinker, 16))
            ;
}

/* Evicts all that can be: the files are old enough to be told from later ones. */
static void evict_all(void)
{
    nanosleep(&(struct timespec){0, 120000000}, NULL);
    evict_now();
}

/* Without handles: evicted files are found by their paths. */
static void forget_handles(void)
{
    struct v9_recipe_store *store = &dev.fids.inodes.recipes;

    for (struct v9_anchor *each = store->anchors; each < store->anchors + V9_ANCHORS_MAX; each++)
        each->by_handle = false;
}

static bool is_reachable(int number)
{
    struct v9_fid *fid;
    const int err = v9_fids_pin(&dev.fids, (uint32_t)number, &fid);

    CHECK(!err || err == -ESTALE);
    if (!err)
        v9_fids_unpin(&dev.fids, fid);
    return !err;
}

static uint64_t evicted_meanwhile;

static void evict_and_count(void)
{
    evict_now();
    evicted_meanwhile = evicted();
}

TEST(nothing_is_evicted_while_names_change)
{
    host_writes("file", "text");
    host_writes("other", "text");
    reach(1, "file");
    nanosleep(&(struct timespec){0, 120000000}, NULL);
    after_rename = evict_and_count;
    evicted_meanwhile = 1;
    CHECK(renames(ROOT, "other", ROOT, "another") == 0);
    CHECK(!evicted_meanwhile && !after_rename);
    evict_now();
    CHECK(evicted() == 1);
}

TEST(what_is_evicted_is_restored_before_it_loses_its_name)
{
    static const char *const names[] = {"replaced", "unlinked", "removed", "renamed", "by host"};

    host_writes("another", "text");
    for (int i = 0; i < 5; i++) {
        host_writes(names[i], "text");
        reach(i + 1, names[i]);
    }
    host_makes_directory("dir");
    reach(6, "dir");
    evict_all();
    CHECK(evicted() == 6);
    CHECK(renames(ROOT, "another", ROOT, "replaced") == 0 && evicted() == 5);
    CHECK(unlinks(ROOT, "unlinked", false) == 0 && evicted() == 4);
    CHECK(unlinks(3, "", false) == 0 && evicted() == 3);
    CHECK(renames(ROOT, "renamed", ROOT, "elsewhere") == 0 && evicted() == 2);
    CHECK(unlinks(ROOT, "none", false) == -ENOENT && evicted() == 2);
    CHECK(unlinks(ROOT, "dir", true) == 0 && evicted() == 1);
    CHECK(unlink(host("by host")) == 0);
    CHECK(is_reachable(1) && is_reachable(2) && is_reachable(3) && is_reachable(4));
    CHECK(is_reachable(6) && !is_reachable(5));
}

TEST(a_name_is_kept_where_no_descriptor_is_left)
{
    host_writes("file", "text");
    host_writes("other", "text");
    reach(1, "file");
    evict_all();
    CHECK(evicted() == 1);
    v9_budget_set(0, 0);
    CHECK(unlinks(ROOT, "file", false) == -EMFILE && renames(ROOT, "file", ROOT, "x") == -EMFILE);
    CHECK(renames(ROOT, "other", ROOT, "file") == -EMFILE && evicted() == 1);
    v9_budget_set(UINT32_MAX, 0);
    CHECK(host_has("file", "text") && host_has("other", "text"));
    CHECK(unlinks(ROOT, "file", false) == 0 && evicted() == 0);
}

/* What the guest has taken the name of is not kept for the next walk. */
TEST(what_is_cached_is_dropped_with_its_name)
{
    static const char *const names[] = {"unlinked", "replaced", "held"};
    struct v9_inodes *inodes = &dev.fids.inodes;
    struct v9_attr attr;

    CHECK(v9_host_stat(dev.exports[0]->conf.root_fd, "", &attr) == 0);
    inodes->cached_mounts[0] = attr.mnt_id;
    host_writes("other", "text");
    for (int i = 0; i < 3; i++) {
        host_writes(names[i], "text");
        CHECK(walk_to(i + 1, names[i]) == 0);
    }
    CHECK(ask(P9_TCLUNK, "4", 1) == 0 && ask(P9_TCLUNK, "4", 2) == 0);
    CHECK(inodes->cached.count == 2);
    CHECK(unlinks(ROOT, "unlinked", false) == 0 && inodes->cached.count == 1);
    CHECK(renames(ROOT, "other", ROOT, "replaced") == 0 && inodes->cached.count == 0);
    CHECK(unlinks(3, "", false) == 0);
    CHECK(ask(P9_TCLUNK, "4", 3) == 0 && inodes->cached.count == 0);
}

/* ---- what is evicted below a renamed directory -------------------------------------------------
 */

static void reach_below(void)
{
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    host_writes("dir/sub/file", "text");
    reach(1, "dir");
    reach(2, "dir/sub");
    reach(3, "dir/sub/file");
    evict_all();
    CHECK(evicted() == 3);
    forget_handles();
}

TEST(what_is_evicted_is_found_below_a_renamed_directory)
{
    reach_below();
    CHECK(renames(ROOT, "dir", ROOT, "elsewhere") == 0 && evicted() == 2);
    CHECK(is_reachable(3) && is_at(3, "elsewhere/sub", "file") == 1);
}

TEST(what_is_evicted_is_found_below_a_directory_renamed_by_its_fid)
{
    reach_below();
    CHECK(renames(2, "", -1, "by fid") == 0 && renames(1, "", -1, "elsewhere") == 0);
    CHECK(is_reachable(3) && is_at(3, "elsewhere/by fid", "file") == 1);
}

static pthread_t second;

static void *rename_below(void *unused)
{
    v9_budget_charge(dev.fids.inodes.account);
    CHECK(renames(1, "sub", 1, "later") == 0);
    return unused;
}

/* Another thread renames what is below the directory, which has its new name already. */
static void begin_second(void)
{
    CHECK(pthread_create(&second, NULL, rename_below, NULL) == 0);
    nanosleep(&(struct timespec){0, 50000000}, NULL);
}

TEST(two_renames_at_the_same_time_are_recorded_in_their_order)
{
    reach_below();
    after_rename = begin_second;
    CHECK(renames(ROOT, "dir", ROOT, "elsewhere") == 0);
    pthread_join(second, NULL);
    CHECK(is_reachable(3) && is_at(3, "elsewhere/later", "file") == 1);
}

/* A fid moves on into a directory, which nothing else stands for any more, and its file is renamed
 * out of it. */
TEST(a_directory_ends_with_the_last_name_in_it)
{
    const uint32_t inodes = dev.fids.inodes.count, names = dev.fids.dentries.count;

    host_makes_directory("d");
    host_writes("d/file", "text");
    CHECK(walk_to(1, "d") == 0);
    CHECK(ask(P9_TWALK, "442s", 1, 1, 1, "file") == 0);
    CHECK(ask(P9_TRENAME, "44s", 1, ROOT, "moved") == 0);
    CHECK(dev.fids.inodes.count == inodes + 1 && dev.fids.dentries.count == names + 1);
    CHECK(ask(P9_TCLUNK, "4", 1) == 0);
    CHECK(dev.fids.inodes.count == inodes && dev.fids.dentries.count == names);
}
