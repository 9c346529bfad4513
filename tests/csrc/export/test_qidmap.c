// sources: export/qidmap.c base/proc.c base/refusal.c
/*
 * The qid map: what lookups say, growth and its memory, forgetting devices, readers beside a
 * writer, and a successor that maps what a killed process has left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "export/qidmap.h"

enum { MANY = 100000 };

TEST(lookups_report_what_was_set)
{
    v9_qidmap *map = v9_qidmap_new();
    uint32_t device = 77;
    uint64_t path = 0;

    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == -V9_NO_DEVICE);
    CHECK(v9_qidmap_set_device(map, 1, 10, 3, 0) == 0);
    CHECK(v9_qidmap_set_device(map, 1, 11, 3, 0) == 0);
    CHECK(v9_qidmap_set_device(map, 2, 10, 4, V9_DEV_IDENTITY) == 0);
    CHECK(v9_qidmap_set_device(map, 3, 10, 5, V9_DEV_DENY) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 12, 5, &device, &path) == -V9_NO_DEVICE);
    CHECK(v9_qidmap_lookup(map, 1, 11, 5, &device, &path) == -V9_NO_GROUP && device == 3);
    CHECK(v9_qidmap_lookup(map, 2, 10, ~0ull, &device, &path) == 0 && device == 4);
    CHECK(path == ~0ull);
    CHECK(v9_qidmap_lookup(map, 3, 10, 5, &device, &path) == -ENODEV && device == 5);

    CHECK(v9_qidmap_add_group(map, 3, 1, 0, 1) == 0);
    CHECK(v9_qidmap_add_group(map, 3, 3, 4, 2) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0 && path == 0xb);
    CHECK(v9_qidmap_lookup(map, 1, 11, 0x8000000000000005, &device, &path) == 0 && path == 0x2a);
    CHECK(v9_qidmap_find(map, 3, 0xa000000000000005, &path) == -V9_NO_GROUP);
    CHECK(v9_qidmap_add_file(map, 3, 0xa000000000000005, 4711) == 0);
    CHECK(v9_qidmap_find(map, 3, 0xa000000000000005, &path) == 0 && path == 4711);
    CHECK(v9_qidmap_find(map, 4, 5, &path) == -V9_NO_GROUP);
    /* A device may come to stand for something else. */
    CHECK(v9_qidmap_set_device(map, 3, 10, 3, 0) == 0);
    CHECK(v9_qidmap_lookup(map, 3, 10, 5, &device, &path) == 0 && device == 3 && path == 0xb);

    CHECK(v9_qidmap_forget_devices(map) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == -V9_NO_DEVICE);
    CHECK(v9_qidmap_find(map, 3, 5, &path) == 0 && path == 0xb);
    v9_qidmap_free(map);
    v9_qidmap_free(NULL);
}

/* A thread remembers what it has found last: of this map, until something is installed. */
TEST(a_lookup_that_repeats_reports_what_is_so_now)
{
    v9_qidmap *map = v9_qidmap_new(), *other = v9_qidmap_new();
    uint32_t device;
    uint64_t path;

    CHECK(v9_qidmap_set_device(map, 1, 10, 3, 0) == 0);
    CHECK(v9_qidmap_add_group(map, 3, 1, 0, 1) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0 && path == 0xb);
    CHECK(v9_qidmap_lookup(map, 1, 10, 6, &device, &path) == 0 && path == 0xd && device == 3);
    CHECK(v9_qidmap_lookup(map, 1, 10, 1ull << 63, &device, &path) == -V9_NO_GROUP);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0 && path == 0xb);
    CHECK(v9_qidmap_lookup(map, 1, 11, 5, &device, &path) == -V9_NO_DEVICE);
    CHECK(v9_qidmap_lookup(map, 2, 10, 5, &device, &path) == -V9_NO_DEVICE);
    CHECK(v9_qidmap_lookup(other, 1, 10, 5, &device, &path) == -V9_NO_DEVICE);

    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0);
    CHECK(v9_qidmap_set_device(map, 1, 10, 4, V9_DEV_IDENTITY) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0 && path == 5 && device == 4);
    CHECK(v9_qidmap_set_device(map, 1, 10, 4, V9_DEV_DENY) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == -ENODEV);
    CHECK(v9_qidmap_set_device(map, 1, 10, 3, 0) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0 && path == 0xb);
    CHECK(v9_qidmap_forget_devices(map) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == -V9_NO_DEVICE);

    CHECK(v9_qidmap_set_device(map, 1, 10, 3, 0) == 0);
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == 0);
    v9_qidmap_free(map);
    map = v9_qidmap_new(); /* perhaps at the same address */
    CHECK(v9_qidmap_lookup(map, 1, 10, 5, &device, &path) == -V9_NO_DEVICE);
    v9_qidmap_free(map);
    v9_qidmap_free(other);
}

