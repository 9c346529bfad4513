// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/recipe_store.c fid/restore.c
// fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/ quota/ base/
/*
 * The fid table: numbers, pins, replacement, the cap; descriptors are closed exactly once.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/fid.h"
#include "fid/restore.h"

static struct v9_fids table, *const fids = &table;

SET_UP()
{
    CHECK(v9_fids_init(fids, 100, v9_fid_table_map(100), NULL, &v9_evict_ops) == 0);
}

TEAR_DOWN()
{
    v9_fids_destroy(fids);
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

static int some_fd(void)
{
    return open("/", O_PATH | O_CLOEXEC);
}

/* Enters a fid for a file of its own, or for that of another number. */
static int enter_for(struct v9_fids *fids, uint32_t number, uint64_t ino, struct v9_fid *instead)
{
    const struct v9_attr attr = {.mode = 040755, .st_ino = ino};
    const struct v9_fid_new as = {number, 1000, 0, -1, 0, NULL, NULL};
    const struct v9_found file = {some_fd(), -1, 0, &attr};
    int err = v9_fids_enter(fids, &as, &file, instead);

    if (err)
        close(file.path_fd);
    return err;
}

static int enter(struct v9_fids *fids, uint32_t number)
{
    return enter_for(fids, number, number, NULL);
}

static struct v9_fid *pin(struct v9_fids *fids, uint32_t number)
{
    struct v9_fid *fid;
    return v9_fids_pin(fids, number, &fid) ? NULL : fid;
}

TEST(a_number_names_one_fid_until_it_is_removed)
{
    /* 5 and 5 + 2^20 share a bucket. */
    const uint32_t numbers[] = {0, 5, 5 + (1u << 20), 0xfffffffe};
    int before = open_count();

    for (int i = 0; i < 4; i++) {
        CHECK(enter(fids, numbers[i]) == 0);
        CHECK(enter(fids, numbers[i]) == -EBADF);
    }
    CHECK(enter(fids, 0xffffffff) == -EBADF); /* NOFID */
    CHECK(fids->count == 4);
    CHECK(v9_fids_remove(fids, 5) == 0);
    CHECK(v9_fids_remove(fids, 5) == -EBADF);
    CHECK(pin(fids, 5) == NULL);
    struct v9_fid *other = pin(fids, 5 + (1u << 20));
    CHECK(other && v9_fids_inode(fids, other)->st_ino == 5 + (1u << 20));
    v9_fids_unpin(fids, other);
    v9_fids_clear(fids);
    CHECK(fids->count == 0 && fids->inodes.count == 0);
    CHECK(open_count() == before);
}

TEST(a_pinned_fid_outlives_its_number)
{
    CHECK(enter(fids, 7) == 0);
    struct v9_fid *pinned = pin(fids, 7);
    CHECK(v9_fids_remove(fids, 7) == 0);
    int fd = v9_fids_inode(fids, pinned)->path_fd;
    CHECK(fcntl(fd, F_GETFD) >= 0);
    v9_fids_unpin(fids, pinned);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
}

TEST(a_number_can_move_to_another_file)
{
    int before = open_count();
    CHECK(enter(fids, 9) == 0);
    struct v9_fid *old = pin(fids, 9);
    CHECK(enter_for(fids, 9, 99, old) == 0);
    CHECK(fids->count == 1);
    struct v9_fid *now = pin(fids, 9);
    CHECK(now != old && v9_fids_inode(fids, now)->st_ino == 99);
    CHECK(v9_fids_inode(fids, old)->st_ino == 9);
    CHECK(enter_for(fids, 9, 9, old) == -EBADF); /* old is 9 no more */
    CHECK(v9_fids_open(fids, now, some_fd(), O_RDONLY) == 0);
    CHECK(v9_fids_open(fids, now, 1, O_RDONLY) == -EBADF);
    v9_fids_unpin(fids, old);
    v9_fids_unpin(fids, now);
    CHECK(v9_fids_remove(fids, 9) == 0);
    CHECK(open_count() == before);
}

