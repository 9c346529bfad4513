// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c fid/renames.c
// fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * Evicting and restoring, and many threads that use fids while others give their
 * descriptors up and rename and unlink the files.
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
#include "fid/renames.h"

static char top[] = "/tmp/v9-evict-XXXXXX";
static v9_export *export, *exports[V9_EXPORTS_MAX];
static v9_qidmap *qidmap;
static struct v9_fids fids;
static int root_fd;

SET_UP()
{
    struct v9_export_conf conf = {.root_fd = -1};
    int32_t err;

    qidmap = v9_qidmap_new();
    CHECK(mkdtemp(top) != NULL);
    conf.root_fd = root_fd = open(top, O_PATH | O_CLOEXEC);
    export = exports[0] = v9_export_new(&conf, qidmap, &err);
    v9_budget_init();
    CHECK(export && v9_fids_init(&fids, 5000, v9_fid_table_map(5000), exports, &v9_evict_ops) == 0);
    v9_budget_charge(fids.inodes.account);
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

static int open_count(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void path_to(const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", top, name);
}

static void create_file(const char *name)
{
    char path[PATH_MAX];
    FILE *file;

    path_to(name, path);
    file = fopen(path, "w");
    CHECK(file && fputs(name, file) >= 0);
    fclose(file);
}

/* Enters a fid for a file, opened with `flags` (-1: not opened). */
static int enter(uint32_t number, const char *name, int flags)
{
    struct v9_fid_new as = {number, 0, 0, -1, flags, NULL, NULL};
    struct v9_found file = {-1, -1, 0, NULL};
    char path[PATH_MAX];
    struct v9_attr attr;
    int err;

    path_to(name, path);
    file.path_fd = v9_sys_reach(AT_FDCWD, path, 0);
    if (file.path_fd < 0)
        return file.path_fd;
    err = v9_attr_read(export, file.path_fd, "", &attr);
    CHECK(err == 0 || err == -V9_NO_DEVICE);
    file.attr = &attr;
    if (flags >= 0)
        as.io_fd = v9_export_open(export, file.path_fd, flags);
    err = v9_fids_enter(&fids, &as, &file, NULL);
    if (err) {
        v9_budget_close(file.path_fd);
        if (as.io_fd >= 0)
            v9_budget_close(as.io_fd);
    }
    return err;
}

/* Evicts everything that can be. */
static void evict_all(void)
{
    while (v9_evict_ops.evict(&fids.shrinker, 16))
        ;
    v9_evict_ops.evict(&fids.shrinker, 16); /* what was used lately is not any more */
    while (v9_evict_ops.evict(&fids.shrinker, 16))
        ;
}

static void age(void)
{
    nanosleep(&(struct timespec){0, 150000000}, NULL);
}

static ino_t ino_of(const char *name)
{
    char path[PATH_MAX];
    struct stat st = {0};

    path_to(name, path);
    CHECK(lstat(path, &st) == 0);
    return st.st_ino;
}

TEST(evicted_files_are_restored)
{
    const int before = open_count();
    struct v9_fid *fid;
    char data[8] = {0};
    ino_t ino;

    create_file("one");
    create_file("two");
    age();
    ino = ino_of("two");
    CHECK(enter(1, "one", O_RDWR) == 0 && enter(2, "two", -1) == 0 && enter(3, "two", -1) == 0);
    CHECK(fids.inodes.open.count == 2 && fids.open_io.count == 1);
    CHECK(v9_fids_pin(&fids, 2, &fid) == 0);
    evict_all();
    CHECK(fids.inodes.open.count == 1 &&
          v9_fids_inode(&fids, fid)->path_fd >= 0); /* pinned: it stays */
    v9_fids_unpin(&fids, fid);
    evict_all();
    CHECK(fids.inodes.open.count == 0 && fids.open_io.count == 0 && fids.inodes.recipes.count == 2);
    CHECK(open_count() == before + 1); /* the mount's */
    CHECK(v9_fids_pin(&fids, 2, &fid) == 0);
    CHECK(v9_fids_inode(&fids, fid)->st_ino == ino && v9_fids_inode(&fids, fid)->path_fd >= 0);
    CHECK(open_count() == before + 2);
    v9_fids_unpin(&fids, fid);
    CHECK(v9_fids_pin(&fids, 1, &fid) == 0);
    CHECK(pread(fid->io_fd, data, sizeof(data), 0) == 3 && !strcmp(data, "one"));
    CHECK((fcntl(fid->io_fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    CHECK(open_count() == before + 3); /* nothing is evicted: nothing keeps the mount */
    v9_fids_unpin(&fids, fid);
    evict_all();
    CHECK(enter(4, "two", -1) == 0); /* a walk brings it back too */
    CHECK(fids.inodes.count == 2 && fids.inodes.open.count == 1);
    evict_all();
    v9_fids_clear(&fids);
    CHECK(open_count() == before && v9_budget_held(fids.inodes.account) == 0);
}

TEST(roots_unlinked_and_locked_files_keep_a_descriptor)
{
    const int before = open_count();
    char path[PATH_MAX], data[8] = {0};
    struct v9_fid *fid;
    uint64_t handle;

    create_file("gone");
    create_file("locked");
    create_file("there");
    age();
    CHECK(enter(1, "", -1) == 0 && enter(2, "gone", O_RDONLY) == 0);
    CHECK(enter(3, "locked", O_RDONLY) == 0 && enter(4, "there", -1) == 0);
    CHECK(v9_fids_pin(&fids, 3, &fid) == 0);
    CHECK(v9_fids_mark(&fids, v9_fids_handle(&fids, fid), V9_FID_LOCKS) == 0);
    v9_fids_unpin(&fids, fid);
    path_to("gone", path);
    CHECK(unlink(path) == 0);
    evict_all();
    /* The root, one of the unlinked file's descriptors, the other one's of the locks. */
    CHECK(fids.inodes.open.count == 2 && fids.open_io.count == 1 && fids.inodes.recipes.count == 2);
    CHECK(v9_fids_pin(&fids, 2, &fid) == 0);
    CHECK(pread(fid->io_fd, data, sizeof(data), 0) == 4 && !strcmp(data, "gone"));
    v9_fids_unpin(&fids, fid);
    path_to("there", path);
    CHECK(unlink(path) == 0);
    create_file("there");
    CHECK(v9_fids_pin(&fids, 4, &fid) == -ESTALE);
    CHECK(v9_fids_find(&fids, 4, &handle) == 0 && v9_fids_find(&fids, 5, &handle) == -EBADF);
    CHECK(v9_fids_remove(&fids, 4) == 0);
    v9_fids_clear(&fids);
    CHECK(open_count() == before && v9_budget_held(fids.inodes.account) == 0);
}

/* A file that has been unlinked by the host while only its open descriptor was kept. */
TEST(an_open_descriptor_restores_the_inode_of_an_unlinked_file)
{
    char path[PATH_MAX], data[8] = {0};
    struct v9_fid *fid;

    create_file("open");
    age();
    CHECK(enter(1, "open", O_RDONLY) == 0);
    for (int i = 0; i < 2 && fids.inodes.open.count; i++)
        v9_evict_ops.evict(&fids.shrinker, 1);
    CHECK(fids.inodes.open.count == 0 && fids.open_io.count == 1);
    path_to("open", path);
    CHECK(unlink(path) == 0);
    CHECK(v9_fids_pin(&fids, 1, &fid) == 0);
    CHECK(pread(fid->io_fd, data, sizeof(data), 0) == 4 && v9_fids_inode(&fids, fid)->path_fd >= 0);
    v9_fids_unpin(&fids, fid);
    v9_fids_clear(&fids);
}

/* An open file that is hidden by now, and only its open descriptor was kept. */
TEST(an_open_descriptor_restores_no_hidden_file)
{
    static const struct v9_hidden_component component = {4, 1};
    static const uint16_t tokens[] = {'o', 'p', 'e', 'n'};
    static const uint8_t sets[V9_HIDDEN_SET_BYTES]; /* of none */
    const struct v9_hidden_patterns patterns = {&component, tokens, sets, 1, 4, 0};
    v9_hidden_paths *hidden = v9_hidden_paths_new(&patterns);
    struct v9_fid *fid;

    create_file("open");
    age();
    CHECK(hidden && enter(1, "open", O_RDONLY) == 0);
    for (int i = 0; i < 2 && fids.inodes.open.count; i++)
        v9_evict_ops.evict(&fids.shrinker, 1);
    CHECK(fids.inodes.open.count == 0 && fids.open_io.count == 1);
    v9_export_hide(export, hidden);
    CHECK(v9_fids_pin(&fids, 1, &fid) == -ESTALE);
    v9_export_hide(export, NULL);
    v9_fids_clear(&fids);
    v9_hidden_paths_free(hidden);
}

/* A file is read while its fid is clunked: the descriptor is the reader's until the end. */
TEST(a_clunked_fid_in_use_stays_open)
{
    const int before = open_count();
    struct v9_fid *fid;
    char data[8] = {0};

    create_file("read");
    age();
    CHECK(enter(1, "read", O_RDONLY) == 0 && v9_fids_pin(&fids, 1, &fid) == 0);
    CHECK(v9_fids_remove(&fids, 1) == 0);
    evict_all();
    CHECK(fid->io_fd >= 0 && pread(fid->io_fd, data, sizeof(data), 0) == 4);
    v9_fids_unpin(&fids, fid);
    CHECK(fids.open_io.count == 0 && open_count() == before);
}

static void *pin_and_unpin(void *unused)
{
    struct v9_fid *fid;

    CHECK(v9_fids_pin(&fids, 1, &fid) == 0);
    v9_fids_unpin(&fids, fid);
    return unused;
}

/* A thread looks for a file by its mount's anchor, and a walk brings the file back meanwhile: the
 * anchor, which has no other users then, stays until the thread is back. */
TEST(an_anchor_stays_while_it_is_used)
{
    const int before = open_count();
    char path[PATH_MAX], elsewhere[PATH_MAX];
    struct v9_anchor *anchor;
    bool out = false;
    pthread_t thread;

    create_file("here");
    age();
    CHECK(enter(1, "here", -1) == 0);
    evict_all();
    anchor =
        v9_recipes_anchor(&fids.inodes.recipes, v9_fids_inode(&fids, &fids.entries[1])->mnt_id);
    CHECK(anchor && anchor->users == 1);
    anchor->by_handle = false; /* or the file would be found at once */
    path_to("here", path);
    path_to("elsewhere", elsewhere);
    CHECK(rename(path, elsewhere) == 0);
    v9_seqcount_change(&export->moves, true); /* it is worth looking again */
    CHECK(pthread_create(&thread, NULL, pin_and_unpin, NULL) == 0);
    while (!out) {
        pthread_mutex_lock(&fids.lock);
        out = v9_fids_inode(&fids, &fids.entries[1])->restoring;
        CHECK(!out || anchor->users == 2);
        pthread_mutex_unlock(&fids.lock);
    }
    CHECK(enter(2, "elsewhere", -1) == 0);
    v9_seqcount_change(&export->moves, false);
    pthread_join(thread, NULL);
    CHECK(anchor->users == 0);
    v9_fids_clear(&fids);
    CHECK(open_count() == before);
}

/* ---- many threads ---------------------------------------------------------------------------- */

enum { FILES = 64, USERS = 4, TURNS = 4000, DIRECTORIES = 4000 /* fids */ };

static bool over;
static ino_t inos[FILES];

/* Files 0 and 1 of each 4 are opened, file 3 is renamed; each contains its name. */
static void name_of(int i, bool second, char name[32])
{
    snprintf(name, 32, "%s/f%d", second ? "away" : "here", i);
}

static void *use(void *seed_of)
{
    unsigned seed = *(unsigned *)seed_of;

    v9_budget_charge(fids.inodes.account);
    for (int turn = 0; turn < TURNS; turn++) {
        const int i = rand_r(&seed) % FILES;
        char name[32], data[32] = {0};
        struct v9_fid *fid;
        struct stat st;

        name_of(i, false, name);
        if (!CHECK(v9_fids_pin(&fids, (uint32_t)i, &fid) == 0))
            continue;
        CHECK(fstat(v9_fids_inode(&fids, fid)->path_fd, &st) == 0 && st.st_ino == inos[i]);
        if (i % 4 < 2)
            CHECK(pread(fid->io_fd, data, sizeof(data), 0) > 0 && !strcmp(data, name));
        if (turn % 5 == 0)
            v9_fids_clone(&fids, fid, (uint32_t)(1000 + i), false);
        v9_fids_unpin(&fids, fid);
        if (turn % 5 == 2)
            v9_fids_remove(&fids, (uint32_t)(1000 + i));
        if (turn % 7 == 0 && i % 4 != 3) {
            enter((uint32_t)(2000 + i), name, -1);
            v9_fids_remove(&fids, (uint32_t)(2000 + i));
        }
    }
    return NULL;
}

static void *give_up(void *unused)
{
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED))
        v9_evict_ops.evict(&fids.shrinker, 16);
    return unused;
}

/* The guest's own renames, from one directory to the other and back. */
static void *rename_all(void *unused)
{
    struct v9_fid *directories[2];
    char name[32];

    v9_budget_charge(fids.inodes.account);
    CHECK(enter(DIRECTORIES, "here", -1) == 0 && enter(DIRECTORIES + 1, "away", -1) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(v9_fids_pin(&fids, (uint32_t)(DIRECTORIES + i), &directories[i]) == 0);
    for (int turn = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED); turn++) {
        const struct v9_fid *from = directories[turn % 2], *to = directories[!(turn % 2)];
        for (int i = 3; i < FILES; i += 4) {
            snprintf(name, sizeof(name), "f%d", i);
            CHECK(v9_renames_entry(&fids, from, name, to, name) == 0);
        }
    }
    v9_fids_unpin(&fids, directories[0]);
    v9_fids_unpin(&fids, directories[1]);
    return unused;
}

TEST(threads_use_fids_while_others_evict_and_rename_files)
{
    const int before = open_count();
    pthread_t users[USERS], evictors[2], renamer;
    unsigned seeds[USERS];
    char path[PATH_MAX], name[32];

    path_to("here", path);
    CHECK(mkdir(path, 0700) == 0);
    path_to("away", path);
    CHECK(mkdir(path, 0700) == 0);
    for (int i = 0; i < FILES; i++) {
        name_of(i, false, name);
        create_file(name);
        inos[i] = ino_of(name);
    }
    age();
    for (int i = 0; i < FILES; i++) {
        name_of(i, false, name);
        CHECK(enter((uint32_t)i, name, i % 4 < 2 ? O_RDONLY : -1) == 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&evictors[i], NULL, give_up, NULL));
    CHECK(!pthread_create(&renamer, NULL, rename_all, NULL));
    for (int i = 0; i < USERS; i++) {
        seeds[i] = (unsigned)i + 1;
        CHECK(!pthread_create(&users[i], NULL, use, &seeds[i]));
    }
    for (int i = 0; i < USERS; i++)
        pthread_join(users[i], NULL);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    pthread_join(evictors[0], NULL);
    pthread_join(evictors[1], NULL);
    pthread_join(renamer, NULL);
    v9_fids_clear(&fids);
    CHECK(fids.inodes.count == 0 && fids.inodes.open.count == 0 && fids.inodes.recipes.count == 0);
    CHECK(v9_budget_held(fids.inodes.account) == 0 && open_count() == before);
}
