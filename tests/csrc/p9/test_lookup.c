// sources: p9/lookup.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Fids stand for names until they are opened: what somebody renames, removes and makes on the host
 * shows to a guest that goes on using its fids; what the guest itself removes stays what it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>

#include "fid/forget.h"
#include "fid/renames.h"
#include "p9/device.h"

/* What happens as soon as a file is looked for by the path of its recipe. */
static void (*meanwhile)(void);
static const char *looked_for;

/* All that is called by number. Few calls have as many arguments as are passed on. */
__attribute__((no_sanitize_address)) long syscall(long number, ...)
{
    static long (*next)(long, ...);
    void (*const then)(void) = meanwhile;
    va_list rest;
    long with[6];

    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        with[i] = va_arg(rest, long);
    va_end(rest);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "syscall");
    if (then && number == SYS_openat2 && !strcmp((const char *)with[1], looked_for)) {
        meanwhile = NULL;
        then();
    }
    return next(number, with[0], with[1], with[2], with[3], with[4], with[5]);
}

static void host_renames(const char *from, const char *to)
{
    CHECK(rename(host(from), host(to)) == 0);
    names_grow_old();
}

static void host_removes(const char *name)
{
    CHECK(remove(host(name)) == 0);
    names_grow_old();
}

TEST(an_unopened_fid_stands_for_the_file_that_is_renamed_over_its_name)
{
    uint64_t ino;

    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("other");
    CHECK(walk_to(1, "file") == 0 && ino_of_fid(1) == host_ino("file"));
    host_renames("other", "file");
    CHECK(ino_of_fid(1) == ino);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0 && ask(P9_TREAD, "484", 1, 0, 10) == 0);
    CHECK(!memcmp(reply + P9_IO_SIZE, "new", 3));
}

/* The dentry of fid 1 in the root, whose file's ctime is settled: its name was checked, and is to
 * be checked again soon, but its attributes alone will do until then. */
static struct v9_dentry *settled_name(void)
{
    struct v9_dentry *dentry;
    uint64_t handle;

    nanosleep(&(struct timespec){0, 100000000}, NULL); /* ctime is long past */
    CHECK(walk_to(1, "file") == 0 && v9_fids_find(&dev.fids, 1, &handle) == 0);
    dentry = v9_dentry_at(&dev.fids.dentries, v9_fids_of(&dev.fids, handle)->dentry);
    names_grow_old();
    CHECK(ino_of_fid(1) == host_ino("file"));
    CHECK(dentry->settled || !dev.exports[0]->ctime_shows_renames);
    dentry->checked = v9_dentry_now() - V9_BELIEF;
    return dentry;
}

/* How often one of many stats did without a check of the name. Who is interrupted for too long
 * between the two lines has the name checked. */
TEST(attributes_with_an_unchanged_ctime_show_that_a_file_has_its_name)
{
    struct v9_dentry *dentry;
    uint64_t checked;
    int shown = 0;

    host_writes("file", "text");
    dentry = settled_name();
    if (!dentry->settled)
        SKIP("ctime does not show renames on this file system");
    for (int i = 0; i < 1000; i++) {
        dentry->checked = checked = v9_dentry_now() - V9_BELIEF;
        CHECK(ino_of_fid(1) == host_ino("file"));
        shown += dentry->checked == checked;
    }
    CHECK(shown > 0);
}

TEST(a_ctime_that_has_changed_shows_that_a_file_may_have_lost_its_name)
{
    uint64_t ino;

    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("other");
    settled_name();
    CHECK(renameat2(AT_FDCWD, host("other"), AT_FDCWD, host("file"), RENAME_EXCHANGE) == 0);
    CHECK(ino_of_fid(1) == ino);
}

TEST(an_open_fid_stays_the_file_that_it_was)
{
    uint64_t ino;

    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("file");
    CHECK(walk_to(1, "file") == 0 && ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    host_renames("other", "file");
    CHECK(ino_of_fid(1) == ino);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == 0 && !memcmp(reply + P9_IO_SIZE, "old", 3));
}

