// sources: account.c attr.c recall.c caps.c fid.c heap.c linger.c idle.c idmap.c model.c
// model_text.c model_xattr.c node.c park.c pressure.c qidmap.c quota.c sys.c way.c
/*
 * The fid table: numbers, pins, replacement, the cap; descriptors are closed exactly once.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fid.h"

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
    const struct v9_fid_new as = {number, 1000, 0, -1, 0};
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

static void test_numbers(struct v9_fids *fids)
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
    CHECK(other && v9_fids_node(fids, other)->st_ino == 5 + (1u << 20));
    v9_fids_unpin(fids, other);
    v9_fids_clear(fids);
    CHECK(fids->count == 0 && fids->nodes.count == 0);
    CHECK(open_count() == before);
}

static void test_pins_outlive_the_number(struct v9_fids *fids)
{
    CHECK(enter(fids, 7) == 0);
    struct v9_fid *pinned = pin(fids, 7);
    CHECK(v9_fids_remove(fids, 7) == 0);
    int fd = v9_fids_node(fids, pinned)->path_fd;
    CHECK(fcntl(fd, F_GETFD) >= 0);
    v9_fids_unpin(fids, pinned);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
}

static void test_replacement(struct v9_fids *fids)
{
    int before = open_count();
    CHECK(enter(fids, 9) == 0);
    struct v9_fid *old = pin(fids, 9);
    CHECK(enter_for(fids, 9, 99, old) == 0);
    CHECK(fids->count == 1);
    struct v9_fid *now = pin(fids, 9);
    CHECK(now != old && v9_fids_node(fids, now)->st_ino == 99);
    CHECK(v9_fids_node(fids, old)->st_ino == 9);
    CHECK(enter_for(fids, 9, 9, old) == -EBADF); /* old is 9 no more */
    CHECK(v9_fids_open(fids, now, some_fd(), O_RDONLY) == 0);
    CHECK(v9_fids_open(fids, now, 1, O_RDONLY) == -EBADF);
    v9_fids_unpin(fids, old);
    v9_fids_unpin(fids, now);
    CHECK(v9_fids_remove(fids, 9) == 0);
    CHECK(open_count() == before);
}

static void test_cap(struct v9_fids *fids)
{
    for (uint32_t i = 0; i < fids->max; i++)
        CHECK(enter(fids, i) == 0);
    CHECK(enter(fids, fids->max) == -EMFILE);
    struct v9_fid *first = pin(fids, 0);
    CHECK(v9_fids_clone(fids, first, fids->max) == -EMFILE);
    CHECK(v9_fids_remove(fids, 3) == 0);
    CHECK(v9_fids_clone(fids, first, fids->max) == 0);
    v9_fids_unpin(fids, first);
    v9_fids_clear(fids);
}

/* A table that is nearly full, of numbers near and far, against a list of what is entered. */
static void test_numbers_of_all_kinds(void)
{
    enum { MAX = 1500, NUMBERS = 4000, STEPS = 60000 };
    static const uint32_t far[] = {0, 1000, 1u << 20, 0xfffff000u};
    static bool entered[NUMBERS];
    struct v9_fids fids;
    uint32_t count = 0, seed = 1;

    CHECK(v9_fids_init(&fids, MAX, NULL) == 0);
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
            err = v9_fids_clone(&fids, first, number);
            CHECK(err == (count + 1 < MAX ? 0 : -EMFILE));
            entered[i] = !err;
            count += !err;
        }
        if (fid)
            v9_fids_unpin(&fids, fid);
        CHECK(fids.count == count + 1 && fids.live == count + 1);
    }
    CHECK(count > MAX / 2 && fids.strays);
    v9_fids_unpin(&fids, first);
    v9_fids_clear(&fids);
    CHECK(!fids.count && !fids.live && !fids.strays && !fids.nodes.count);
    v9_fids_destroy(&fids);
}