TEST(a_full_table_refuses_more)
{
    for (uint32_t i = 0; i < fids->max; i++)
        CHECK(enter(fids, i) == 0);
    CHECK(enter(fids, fids->max) == -EMFILE);
    struct v9_fid *first = pin(fids, 0);
    CHECK(v9_fids_clone(fids, first, fids->max, false) == -EMFILE);
    CHECK(v9_fids_remove(fids, 3) == 0);
    CHECK(v9_fids_clone(fids, first, fids->max, false) == 0);
    v9_fids_unpin(fids, first);
    v9_fids_clear(fids);
}

/* A table that is nearly full, of numbers near and far, against a list of what is entered. */
TEST(a_nearly_full_table_finds_what_is_in_it)
{
    enum { MAX = 1500, NUMBERS = 4000, STEPS = 60000 };
    static const uint32_t far[] = {0, 1000, 1u << 20, 0xfffff000u};
    static bool entered[NUMBERS];
    struct v9_fids fids;
    uint32_t count = 0, seed = 1;

    CHECK(v9_fids_init(&fids, MAX, v9_fid_table_map(MAX), NULL, &v9_evict_ops) == 0);
    CHECK(enter(&fids, 7) == 0);
    struct v9_fid *first = pin(&fids, 7);
    for (int step = 0; step < STEPS; step++) {
        uint32_t i = (seed = seed * 1103515245u + 12345u) / 65536 % NUMBERS;
        uint32_t number = 10 + far[i % 4] + i / 4;
        struct v9_fid *fid = pin(&fids, number);
        int err;
        CHECK((fid != NULL) == entered[i] && (!fid || fid->number == number));
        if (fid && step % 3 == 0) { /* another entry for the same number */
            err = enter_for(&fids, number, 1, fid);
            CHECK(err == (count + 1 < MAX ? 0 : -EMFILE));
        } else if (fid) {
            CHECK(v9_fids_remove(&fids, number) == 0);
            CHECK(v9_fids_remove(&fids, number) == -EBADF);
            entered[i] = false;
            count--;
        } else {
            err = v9_fids_clone(&fids, first, number, false);
            CHECK(err == (count + 1 < MAX ? 0 : -EMFILE));
            entered[i] = !err;
            count += !err;
        }
        if (fid)
            v9_fids_unpin(&fids, fid);
        CHECK(fids.count == count + 1 && fids.live == count + 1);
    }
    CHECK(count > MAX / 2 && fids.strays.count);
    v9_fids_unpin(&fids, first);
    v9_fids_clear(&fids);
    CHECK(!fids.count && !fids.live && !fids.strays.count && !fids.inodes.count);
    v9_fids_destroy(&fids);
}

TEST(fids_of_one_file_share_its_inode)
{
    int before = open_count();
    CHECK(enter_for(fids, 1, 77, NULL) == 0);
    CHECK(enter_for(fids, 2, 77, NULL) == 0);
    struct v9_fid *one = pin(fids, 1), *two = pin(fids, 2);
    CHECK(one != two && v9_fids_inode(fids, one) == v9_fids_inode(fids, two));
    CHECK(v9_fids_clone(fids, one, 3, false) == 0 && v9_fids_clone(fids, one, 2, false) == -EBADF);
    CHECK(fids->inodes.count == 1 && open_count() == before + 1);
    CHECK(v9_fids_inode(fids, one)->refs == 3 && v9_fids_inode(fids, one)->pins == 2);
    v9_fids_unpin(fids, one);
    v9_fids_unpin(fids, two);
    CHECK(v9_fids_remove(fids, 1) == 0 && v9_fids_remove(fids, 2) == 0);
    CHECK(open_count() == before + 1);
    CHECK(v9_fids_remove(fids, 3) == 0);
    CHECK(fids->inodes.count == 0 && open_count() == before);
}

/* What may be two files is never one inode: another export, mount, device, birth or type. */
TEST(what_may_be_two_files_is_never_one_inode)
{
    const struct v9_attr base = {.mode = 0100644, .st_ino = 5, .has_btime = 1};
    struct v9_attr attrs[] = {base, base, base, base, base};
    attrs[1].mnt_id = 7;
    attrs[2].st_dev = 7;
    attrs[3].btime_nsec = 7;
    attrs[4].mode = 040644;
    for (uint32_t i = 0; i < 6; i++) {
        const struct v9_fid_new as = {i, 0, 0, -1, 0, NULL, NULL};
        const struct v9_found file = {some_fd(), -1, i == 5, &attrs[i % 5]};
        CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
        CHECK(fids->inodes.count == i + 1);
    }
    v9_fids_clear(fids);
}

