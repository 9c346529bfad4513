// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c fid/restore.c
// fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * Cached inodes: what finds them, what drops them, and many threads that walk, clunk, unlink and
 * make files anew while others drop what is cached.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"
#include "check.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/restore.h"
#include "fid/sweeper.h"

static char top[] = "/tmp/v9-cached-XXXXXX";
static v9_export *export, *exports[V9_EXPORTS_MAX];
static v9_qidmap *qidmap;
static struct v9_fids fids;
static int root_fd;

static int open_count(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* A table that keeps what is on the mount of a directory of its own. */
SET_UP()
{
    struct v9_export_conf conf = {.root_fd = -1};
    struct v9_attr attr;
    int32_t err;

    qidmap = v9_qidmap_new();
    CHECK(mkdtemp(top) != NULL);
    conf.root_fd = root_fd = open(top, O_PATH | O_CLOEXEC);
    export = exports[0] = v9_export_new(&conf, qidmap, &err);
    v9_budget_init();
    CHECK(export && v9_fids_init(&fids, 5000, v9_fid_table_map(5000), exports, &v9_evict_ops) == 0);
    v9_budget_charge(fids.inodes.account);
    CHECK(v9_host_stat(root_fd, "", &attr) == 0);
    fids.inodes.cached_mounts[0] = attr.mnt_id;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

TEAR_DOWN()
{
    v9_fids_destroy(&fids);
    v9_export_free(export);
    v9_qidmap_free(qidmap);
    close(root_fd);
    nftw(top, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void create_file(const char *name)
{
    int fd = openat(root_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
}

/* A step by name, as Twalk takes it: whether an inode was found; *inode is it, or 0. */
static bool step(const char *name, uint32_t *inode, struct v9_attr *attr)
{
    struct v9_found found = {-1, -1, 0, attr};

    *inode = 0;
    if (v9_host_stat(root_fd, name, attr))
        return false;
    *inode = v9_fids_lookup_inode(&fids, 0, attr);
    if (*inode)
        return true;
    found.path_fd = v9_sys_reach(root_fd, name, 0);
    if (found.path_fd < 0)
        return false;
    CHECK(v9_host_stat(found.path_fd, "", attr) == 0);
    *inode = v9_fids_acquire_inode(&fids, &found);
    if (!*inode)
        v9_budget_close(found.path_fd);
    return false;
}

static void before_loss(const struct stat *st)
{
    pthread_mutex_lock(&fids.lock);
    v9_restore_before_loss(&fids, st->st_dev, st->st_ino);
    pthread_mutex_unlock(&fids.lock);
}

/* Walks to a file and enters a fid for it; whether an inode was found. */
static bool walk(const char *name, uint32_t number)
{
    const struct v9_fid_new as = {number, 0, 0, -1, 0, NULL, NULL};
    struct v9_attr attr;
    uint32_t inode;
    bool met = step(name, &inode, &attr);

    CHECK(inode && v9_fids_enter_inode(&fids, &as, inode, 1, NULL) == 0);
    return met;
}

/* That, and a clunk. */
static bool visit(const char *name)
{
    bool met = walk(name, 7);
    CHECK(v9_fids_remove(&fids, 7) == 0);
    return met;
}

TEST(a_walk_finds_the_cached_inode_of_an_unchanged_file)
{
    const int before = open_count();
    struct stat st;

    create_file("one");
    CHECK(!visit("one") && fids.inodes.cached.count == 1 && fids.inodes.open.count == 0);
    CHECK(visit("one") && visit("one") && open_count() == before + 1);
    CHECK(walk("one", 1) && walk("one", 2) && fids.inodes.count == 1);
    CHECK(fids.inodes.cached.count == 0 && fids.inodes.open.count == 1);
    v9_fids_remove(&fids, 1);
    v9_fids_remove(&fids, 2);
    CHECK(fids.inodes.cached.count == 1);
    /* Another time of change: perhaps another name, so it is opened. */
    CHECK(fchmodat(root_fd, "one", 0640, 0) == 0 && !visit("one") && visit("one"));
    CHECK(open_count() == before + 1);
    /* Another file of the name. */
    create_file("new");
    CHECK(renameat(root_fd, "one", root_fd, "other") == 0 && !visit("other"));
    CHECK(renameat(root_fd, "new", root_fd, "one") == 0 && !visit("one"));
    CHECK(fstatat(root_fd, "one", &st, 0) == 0);
    before_loss(&st);
    CHECK(fids.inodes.cached.count == 1 && !visit("one"));
    /* A name that is lost while a fid is there: it ends with the fid. */
    CHECK(walk("one", 1));
    before_loss(&st);
    v9_fids_remove(&fids, 1);
    CHECK(fids.inodes.cached.count == 1 && !visit("one") && fids.inodes.cached.count == 2);
    v9_fids_clear(&fids);
    CHECK(fids.inodes.count == 0 && open_count() == before &&
          v9_budget_held(fids.inodes.account) == 0);
}

/* Whether the descriptor that a walk to `name` ends at is one by that name. */
static bool is_by(const char *name)
{
    char link[32], path[PATH_MAX];
    struct v9_attr attr;
    uint32_t inode;
    ssize_t size;

    step(name, &inode, &attr);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fids.inodes.entries[inode - 1].path_fd);
    size = readlink(link, path, sizeof(path) - 1);
    path[size < 0 ? 0 : size] = 0;
    v9_fids_release_inode(&fids, inode);
    return !strcmp(strrchr(path, '/') + 1, name);
}

/* Requests by a fid concern the name that it was walked to. */
TEST(a_cached_file_is_held_by_the_name_of_the_last_walk)
{
    const int before = open_count();
    struct v9_attr attr;

    create_file("old");
    CHECK(!visit("old") && visit("old"));
    CHECK(linkat(root_fd, "old", root_fd, "young", 0) == 0);
    CHECK(v9_host_stat(root_fd, "old", &attr) == 0);
    /* As if it were within one tick of the clock that tells changes. */
    fids.inodes.entries[fids.inodes.cached.last - 1].ctime =
        attr.ctime_sec * 1000000000u + attr.ctime_nsec;
    CHECK(is_by("young") && is_by("old") && is_by("young") && open_count() == before);
    unlinkat(root_fd, "old", 0);
    CHECK(is_by("young") && visit("young") && open_count() == before + 1);
    unlinkat(root_fd, "young", 0);
    v9_fids_clear(&fids);
    CHECK(open_count() == before && v9_budget_held(fids.inodes.account) == 0);
}

TEST(inodes_of_other_mounts_unshared_or_short_of_budget_are_not_cached)
{
    const int before = open_count();
    const uint64_t mount = fids.inodes.cached_mounts[0];

    create_file("one");
    fids.inodes.cached_mounts[0] = mount + 1;
    CHECK(!visit("one") && open_count() == before);
    fids.inodes.cached_mounts[0] = 0;
    CHECK(!visit("one") && open_count() == before);
    fids.inodes.cached_mounts[0] = mount;
    fids.inodes.unshared = true;
    CHECK(!visit("one") && open_count() == before);
    fids.inodes.unshared = false;
    v9_budget_set(1, 1000);
    CHECK(!visit("one") && open_count() == before);
    v9_budget_set(UINT32_MAX, 0);
    CHECK(!visit("one") && open_count() == before + 1);
    CHECK(v9_evict_ops.evict(&fids.shrinker, 1) == 1 && open_count() == before);
}

TEST(the_cache_is_bounded_and_makes_room_for_fids)
{
    const int before = open_count();
    char name[32];

    for (int i = 0; i < V9_CACHED_MAX + 10; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        create_file(name);
        visit(name);
    }
    CHECK(fids.inodes.cached.count == V9_CACHED_MAX);
    CHECK(!visit("n3") && visit("n4000"));
    /* Fids take the place of what is cached. */
    for (uint32_t i = 0; i < fids.max; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        if (i >= V9_CACHED_MAX + 10)
            create_file(name);
        walk(name, i);
    }
    CHECK(fids.inodes.open.count == fids.max);
    v9_fids_clear(&fids);
    CHECK(open_count() == before && v9_budget_held(fids.inodes.account) == 0);
    for (uint32_t i = 0; i < fids.max; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        unlinkat(root_fd, name, 0);
    }
}

/* Names that are never met are tried no more, but for some; those that are met, all. */
TEST(names_that_are_never_found_are_seldom_looked_up)
{
    struct v9_attr attr;
    char name[32];
    int tried = 0, often = 0; /* of many names; of one in many directories */

    create_file("two");
    CHECK(v9_host_stat(root_fd, "two", &attr) == 0);
    for (int i = 0; i < 1000; i++)
        CHECK(!v9_fids_lookup_inode(&fids, 0, &attr));
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        tried += v9_inodes_worth_lookup(&fids.inodes, 0, 7, name);
        often += v9_inodes_worth_lookup(&fids.inodes, 0, (uint64_t)i, "a");
    }
    CHECK(tried > 5 && tried < 100 && often > 5 && often < 100);
    visit("two");
    for (int i = 0; i < 100; i++)
        CHECK(visit("two"));
    CHECK(v9_inodes_worth_lookup(&fids.inodes, 0, 7, "n1") &&
          !v9_inodes_worth_lookup(&fids.inodes, 1, 7, "n1"));
    v9_fids_clear(&fids);
}

/* The thread of the process ends what nobody asks for. */
TEST(the_sweeper_closes_what_nobody_asks_for)
{
    const int before = open_count();

    create_file("two");
    CHECK(v9_sweeper_start()); /* not before: what was visited has been cached for long enough */
    visit("two");
    for (int i = 0; i < 200 && open_count() > before; i++)
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    CHECK(open_count() == before && !visit("two")); /* the thread was asleep */
    for (int i = 0; i < 200 && open_count() > before; i++)
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    CHECK(open_count() == before);
}

/* ---- many threads ---------------------------------------------------------------------------- */

enum { FILES = 32, USERS = 4, TURNS = 6000 };

static bool over;

static void *use(void *seed_of)
{
    unsigned seed = *(unsigned *)seed_of;
    const uint32_t base = 100 * seed;
    struct stat st;

    v9_budget_charge(fids.inodes.account);
    for (int turn = 0; turn < TURNS; turn++) {
        const struct v9_fid_new as = {base + turn % 3, 0, 0, -1, 0, NULL, NULL};
        struct v9_attr attr;
        struct v9_fid *fid;
        char name[32];
        uint32_t inode;

        snprintf(name, sizeof(name), "s%d", rand_r(&seed) % FILES);
        step(name, &inode, &attr);
        if (!inode)
            continue; /* it is just being made anew */
        v9_fids_remove(&fids, as.number);
        CHECK(fstat(fids.inodes.entries[inode - 1].path_fd, &st) == 0 && st.st_ino == attr.st_ino);
        if (turn % 4 == 0) {
            v9_fids_release_inode(&fids, inode);
            continue;
        }
        CHECK(v9_fids_enter_inode(&fids, &as, inode, 1, NULL) == 0);
        if (v9_fids_pin(&fids, as.number, &fid))
            continue; /* unlinked while it was evicted */
        CHECK(fstat(v9_fids_inode(&fids, fid)->path_fd, &st) == 0 && st.st_ino == attr.st_ino);
        v9_fids_unpin(&fids, fid);
    }
    return NULL;
}

static void *end_all(void *unused)
{
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        v9_fids_drop_cached(&fids, 0);
        v9_evict_ops.expire(&fids.shrinker);
        v9_evict_ops.evict(&fids.shrinker, 16);
    }
    return unused;
}

/* As fid/renames.c does it for the guest's own unlinking. */
static void *recreate_files(void *unused)
{
    struct stat st;
    char name[32];

    for (int turn = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED); turn++) {
        snprintf(name, sizeof(name), "s%d", turn % FILES);
        v9_seqcount_change(&export->moves, true);
        if (fstatat(root_fd, name, &st, 0) == 0) {
            before_loss(&st);
        }
        unlinkat(root_fd, name, 0);
        v9_seqcount_change(&export->moves, false);
        create_file(name);
    }
    return unused;
}

TEST(threads_walk_while_others_unlink_and_sweep)
{
    const int before = open_count();
    pthread_t users[USERS], ender, maker;
    unsigned seeds[USERS];
    char name[32];

    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        create_file(name);
    }
    CHECK(!pthread_create(&ender, NULL, end_all, NULL));
    CHECK(!pthread_create(&maker, NULL, recreate_files, NULL));
    for (int i = 0; i < USERS; i++) {
        seeds[i] = (unsigned)i + 1;
        CHECK(!pthread_create(&users[i], NULL, use, &seeds[i]));
    }
    for (int i = 0; i < USERS; i++)
        pthread_join(users[i], NULL);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    pthread_join(ender, NULL);
    pthread_join(maker, NULL);
    v9_fids_clear(&fids);
    CHECK(fids.inodes.count == 0 && fids.inodes.open.count == 0);
    CHECK(fids.inodes.cached.count == 0 && v9_budget_held(fids.inodes.account) == 0 &&
          open_count() == before);
    CHECK(fids.inodes.cacheable[0] == 0 && fids.inodes.cacheable[1] == 0);
}