/* A group that fits returns the same as a lookup; one that does not fit returns nothing. */
TEST(a_kept_group_agrees_with_lookups)
{
    static const uint64_t inos[] = {
        0,    5, 0x7fffffffffffffff, 0x8000000000000005, 0x9fffffffffffffff, 0xa000000000000005,
        ~0ull};
    enum { COUNT = sizeof(inos) / sizeof(inos[0]) };
    v9_qidmap *map = v9_qidmap_new();
    struct v9_qid_group group = {0};
    uint64_t path, kept;
    uint32_t device;
    int fits = 0;

    v9_qidmap_set_device(map, 1, 10, 3, 0);
    v9_qidmap_set_device(map, 2, 10, 4, V9_DEV_IDENTITY);
    v9_qidmap_add_group(map, 3, 1, 0, 1);
    v9_qidmap_add_group(map, 3, 3, 4, 2);
    v9_qidmap_add_file(map, 3, 0xa000000000000005, 4711);
    CHECK(!v9_qid_group_fits(&group, 0));
    CHECK(v9_qidmap_near(map, 1, 10, 0xa000000000000005, &device, &path, &group) == 0);
    CHECK(path == 4711 && !group.known);
    CHECK(v9_qidmap_near(map, 1, 10, ~0ull, &device, &path, &group) == -V9_NO_GROUP);
    CHECK(!group.known);
    for (int i = 0; i < COUNT; i++) {
        group = (struct v9_qid_group){0};
        v9_qidmap_near(map, 1, 10, inos[i], &device, &path, &group);
        for (int j = 0; j < COUNT; j++) {
            if (!v9_qid_group_fits(&group, inos[j]))
                continue;
            kept = v9_qid_group_path(&group, inos[j]);
            CHECK(v9_qidmap_lookup(map, 1, 10, inos[j], &device, &path) == 0 && path == kept);
            fits++;
        }
    }
    CHECK(fits == 3 * 3 + 2 * 2);
    CHECK(v9_qidmap_near(map, 2, 10, 5, &device, &path, &group) == 0 && path == 5);
    for (int j = 0; j < COUNT; j++)
        CHECK(v9_qid_group_fits(&group, inos[j]) && v9_qid_group_path(&group, inos[j]) == inos[j]);
    v9_qidmap_free(map);
}

TEST(impossible_groups_and_devices_are_refused)
{
    v9_qidmap *map = v9_qidmap_new();
    uint64_t path;

    CHECK(v9_qidmap_set_device(map, 1, 1, 1, 4) == -EINVAL);
    CHECK(v9_qidmap_add_group(map, 1, 0, 0, 0) == -EINVAL);
    CHECK(v9_qidmap_add_group(map, 1, 64, 0, 0) == -EINVAL);
    CHECK(v9_qidmap_add_group(map, 1, 3, 8, 1) == -EINVAL);
    CHECK(v9_qidmap_add_group(map, 1, 3, 1, 8) == -EINVAL);
    CHECK(v9_qidmap_find(map, 1, 0, &path) == -V9_NO_GROUP);
    CHECK(v9_qidmap_add_group(map, 1, 63, ~0ull >> 1, ~0ull >> 1) == 0);
    CHECK(v9_qidmap_find(map, 1, ~0ull, &path) == 0 && path == ~0ull);
    v9_qidmap_free(map);
}

/* The memory file of the one map that there is. */
static int map_fd(void)
{
    char link[32], target[64] = "";

    for (int fd = 3; fd < 100; fd++) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof(target) - 1) > 0 && strstr(target, "memfd:v9_qidmap"))
            return fd;
    }
    CHECK(!"a map");
    return -1;
}

static struct stat stat_of_map(void)
{
    struct stat st = {0};
    CHECK(fstat(map_fd(), &st) == 0);
    return st;
}

static uint64_t memory_of_map(void)
{
    return (uint64_t)stat_of_map().st_blocks * 512;
}

TEST(growing_gives_its_old_memory_back)
{
    v9_qidmap *map = v9_qidmap_new();
    uint64_t path = 0, found = 0, memory = memory_of_map();

    CHECK(memory <= 65536);
    for (uint32_t i = 0; i < MANY; i++)
        CHECK(v9_qidmap_add_file(map, i % 300, i * 0x100000001ull, i) == 0);
    for (uint32_t i = 0; i < MANY; i++)
        found += v9_qidmap_find(map, i % 300, i * 0x100000001ull, &path) == 0 && path == i;
    CHECK(found == MANY);
    CHECK(v9_qidmap_find(map, 300, 0, &path) == -V9_NO_GROUP);
    /* At least a quarter full, 32 bytes each: what growing has left behind is given back. */
    CHECK(memory_of_map() <= 4ull * 32 * MANY + 65536);
    v9_qidmap_free(map);
}

