// sources: fid.c
/*
 * The fid table: numbers, pins, replacement, the cap; descriptors are closed exactly once.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
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

static struct v9_fid entry(uint32_t number)
{
    const struct v9_attr attr = {.mode = 040755, .st_ino = number};
    return v9_fid_of(number, some_fd(), 1000, &attr);
}

static void test_numbers(struct v9_fids *fids)
{
    /* 5 and 5 + 2^20 share a bucket. */
    const uint32_t numbers[] = {0, 5, 5 + (1u << 20), 0xfffffffe};
    int before = open_count();

    for (int i = 0; i < 4; i++) {
        struct v9_fid fid = entry(numbers[i]);
        CHECK(v9_fids_enter(fids, &fid, NULL) == 0);
        struct v9_fid again = entry(numbers[i]);
        CHECK(v9_fids_enter(fids, &again, NULL) == -EBADF);
        close(again.path_fd);
    }
    CHECK(fids->count == 4);
    CHECK(v9_fids_remove(fids, 5) == 0);
    CHECK(v9_fids_remove(fids, 5) == -EBADF);
    CHECK(v9_fids_pin(fids, 5) == NULL);
    struct v9_fid *other = v9_fids_pin(fids, 5 + (1u << 20));
    CHECK(other && other->st_ino == 5 + (1u << 20));
    v9_fids_unpin(fids, other);
    v9_fids_clear(fids);
    CHECK(fids->count == 0);
    CHECK(open_count() == before);
}

static void test_pins_outlive_the_number(struct v9_fids *fids)
{
    struct v9_fid fid = entry(7);
    CHECK(v9_fids_enter(fids, &fid, NULL) == 0);
    struct v9_fid *pinned = v9_fids_pin(fids, 7);
    CHECK(v9_fids_remove(fids, 7) == 0);
    CHECK(fcntl(pinned->path_fd, F_GETFD) >= 0);
    int fd = pinned->path_fd;
    v9_fids_unpin(fids, pinned);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
}

static void test_replacement(struct v9_fids *fids)
{
    int before = open_count();
    struct v9_fid fid = entry(9), next = entry(9), late = entry(9);
    next.st_ino = 99;
    CHECK(v9_fids_enter(fids, &fid, NULL) == 0);
    struct v9_fid *old = v9_fids_pin(fids, 9);
    CHECK(v9_fids_enter(fids, &next, old) == 0);
    CHECK(fids->count == 1);
    struct v9_fid *now = v9_fids_pin(fids, 9);
    CHECK(now != old && now->st_ino == 99 && old->st_ino == 9);
    CHECK(v9_fids_enter(fids, &late, old) == -EBADF); /* old is 9 no more */
    close(late.path_fd);
    CHECK(v9_fids_open(fids, now, some_fd(), O_RDONLY) == 0);
    CHECK(v9_fids_open(fids, now, 1, O_RDONLY) == -EBADF);
    v9_fids_unpin(fids, old);
    v9_fids_unpin(fids, now);
    CHECK(v9_fids_remove(fids, 9) == 0);
    CHECK(open_count() == before);
}

static void test_cap(struct v9_fids *fids)
{
    for (uint32_t i = 0; i < fids->max; i++) {
        struct v9_fid fid = entry(i);
        CHECK(v9_fids_enter(fids, &fid, NULL) == 0);
    }
    struct v9_fid more = entry(fids->max);
    CHECK(v9_fids_enter(fids, &more, NULL) == -EMFILE);
    CHECK(v9_fids_remove(fids, 3) == 0);
    CHECK(v9_fids_enter(fids, &more, NULL) == 0);
}

int main(void)
{
    struct v9_fids fids;
    CHECK(v9_fids_init(&fids, 100) == 0);
    test_numbers(&fids);
    test_pins_outlive_the_number(&fids);
    test_replacement(&fids);
    test_cap(&fids);
    v9_fids_destroy(&fids);
    return check_report();
}