TEST(a_clone_of_an_open_fid_stands_for_the_open_file)
{
    uint64_t ino;

    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("file");
    CHECK(walk_to(1, "file") == 0 && ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    host_renames("other", "file");
    CHECK(ask(P9_TWALK, "442", 1, 2, 0) == 0 && ino_of_fid(2) == ino);
}

TEST(a_clone_of_an_unopened_fid_has_its_name)
{
    uint64_t ino;

    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("other");
    CHECK(walk_to(1, "file") == 0 && ask(P9_TWALK, "442", 1, 2, 0) == 0);
    host_renames("other", "file");
    CHECK(ino_of_fid(2) == ino);
}

TEST(a_name_that_is_gone_fails_until_it_is_back)
{
    host_writes("file", "old");
    CHECK(walk_to(1, "file") == 0);
    host_removes("file");
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ENOENT);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == -ENOENT);
    host_makes_directory("file");
    CHECK(ino_of_fid(1) == host_ino("file"));
}

TEST(a_file_that_the_host_renames_is_not_followed_to_its_new_name)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    host_renames("file", "elsewhere");
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ENOENT);
}

TEST(a_directory_that_is_replaced_takes_the_fids_below_it_along)
{
    uint64_t ino;

    host_makes_directory("a");
    host_makes_directory("b");
    host_writes("a/file", "old");
    host_writes("b/file", "new");
    ino = host_ino("b/file");
    CHECK(ask(P9_TWALK, "442ss", ROOT, 1, 2, "a", "file") == 0);
    CHECK(rename(host("a"), host("c")) == 0);
    host_renames("b", "a");
    CHECK(ino_of_fid(1) == ino);
}

TEST(a_walk_begins_in_the_directory_that_has_the_name_now)
{
    host_makes_directory("a");
    host_makes_directory("b");
    host_writes("b/file", "new");
    CHECK(walk_to(1, "a") == 0);
    CHECK(rename(host("a"), host("c")) == 0);
    host_renames("b", "a");
    CHECK(ask(P9_TWALK, "442s", 1, 2, 1, "file") == 0);
    CHECK(ino_of_fid(2) == host_ino("a/file"));
}

TEST(a_directory_that_becomes_a_symlink_is_not_followed)
{
    host_makes_directory("a");
    host_writes("a/file", "text");
    CHECK(ask(P9_TWALK, "442ss", ROOT, 1, 2, "a", "file") == 0);
    CHECK(rename(host("a"), host("b")) == 0 && symlink("b", host("a")) == 0);
    names_grow_old();
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ENOTDIR);
}

TEST(what_the_guest_itself_removes_stays_the_file_that_it_was)
{
    uint64_t ino;

    host_writes("file", "old");
    ino = host_ino("file");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TUNLINKAT, "4s4", ROOT, "file", 0) == 0);
    host_writes("file", "new");
    names_grow_old();
    CHECK(ino_of_fid(1) == ino);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0 && ask(P9_TREAD, "484", 1, 0, 10) == 0);
    CHECK(!memcmp(reply + P9_IO_SIZE, "old", 3));
}

/* Of a session that renews its names, where the file that a fid has cannot be opened again. */
TEST(a_file_that_was_evicted_and_replaced_is_not_found_by_a_fid_that_keeps_it)
{
    uint64_t ino;

    dev.exports[0]->conf.notifies = true;
    v9_fids_renew(&dev.fids);
    host_writes("file", "old");
    host_writes("other", "new");
    ino = host_ino("other");
    CHECK(walk_to(1, "file") == 0 && ino_of_fid(1) == host_ino("file"));
    while (v9_evict_ops.evict(&dev.fids.shrinker, 16))
        ;
    host_renames("other", "file");
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ENOENT);
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ENOENT);
    CHECK(ask(P9_TWALK, "442", 1, 2, 0) == -ESTALE);
    CHECK(walk_to(3, "file") == 0 && ino_of_fid(3) == ino);
}

/* Whose directory the guest has only passed by: it has no fid of it. */
TEST(a_removal_by_python_finds_a_fids_own_name_right_after_the_walk)
{
    char name[V9_NAME_SIZE];
    struct stat st = {0};
    struct v9_fid *fid;
    int directory;

    host_makes_directory("dir");
    host_writes("dir/file", "text");
    CHECK(ask(P9_TWALK, "442ss", ROOT, 1, 2, "dir", "file") == 0);
    CHECK(v9_fids_pin(&dev.fids, 1, &fid) == 0);
    v9_dentry_at(&dev.fids.dentries, fid->dentry)->checked = v9_dentry_now();
    CHECK(ask(P9_TREMOVE, "4", 1) == -V9_NOT_OURS);
    directory = v9_renames_name_of(&dev.fids, fid, name);
    CHECK(directory >= 0 && fstat(directory, &st) == 0);
    CHECK(st.st_ino == host_ino("dir") && !strcmp(name, "file"));
    v9_budget_close(directory);
    v9_fids_unpin(&dev.fids, fid);
}