TEST(unshared_fids_have_an_inode_each)
{
    fids->inodes.unshared = true;
    CHECK(enter_for(fids, 1, 77, NULL) == 0 && enter_for(fids, 2, 77, NULL) == 0);
    CHECK(fids->inodes.count == 2);
    fids->inodes.unshared = false;
    CHECK(enter_for(fids, 3, 77, NULL) == 0); /* nor are they found later */
    CHECK(fids->inodes.count == 3);
    v9_fids_clear(fids);
    CHECK(fids->inodes.count == 0);
}

/* A file that was changed, as by a name more and one less, is held by the latest name. */
TEST(a_file_is_held_by_its_newest_name)
{
    char path[] = "/tmp/v9-fid-XXXXXX", other[40], link[64], shown[64] = {0};
    int fd = mkstemp(path);
    struct v9_attr attr = {.mode = 0100600, .st_ino = 1, .nlink = 1, .ctime_sec = 1};
    struct v9_fid_new as = {1, 0, 0, -1, 0, NULL, NULL};
    struct v9_found file = {open(path, O_PATH), -1, 0, &attr};

    CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
    snprintf(other, sizeof(other), "%s-2", path);
    CHECK(rename(path, other) == 0);
    CHECK(linkat(AT_FDCWD, other, AT_FDCWD, path, 0) == 0 && unlink(other) == 0);
    attr.ctime_nsec = 1;
    as.number = 2;
    file.path_fd = open(path, O_PATH);
    CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
    struct v9_fid *fid = pin(fids, 1);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", v9_fids_inode(fids, fid)->path_fd);
    CHECK(readlink(link, shown, sizeof(shown) - 1) > 0 && !strcmp(shown, path));
    v9_fids_unpin(fids, fid);
    v9_fids_clear(fids);
    close(fd);
    unlink(path);
}

/* A file counts as known to be openable only where its own descriptor told it. */
TEST(only_its_own_descriptor_shows_that_a_file_is_openable)
{
    const int fd = some_fd();
    const struct {
        uint32_t type;
        int stat_fd;
        bool openable;
    } cases[] = {
        {040000, fd, true},  {0100000, fd, true},     {010000, fd, false},
        {040000, -1, false}, {040000, fd + 1, false}, {0, fd, false},
    };

    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct v9_attr attr = {
            .mode = 040755, .st_ino = 1, .type = cases[i].type, .stat_fd = cases[i].stat_fd};
        const struct v9_fid_new as = {1, 0, 0, -1, 0, NULL, NULL};
        const struct v9_found file = {fd, -1, 0, &attr};
        CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
        struct v9_fid *fid = pin(fids, 1);
        CHECK(v9_fids_inode(fids, fid)->openable == cases[i].openable);
        v9_fids_unpin(fids, fid);
        v9_fids_clear(fids);
        CHECK(some_fd() == fd); /* it was closed */
    }
    close(fd);
}

static void *clear(void *fids)
{
    CHECK(v9_fids_clear(fids) == 0);
    return NULL;
}

/* A request that began before a session and hung beyond its begin leaves nothing in it. */
TEST(a_request_from_before_a_session_enters_nothing_in_it)
{
    pthread_t other;

    v9_fids_begin_request(fids, NULL);
    CHECK(enter(fids, 1) == 0);
    struct v9_fid *fid = pin(fids, 1);
    CHECK(pthread_create(&other, NULL, clear, fids) == 0 && !pthread_join(other, NULL));
    CHECK(fids->count == 0 && v9_fids_clear(fids) == -ESTALE);
    CHECK(enter(fids, 2) == -EBADF);
    CHECK(v9_fids_clone(fids, fid, 3, false) == -EBADF);
    v9_fids_unpin(fids, fid);
    v9_fids_begin_request(fids, NULL);
    CHECK(enter(fids, 2) == 0);
    CHECK(v9_fids_clear(fids) == 0);
    CHECK(enter(fids, 2) == 0 && v9_fids_clear(fids) == 0);
}