TEST(devices_without_end_take_bounded_memory)
{
    v9_qidmap *map = v9_qidmap_new();
    struct stat early = {0};
    uint32_t device;
    uint64_t path;

    CHECK(v9_qidmap_add_group(map, 1, 1, 0, 1) == 0);
    for (uint64_t i = 0; i < 3 * MANY; i++) {
        CHECK(v9_qidmap_set_device(map, 1, i, 1, 0) == 0);
        CHECK(v9_qidmap_lookup(map, 1, i, 5, &device, &path) == 0 && path == 0xb);
        if (i == MANY)
            early = stat_of_map();
    }
    CHECK(v9_qidmap_lookup(map, 1, 0, 5, &device, &path) == -V9_NO_DEVICE);
    for (int i = 0; i < 100; i++) {
        CHECK(v9_qidmap_set_device(map, 1, 1, 1, 0) == 0);
        CHECK(v9_qidmap_forget_devices(map) == 0);
    }
    CHECK(v9_qidmap_forget_devices(map) == 0); /* nothing left to forget */
    CHECK(stat_of_map().st_size <= 2 * early.st_size);
    v9_qidmap_free(map);
}

/* ---- threads --------------------------------------------------------------------------------- */

static v9_qidmap *shared;
static uint32_t added;

static void *read_all(void *wrong)
{
    uint64_t path;
    uint32_t upto;

    do {
        upto = __atomic_load_n(&added, __ATOMIC_ACQUIRE);
        for (uint32_t i = upto > 100 ? upto - 100 : 0; i < upto; i++)
            *(uint64_t *)wrong += v9_qidmap_find(shared, 7, i, &path) != 0 || path != i + 1;
    } while (upto < MANY / 4);
    return NULL;
}

TEST(readers_beside_a_writer_find_whole_entries)
{
    pthread_t threads[2];
    uint64_t wrong[2] = {0};

    shared = v9_qidmap_new();
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, read_all, &wrong[i]) == 0);
    for (uint32_t i = 0; i < MANY / 4; i++) {
        CHECK(v9_qidmap_add_file(shared, 7, i, i + 1) == 0);
        __atomic_store_n(&added, i + 1, __ATOMIC_RELEASE);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(wrong[0] + wrong[1] == 0);
    v9_qidmap_free(shared);
}

/* ---- successors ------------------------------------------------------------------------------ */

/* Adds files without end and says so after each. */
static void add_and_report(v9_qidmap *map, uint32_t first, int out)
{
    for (uint32_t i = first;; i++)
        if (v9_qidmap_add_file(map, 1, i, i + 1) || v9_qidmap_set_device(map, 1, i % 50, 1, 0) ||
            (i % 64 == 0 && v9_qidmap_forget_devices(map)) ||
            write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
}

TEST(a_successor_finds_what_a_killed_process_added)
{
    v9_qidmap *map = v9_qidmap_new(), *next;
    uint32_t done = 0, last = 0, device;
    int ends[2], err, fd;
    uint64_t path = 0;
    pid_t pid;

    for (int round = 0; round < 20; round++) {
        CHECK(pipe2(ends, O_CLOEXEC) == 0);
        pid = fork();
        if (pid == 0)
            add_and_report(map, done, ends[1]);
        close(ends[1]);
        for (int i = 0; i < 1000 + round * 37; i++)
            CHECK(read(ends[0], &last, sizeof(last)) == sizeof(last));
        kill(pid, SIGKILL);
        while (read(ends[0], &last, sizeof(last)) == sizeof(last))
            ;
        CHECK(waitpid(pid, &err, 0) == pid && WIFSIGNALED(err));
        close(ends[0]);

        fd = fcntl(map_fd(), F_DUPFD_CLOEXEC, 3);
        next = v9_qidmap_attach(fd, &err);
        CHECK(next && err == 0);
        v9_qidmap_free(map);
        map = next;
        done = last + 1;
        for (uint32_t i = 0; i < done; i++)
            CHECK(v9_qidmap_find(map, 1, i, &path) == 0 && path == i + 1);
        err = v9_qidmap_lookup(map, 1, last % 50, last, &device, &path);
        CHECK(err == -V9_NO_DEVICE || (err == 0 && device == 1 && path == last + 1));
    }
    v9_qidmap_free(map);
}

TEST(rubbish_is_not_attached)
{
    const uint64_t magic = 0x3170616d64697139, tables[] = {0,
                                                           4096ull << 8 | 9,
                                                           4096ull << 8 | 34,
                                                           4096ull << 8 | 20,
                                                           4097ull << 8 | 10,
                                                           ~0ull,
                                                           1ull << 60 | 10};
    int fd = memfd_create("rubbish", MFD_CLOEXEC), err = 0;

    CHECK(v9_qidmap_attach(-1, &err) == NULL && err == -EBADF);
    CHECK(v9_qidmap_attach(fd, &err) == NULL && err == -EINVAL);
    CHECK(ftruncate(fd, 4096 + 32 * 1024) == 0);
    CHECK(v9_qidmap_attach(fd, &err) == NULL && err == -EINVAL);
    CHECK(pwrite(fd, &magic, 8, 0) == 8);
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        CHECK(pwrite(fd, &tables[i], 8, 8) == 8);
        CHECK(v9_qidmap_attach(fd, &err) == NULL && err == -EINVAL);
    }
    close(fd);
}