static void test_fids_of_one_file_share_its_node(struct v9_fids *fids)
{
    int before = open_count();
    CHECK(enter_for(fids, 1, 77, NULL) == 0);
    CHECK(enter_for(fids, 2, 77, NULL) == 0);
    struct v9_fid *one = pin(fids, 1), *two = pin(fids, 2);
    CHECK(one != two && v9_fids_node(fids, one) == v9_fids_node(fids, two));
    CHECK(v9_fids_clone(fids, one, 3) == 0 && v9_fids_clone(fids, one, 2) == -EBADF);
    CHECK(fids->nodes.count == 1 && open_count() == before + 1);
    CHECK(v9_fids_node(fids, one)->refs == 3 && v9_fids_node(fids, one)->pins == 2);
    v9_fids_unpin(fids, one);
    v9_fids_unpin(fids, two);
    CHECK(v9_fids_remove(fids, 1) == 0 && v9_fids_remove(fids, 2) == 0);
    CHECK(open_count() == before + 1);
    CHECK(v9_fids_remove(fids, 3) == 0);
    CHECK(fids->nodes.count == 0 && open_count() == before);
}

/* What may be two files is never one node: another export, mount, device, birth or type. */
static void test_what_tells_files_apart(struct v9_fids *fids)
{
    const struct v9_attr base = {.mode = 0100644, .st_ino = 5, .has_btime = 1};
    struct v9_attr attrs[] = {base, base, base, base, base};
    attrs[1].mnt_id = 7;
    attrs[2].st_dev = 7;
    attrs[3].btime_nsec = 7;
    attrs[4].mode = 040644;
    for (uint32_t i = 0; i < 6; i++) {
        const struct v9_fid_new as = {i, 0, 0, -1, 0};
        const struct v9_found file = {some_fd(), -1, i == 5, &attrs[i % 5]};
        CHECK(v9_fids_enter(fids, &as, &file, NULL) == 0);
        CHECK(fids->nodes.count == i + 1);
    }
    v9_fids_clear(fids);
}

static void test_unshared(struct v9_fids *fids)
{
    fids->nodes.unshared = true;
    CHECK(enter_for(fids, 1, 77, NULL) == 0 && enter_for(fids, 2, 77, NULL) == 0);
    CHECK(fids->nodes.count == 2);
    fids->nodes.unshared = false;
    CHECK(enter_for(fids, 3, 77, NULL) == 0); /* nor are they found later */
    CHECK(fids->nodes.count == 3);
    v9_fids_clear(fids);
    CHECK(fids->nodes.count == 0);
}

/* A file that was changed, as by a name more and one less, is held by the latest name. */
static void test_newest_name(struct v9_fids *fids)
{
    char path[] = "/tmp/v9-fid-XXXXXX", other[40], link[64], shown[64] = {0};
    int fd = mkstemp(path);
    struct v9_attr attr = {.mode = 0100600, .st_ino = 1, .nlink = 1, .ctime_sec = 1};
    struct v9_fid_new as = {1, 0, 0, -1, 0};
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
    snprintf(link, sizeof(link), "/proc/self/fd/%d", v9_fids_node(fids, fid)->path_fd);
    CHECK(readlink(link, shown, sizeof(shown) - 1) > 0 && !strcmp(shown, path));
    v9_fids_unpin(fids, fid);
    v9_fids_clear(fids);
    close(fd);
    unlink(path);
}

int main(void)
{
    struct v9_fids fids;
    test_numbers_of_all_kinds();
    CHECK(v9_fids_init(&fids, 100, NULL) == 0);
    test_numbers(&fids);
    test_pins_outlive_the_number(&fids);
    test_replacement(&fids);
    test_cap(&fids);
    test_fids_of_one_file_share_its_node(&fids);
    test_what_tells_files_apart(&fids);
    test_unshared(&fids);
    test_newest_name(&fids);
    v9_fids_destroy(&fids);
    return check_report();
}