static uint64_t handle_of(struct v9_fids *fids, uint32_t number)
{
    uint64_t handle = UINT64_MAX;

    CHECK(v9_fids_find(fids, number, &handle) == 0);
    return handle;
}

/* What one thread has looked at and another changes before it acts: the first is refused. */
TEST(a_stale_handle_is_refused)
{
    uint64_t handle;

    CHECK(enter(fids, 1) == 0);
    handle = handle_of(fids, 1);
    CHECK(v9_fids_remove(fids, 1) == 0);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == -EBADF);
    CHECK(enter(fids, 1) == 0); /* in the same place, with the same number */
    CHECK((uint32_t)handle_of(fids, 1) == (uint32_t)handle && handle_of(fids, 1) != handle);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == -EBADF);
    CHECK(v9_fids_remove_handle(fids, handle) == -EBADF);
    handle = handle_of(fids, 1);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == -EBADF); /* it is not open */
    struct v9_fid *pinned = pin(fids, 1);
    CHECK(v9_fids_set_value(fids, pinned, v9_xattr_value_announce(&fids->values, "user.a", 1, 0)) ==
          0);
    CHECK(v9_fid_flags(pinned) == V9_FID_XATTR);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == -EBADF);
    CHECK(v9_fids_open(fids, pinned, 1, O_RDONLY) == -EBADF);
    CHECK(enter_for(fids, 1, 2, pinned) == -EBADF); /* nor does it become another file's */
    CHECK(v9_fids_remove(fids, 1) == -EBUSY);
    CHECK(v9_fids_remove_handle(fids, handle) == 0);
    CHECK(v9_fids_remove_handle(fids, handle) == -EBADF && v9_fids_remove(fids, 1) == -EBADF);
    v9_fids_unpin(fids, pinned);
}

/* Gives fid 1 a value, writes it and ends the fid, while another thread does the same. */
static void *use_values(void *of)
{
    struct v9_fids *fids = of;

    for (int i = 0; i < 3000; i++) {
        struct v9_xattr_value *value = v9_xattr_value_announce(&fids->values, "user.a", 1, 0);
        struct v9_fid *pinned;

        enter(fids, 1);
        pinned = pin(fids, 1);
        if (!pinned || v9_fids_set_value(fids, pinned, value))
            v9_xattr_value_free(value);
        if (pinned && v9_fid_flags(pinned) & V9_FID_XATTR)
            v9_xattr_value_append(pinned->value, 0, "x", 1);
        if (pinned) {
            v9_fids_remove_handle(fids, v9_fids_handle(fids, pinned));
            v9_fids_unpin(fids, pinned);
        }
    }
    return NULL;
}

TEST(a_value_goes_with_the_last_user_of_its_fid)
{
    pthread_t other;

    CHECK(pthread_create(&other, NULL, use_values, fids) == 0);
    use_values(fids);
    pthread_join(other, NULL);
    CHECK(fids->live == 0 && !fids->values.count && !fids->values.bytes);
}

TEST(an_open_or_locked_fid_becomes_nothing_else)
{
    struct v9_xattr_value *value = v9_xattr_value_announce(&fids->values, "user.a", 1, 0);
    uint64_t handle;

    CHECK(enter(fids, 1) == 0);
    struct v9_fid *pinned = pin(fids, 1);
    CHECK(v9_fids_open(fids, pinned, some_fd(), O_RDONLY) == 0);
    handle = handle_of(fids, 1);
    CHECK(enter_for(fids, 1, 2, pinned) == -EBADF);
    CHECK(v9_fids_set_value(fids, pinned, value) == -EBADF);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == 0);
    CHECK(v9_fids_mark(fids, handle, V9_FID_LOCKS) == 0);
    CHECK(v9_fids_set_value(fids, pinned, value) == -EBADF);
    CHECK(v9_fids_remove(fids, 1) == -EBUSY && v9_fids_remove_handle(fids, handle) == 0);
    v9_fids_unpin(fids, pinned);
    v9_xattr_value_free(value);
    CHECK(fids->count == 0 && fids->live == 0);
}