/* ---- parents that cannot be reopened -----------------------------------------------------------
 */

/* Evicts what nobody has pinned; it is found by its path alone, and something happens then. */
static void evict_until_looked_for(const char *path, void (*then)(void))
{
    struct v9_recipe_store *store = &dev.fids.inodes.recipes;

    nanosleep(&(struct timespec){0, 120000000}, NULL); /* old enough to be told from later ones */
    for (int round = 0; round < 3; round++)            /* what was used lately is spared at first */
        while (v9_evict_ops.evict(&dev.fids.shrinker, 16))
            ;
    for (struct v9_anchor *each = store->anchors; each < store->anchors + V9_ANCHORS_MAX; each++)
        each->by_handle = false;
    looked_for = path;
    meanwhile = then;
}

static struct v9_fid *pinned(uint32_t number)
{
    struct v9_fid *fid = NULL;

    CHECK(v9_fids_pin(&dev.fids, number, &fid) == 0);
    return fid;
}

static void swap_directories(void)
{
    CHECK(renameat2(AT_FDCWD, host("a"), AT_FDCWD, host("b"), RENAME_EXCHANGE) == 0);
}

TEST(a_parent_that_is_replaced_before_it_is_reopened_is_looked_up_again)
{
    struct v9_fid *fid;
    uint64_t ino;

    host_makes_directory("a");
    host_makes_directory("b");
    host_writes("a/file", "old");
    host_writes("b/file", "new");
    ino = host_ino("b/file");
    CHECK(walk_to(1, "a") == 0 && ask(P9_TWALK, "442s", 1, 1, 1, "file") == 0);
    fid = pinned(1);
    evict_until_looked_for("a", swap_directories);
    CHECK(ino_of_fid(1) == ino && !meanwhile);
    v9_fids_unpin(&dev.fids, fid);
}

static struct v9_fid *from, *into;

/* The host renames the directory above; the guest moves the file away, and clunks its directory,
 * so that nothing refers to either any more. */
static void move_away(void)
{
    CHECK(rename(host("a"), host("c")) == 0);
    CHECK(v9_renames_entry(&dev.fids, from, "file", into, "file") == 0);
    v9_fids_unpin(&dev.fids, from);
    CHECK(v9_fids_remove(&dev.fids, 1) == 0);
}

TEST(a_parent_that_ends_before_it_is_reopened_is_released_once)
{
    const uint32_t inodes = dev.fids.inodes.count, names = dev.fids.dentries.count;
    struct v9_fid *file;

    host_makes_directory("a");
    host_makes_directory("a/b");
    host_makes_directory("x");
    host_writes("a/b/file", "text");
    CHECK(walk_to(1, "a") == 0 && ask(P9_TWALK, "442s", 1, 1, 1, "b") == 0);
    CHECK(walk_to(2, "x") == 0 && ask(P9_TWALK, "442s", 1, 3, 1, "file") == 0);
    from = pinned(1);
    into = pinned(2);
    file = pinned(3);
    evict_until_looked_for("a", move_away);
    CHECK(ino_of_fid(3) == host_ino("x/file") && !meanwhile);
    v9_fids_unpin(&dev.fids, into);
    v9_fids_unpin(&dev.fids, file);
    CHECK(dev.fids.inodes.count == inodes + 2 && dev.fids.dentries.count == names + 2);
    CHECK(ask(P9_TCLUNK, "4", 2) == 0 && ask(P9_TCLUNK, "4", 3) == 0);
    CHECK(dev.fids.inodes.count == inodes && dev.fids.dentries.count == names);
}

static void move_directory(void)
{
    CHECK(rename(host("a"), host("c")) == 0);
}

/* The guest has renamed it, to where it is not known. */
TEST(a_name_in_a_directory_that_is_lost_is_stale)
{
    struct v9_fid *fid;

    host_makes_directory("a");
    host_writes("a/file", "text");
    CHECK(walk_to(1, "a") == 0 && ask(P9_TWALK, "442s", 1, 1, 1, "file") == 0);
    v9_dentry_lose(&dev.fids.dentries, dev.fids.dentries.roots[0], "a", false);
    fid = pinned(1);
    evict_until_looked_for("a", move_directory);
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -ESTALE && !meanwhile);
    v9_fids_unpin(&dev.fids, fid);
}