/* ---- sizes that take hours where a step costs more the more there is ------------------------- */

enum { MANY = 400000, NO_FILE = 1 << 30 /* a descriptor that nobody has */ };

static void enter_many(struct v9_fids *fids, uint32_t count, uint32_t stride, uint64_t ino)
{
    const struct v9_attr attr = {.mode = 0100644, .st_ino = ino};
    const struct v9_found file = {NO_FILE, -1, 0, &attr};

    for (uint32_t i = 0; i < count; i++) {
        const struct v9_fid_new as = {i * stride, 0, 0, -1, 0, NULL, NULL};
        CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
    }
}

/* As a guest has them that speaks 9P2000.u. */
TEST(hundreds_of_thousands_of_unshared_inodes_of_one_file_come_and_go)
{
    struct v9_fids fids;
    struct v9_fid *fid;

    CHECK(v9_fids_init(&fids, MANY, v9_fid_table_map(MANY), NULL, &v9_evict_ops) == 0);
    fids.inodes.unshared = true;
    for (int round = 0; round < 2; round++) {
        enter_many(&fids, MANY, 1, 77);
        CHECK(fids.inodes.count == MANY);
        for (uint32_t i = 0; i < MANY; i += 2)
            CHECK(v9_fids_remove(&fids, i) == 0);
        CHECK(v9_fids_pin(&fids, 1, &fid) == 0);
        pthread_mutex_lock(&fids.lock);
        v9_restore_before_loss(&fids, 0, 77); /* of which none is evicted or cached */
        pthread_mutex_unlock(&fids.lock);
        v9_fids_unpin(&fids, fid);
        v9_fids_clear(&fids);
        CHECK(!fids.inodes.count && !fids.live);
    }
    v9_fids_destroy(&fids);
}

/* Numbers that a guest chose to fall into one bucket, by any of the masks that there are. */
TEST(numbers_chosen_to_collide_are_spread_over_the_buckets)
{
    enum { BUCKETS = 1 << 16 };
    struct v9_fids fids;
    struct v9_fid *fid;
    uint32_t longest = 0, here;

    CHECK(v9_fids_init(&fids, BUCKETS, v9_fid_table_map(BUCKETS), NULL, &v9_evict_ops) == 0);
    enter_many(&fids, BUCKETS - 1, BUCKETS, 77);
    CHECK(fids.strays.count == BUCKETS - 2); /* 0 is at home */
    for (uint32_t bucket = 0; bucket < fids.strays.used; bucket++) {
        here = 0;
        for (uint32_t i = fids.strays.heads[bucket]; i; i = fids.entries[i - 1].link.next)
            here++;
        longest = here > longest ? here : longest;
    }
    CHECK(longest < 64);
    for (uint32_t i = 1; i < BUCKETS - 1; i++) {
        CHECK(v9_fids_pin(&fids, i * BUCKETS, &fid) == 0);
        v9_fids_unpin(&fids, fid);
    }
    v9_fids_clear(&fids);
    CHECK(!fids.strays.count && !fids.live);
    v9_fids_destroy(&fids);
}

/* To begin a session costs what the last one entered, not what any ever did. */
TEST(an_emptied_table_forgets_its_size)
{
    struct v9_fids fids;

    CHECK(v9_fids_init(&fids, MANY, v9_fid_table_map(MANY), NULL, &v9_evict_ops) == 0);
    enter_many(&fids, MANY - 1, 1, 77);
    v9_fids_clear(&fids);
    for (int session = 0; session < 20000; session++) {
        CHECK(enter_for(&fids, 0, 1, NULL) == 0 && enter_for(&fids, 1u << 30, 2, NULL) == 0);
        CHECK(fids.homes == 1 && fids.unused == MANY - 1);
        v9_fids_clear(&fids);
    }
    enter_many(&fids, MANY, 3, 77); /* strays that were listed, and homes: all can be had again */
    CHECK(fids.live == MANY);
    v9_fids_clear(&fids);
    v9_fids_destroy(&fids);
}
