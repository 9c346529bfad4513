// sources: virtio/guest_memory.c virtio/mapping.c
/*
 * Guest memory: what regions are refused, how addresses are translated, what happens when the
 * frontend truncates the memory, and how late writers are cut off.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "virtio/guest_memory.h"

#define PAGE 4096ull
#define GPA 0x100000ull
#define UVA 0x7f0000000000ull

static struct v9_mem mem;

SET_UP()
{
    CHECK(v9_mapping_init() == 0);
}

static int memory_file(size_t size)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

TEST(impossible_and_overlapping_regions_are_refused)
{
    int fd = memory_file(4 * PAGE);

    CHECK(v9_mem_add(&mem, GPA, 0, UVA, 0, fd) == -EINVAL);
    CHECK(v9_mem_add(&mem, UINT64_MAX - PAGE, 2 * PAGE, UVA, 0, fd) == -EINVAL);
    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UINT64_MAX - PAGE, 0, fd) == -EINVAL);
    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, UINT64_MAX - PAGE, fd) == -EINVAL);
    CHECK(v9_mem_add(&mem, GPA, 5 * PAGE, UVA, 0, fd) == -EINVAL); /* longer than the file */
    CHECK(v9_mem_add(&mem, GPA, 4 * PAGE, UVA, PAGE, fd) == -EINVAL);
    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, -1) < 0);
    CHECK(mem.count == 0);

    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, PAGE, fd) == 0);
    CHECK(v9_mem_add(&mem, GPA + PAGE, PAGE, UVA + 9 * PAGE, 0, fd) == -EEXIST);
    CHECK(v9_mem_add(&mem, GPA + 9 * PAGE, PAGE, UVA + PAGE, 0, fd) == -EEXIST);
    CHECK(v9_mem_remove(&mem, GPA, PAGE, UVA) == -ENOENT);
    CHECK(v9_mem_remove(&mem, GPA, 2 * PAGE, UVA) == 0);
    CHECK(mem.count == 0);
    close(fd);
}

TEST(a_table_holds_a_bounded_number_of_regions)
{
    int fd = memory_file(PAGE);

    for (uint64_t i = 0; i < V9_MEM_REGIONS; i++)
        CHECK(v9_mem_add(&mem, GPA + i * PAGE, PAGE, UVA + i * PAGE, 0, fd) == 0);
    CHECK(v9_mem_add(&mem, 0, PAGE, 0, 0, fd) == -ENOSPC);
    v9_mem_clear(&mem);
    CHECK(mem.count == 0);
    close(fd);
}

/* Two regions that touch in guest addresses, the second with an offset, and a third apart. */
static int three_regions(void)
{
    int fd = memory_file(8 * PAGE);

    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, 0, fd) == 0);
    CHECK(v9_mem_add(&mem, GPA + 2 * PAGE, PAGE, UVA + 100 * PAGE, 4 * PAGE, fd) == 0);
    CHECK(v9_mem_add(&mem, GPA + 100 * PAGE, PAGE, UVA + 50 * PAGE, 6 * PAGE, fd) == 0);
    return fd;
}

TEST(addresses_are_translated_within_their_region)
{
    int fd = three_regions();
    uint8_t byte = 0;
    uint8_t *at = v9_mem_gpa(&mem, GPA + 2 * PAGE + 5, 1), *same;
    struct v9_mapping window;

    same = v9_mem_window(&mem, UVA + 100 * PAGE + 5, 1, &window);
    if (CHECK(at && same)) {
        *at = 99;
        CHECK(*same == 99);
    }
    v9_mapping_end(&window);
    CHECK(pread(fd, &byte, 1, 4 * PAGE + 5) == 1 && byte == 99);
    CHECK(v9_mem_gpa(&mem, GPA, 2 * PAGE) != NULL);
    CHECK(v9_mem_gpa(&mem, GPA, 2 * PAGE + 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA - 1, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA + 3 * PAGE, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, UINT64_MAX, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA + 1, UINT64_MAX) == NULL);
    CHECK(v9_mem_window(&mem, UVA + 2 * PAGE, 1, &window) == NULL);
    v9_mem_clear(&mem);
    close(fd);
}

TEST(a_buffer_is_split_where_regions_meet_and_merged_elsewhere)
{
    int fd = three_regions();
    struct iovec iov[4];
    uint32_t count = 0;

    CHECK(v9_mem_iov(&mem, GPA, 100, iov, &count, 4, 0) == 0 && count == 1);
    CHECK(v9_mem_iov(&mem, GPA + 100, 50, iov, &count, 4, 0) == 0 && count == 1); /* merged */
    CHECK(iov[0].iov_len == 150);
    CHECK(v9_mem_iov(&mem, GPA + 150, 50, iov, &count, 4, 1) == 0 && count == 2); /* kept apart */
    /* Across the border of two regions, and one byte too far. */
    CHECK(v9_mem_iov(&mem, GPA + PAGE, 2 * PAGE, iov, &count, 4, 1) == 0 && count == 4);
    CHECK(v9_mem_iov(&mem, GPA + 100 * PAGE, 1, iov, &count, 4, 1) == -E2BIG && count == 4);
    count = 1;
    CHECK(v9_mem_iov(&mem, GPA + 150, 3 * PAGE, iov, &count, 4, 0) == -EFAULT && count == 1);
    CHECK(iov[0].iov_len == 150); /* a failure leaves no trace */
    v9_mem_clear(&mem);
    close(fd);
}

TEST(truncated_memory_reads_as_zeros)
{
    int fd = memory_file(4 * PAGE);
    volatile uint8_t *at;

    CHECK(v9_mem_add(&mem, GPA, 4 * PAGE, UVA, 0, fd) == 0);
    at = v9_mem_gpa(&mem, GPA, 4 * PAGE);
    at[0] = 1;
    at[3 * PAGE] = 3;
    CHECK(!mem.faulted);
    CHECK(ftruncate(fd, PAGE) == 0);
    CHECK(at[0] == 1 && !mem.faulted);
    CHECK(at[3 * PAGE] == 0); /* SIGBUS, and a zero page */
    CHECK(mem.faulted);
    at[2 * PAGE] = 2;
    CHECK(at[2 * PAGE] == 2);
    mem.faulted = false;
    v9_mem_clear(&mem);
    close(fd);
}

/* More lost pages than the process can have mappings (vm.max_map_count), each after its neighbours
 * above; then the frontend repairs its file, and the ring is started again. */
TEST(more_lost_pages_than_mappings_are_survived_and_restored)
{
    const uint64_t pages = 2 * 70000;
    int fd = memory_file(pages * PAGE);
    volatile uint8_t *at;
    bool zero = true;

    CHECK(v9_mem_add(&mem, GPA, pages * PAGE, UVA, 0, fd) == 0);
    at = v9_mem_gpa(&mem, GPA, pages * PAGE);
    at[0] = 1;
    CHECK(ftruncate(fd, PAGE) == 0);
    for (uint64_t page = pages - 2; page > 0; page -= 2) {
        zero = zero && at[page * PAGE] == 0;
        at[page * PAGE] = 1;
    }
    CHECK(zero && at[0] == 1);
    CHECK(v9_mem_lost(&mem) && !v9_mem_lost(&mem));
    CHECK(ftruncate(fd, (off_t)(pages * PAGE)) == 0);
    v9_mem_restore(&mem);
    CHECK(v9_mem_gpa(&mem, GPA, 1) == at);
    CHECK(at[0] == 1 && at[(pages - 1) * PAGE] == 0);
    CHECK(pwrite(fd, "x", 1, (off_t)((pages - 1) * PAGE)) == 1 && at[(pages - 1) * PAGE] == 'x');
    CHECK(!v9_mem_lost(&mem));
    v9_mem_clear(&mem);
    close(fd);
}

/* Only the owner of the lost page is notified. */
TEST(only_the_table_that_lost_a_page_is_marked)
{
    static struct v9_mem other;
    int fd = memory_file(PAGE), other_fd = memory_file(PAGE);
    volatile uint8_t *at;

    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == 0);
    CHECK(v9_mem_add(&other, GPA, PAGE, UVA, 0, other_fd) == 0);
    at = v9_mem_gpa(&other, GPA, PAGE);
    CHECK(ftruncate(other_fd, 0) == 0);
    CHECK(at[5] == 0 && other.faulted && !mem.faulted);
    v9_mem_clear(&other);
    v9_mem_clear(&mem);
    close(fd);
    close(other_fd);
}

static uint32_t open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    uint32_t count = 0;

    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count;
}

/* A region of odd size at an odd offset; and no descriptor is left behind. */
TEST(a_region_of_odd_size_at_an_odd_offset_is_mapped)
{
    int fd = memory_file(PAGE + 300);
    const uint32_t before = open_descriptors();
    uint8_t *at;

    CHECK(v9_mem_add(&mem, GPA, 200, UVA, PAGE + 100, fd) == 0);
    at = v9_mem_gpa(&mem, GPA, 200);
    CHECK(at && pwrite(fd, "x", 1, (off_t)PAGE + 299) == 1 && at[199] == 'x');
    CHECK(v9_mem_gpa(&mem, GPA, 201) == NULL);
    CHECK(v9_mem_add(&mem, GPA, 200, UVA, PAGE + 100, fd) == -EEXIST);
    CHECK(open_descriptors() == before + 1);
    CHECK(v9_mem_remove(&mem, GPA, 200, UVA) == 0);
    CHECK(open_descriptors() == before);
    close(fd);
}

/* The signal that ends a child. */
static int fate_of_child(void (*act)(void))
{
    const struct rlimit no_core = {0, 0};
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        alarm(60); /* where the fault is repeated for ever */
        setrlimit(RLIMIT_CORE, &no_core);
        act();
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touch_truncated_file(void)
{
    int fd = memfd_create("no guest's", MFD_CLOEXEC);
    volatile uint8_t *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    (void)*at;
}

static void send_sigbus(void)
{
    kill(getpid(), SIGBUS);
}

TEST(bus_errors_outside_guest_memory_stay_fatal)
{
    int fd = memory_file(PAGE);

    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == 0);
    CHECK(fate_of_child(touch_truncated_file) == SIGBUS);
    CHECK(fate_of_child(send_sigbus) == SIGBUS);
    v9_mem_clear(&mem);
    close(fd);
}

TEST(half_a_huge_page_is_mapped)
{
    const size_t huge = 2u << 20;
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | (21u << MFD_HUGE_SHIFT));
    void *probe = MAP_FAILED;
    volatile uint8_t *at;

    if (fd >= 0 && ftruncate(fd, (off_t)(2 * huge)) == 0)
        probe = mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (probe == MAP_FAILED)
        SKIP("no huge pages here");
    CHECK(v9_mem_add(&mem, GPA, huge + PAGE, UVA, 0, fd) == 0); /* half of the second page */
    CHECK(mem.regions[0].map.page == huge && mem.regions[0].map.len == 2 * huge);
    at = v9_mem_gpa(&mem, GPA, huge + PAGE);
    at[0] = 1;
    at[huge] = 2;
    munmap(probe, 2 * huge);
    CHECK(ftruncate(fd, (off_t)huge) == 0);
    CHECK(at[huge + 10] == 0 && mem.faulted && at[0] == 1);
    mem.faulted = false;
    v9_mem_clear(&mem);
    close(fd);
}

TEST(a_late_write_to_memory_that_was_cut_off_goes_nowhere)
{
    struct v9_retired_mapping *retired = NULL;
    int fd = memory_file(2 * PAGE);
    uint8_t *late, *now;

    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, 0, fd) == 0);
    late = v9_mem_gpa(&mem, GPA, PAGE);
    late[0] = 1;
    CHECK(v9_mem_cut_off(&mem, &retired) == 0);
    now = v9_mem_gpa(&mem, GPA, PAGE);
    CHECK(now && now != late && now[0] == 1);
    late[0] = 9; /* goes nowhere */
    CHECK(now[0] == 1);
    CHECK(retired != NULL);
    v9_mem_retire(&mem, &retired);
    CHECK(retired == NULL);
    v9_mem_clear(&mem);
    close(fd);
}

/* More often than the process can have mappings at a time: retired ones are unmapped. */
TEST(memory_can_be_cut_off_again_and_again)
{
    struct v9_retired_mapping *retired = NULL;
    int fd = memory_file(PAGE), err = 0;

    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == 0);
    for (int i = 0; i < 5000 && !err; i++) {
        err = v9_mem_cut_off(&mem, &retired);
        v9_mem_retire(&mem, &retired);
    }
    CHECK(err == 0);
    v9_mem_clear(&mem);
    close(fd);
}

/* A request hangs, and the frontend resets its device again and again. */
TEST(what_is_retired_is_bounded)
{
    struct v9_retired_mapping *retired = NULL;
    int fd = memory_file(4 * PAGE), times = 0;

    mem.limit_bytes = 4 * PAGE;
    CHECK(v9_mem_add(&mem, GPA, 4 * PAGE, UVA, 0, fd) == 0);
    while (!v9_mem_cut_off(&mem, &retired))
        times++;
    CHECK(times == 2 && mem.count == 0);
    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == -ENOMEM);
    v9_mem_retire(&mem, &retired);
    CHECK(v9_mem_add(&mem, GPA, 4 * PAGE, UVA, 0, fd) == 0);
    v9_mem_clear(&mem);
    mem.limit_bytes = 0;
    close(fd);
}

static struct {
    _Atomic(uint8_t *) at;
    atomic_bool stop;
} straggler;

static void *write_late(void *argument)
{
    (void)argument;
    while (!straggler.stop) {
        volatile uint8_t *at = straggler.at;
        at[2 * PAGE] = 1;
        at[3 * PAGE] = 1;
    }
    return NULL;
}

/* Memory that is truncated, written to, and cut off at the same time: a fault may come to the
 * handler after the page was exchanged. */
TEST(truncated_memory_can_be_cut_off_under_a_writer)
{
    struct v9_retired_mapping *retired = NULL;
    int fd = memory_file(4 * PAGE);
    pthread_t thread;

    CHECK(v9_mem_add(&mem, GPA, 4 * PAGE, UVA, 0, fd) == 0);
    CHECK(ftruncate(fd, PAGE) == 0);
    straggler.at = v9_mem_gpa(&mem, GPA, PAGE);
    CHECK(pthread_create(&thread, NULL, write_late, NULL) == 0);
    for (int i = 0; i < 1000; i++) {
        CHECK(v9_mem_cut_off(&mem, &retired) == 0);
        straggler.at = v9_mem_gpa(&mem, GPA, PAGE);
    }
    straggler.stop = true;
    pthread_join(thread, NULL);
    v9_mem_retire(&mem, &retired);
    v9_mem_clear(&mem);
    mem.faulted = false;
    close(fd);
}

/* If the regions cannot be mapped again, the addresses of late writers still stay valid; and only
 * this table lacks room. */
TEST(late_writers_are_safe_where_there_is_no_room_to_map_again)
{
    static struct v9_mem other;
    struct v9_retired_mapping *retired = NULL;
    int fd = memory_file(PAGE), err = 0;
    uint8_t *late, byte = 1;

    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == 0);
    late = v9_mem_gpa(&mem, GPA, PAGE);
    for (int i = 0; i < 3 * V9_MEM_REGIONS && !err; i++)
        err = v9_mem_cut_off(&mem, &retired);
    CHECK(err == -ENOSPC);
    CHECK(mem.count == 0 && v9_mem_gpa(&mem, GPA, 1) == NULL);
    CHECK(v9_mem_add(&other, GPA, PAGE, UVA, 0, fd) == 0);
    late[0] = 9;
    CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 0);
    v9_mem_retire(&mem, &retired);
    v9_mem_destroy(&other);
    CHECK(v9_mem_add(&mem, GPA, PAGE, UVA, 0, fd) == 0); /* there is room again */
    v9_mem_clear(&mem);
    close(fd);
}

/* Many tables, each as full as it may be. */
TEST(full_tables_take_no_room_from_others)
{
    enum { TABLES = 16 };
    static struct v9_mem many[TABLES];
    int fd = memory_file(PAGE), err = 0;

    for (int i = 0; i < TABLES; i++)
        for (uint64_t j = 0; j < V9_MEM_REGIONS && !err; j++)
            err = v9_mem_add(&many[i], j * PAGE, PAGE, j * PAGE, 0, fd);
    CHECK(err == 0);
    for (int i = 0; i < TABLES; i++)
        v9_mem_destroy(&many[i]);
    mem.limit = 3;
    for (uint64_t j = 0; j < 4; j++)
        CHECK(v9_mem_add(&mem, j * PAGE, PAGE, j * PAGE, 0, fd) == (j < 3 ? 0 : -ENOSPC));
    mem.limit = 0;
    v9_mem_clear(&mem);
    close(fd);
}

static uint8_t *forbidden;

static void touch_forbidden(void)
{
    *(volatile uint8_t *)forbidden = 1;
}

/* Accesses around a region fault: neither the rest of its file nor other mappings can be
 * reached. */
TEST(nothing_beside_a_region_can_be_touched)
{
    const int64_t beside[] = {-1, -(1 << 20), 2 * PAGE, 2 * PAGE + (1 << 20) - 1};
    int fd = memory_file(8 * PAGE);
    uint8_t *at;

    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, 4 * PAGE, fd) == 0);
    at = v9_mem_gpa(&mem, GPA, 2 * PAGE);
    at[0] = at[2 * PAGE - 1] = 1;
    for (int i = 0; i < 4; i++) {
        forbidden = at + beside[i];
        CHECK(fate_of_child(touch_forbidden) == SIGSEGV);
    }
    CHECK(ftruncate(fd, 0) == 0 && at[0] == 0); /* what comes instead ends where the region did */
    forbidden = at + 2 * PAGE;
    CHECK(fate_of_child(touch_forbidden) == SIGSEGV);
    mem.faulted = false;
    v9_mem_clear(&mem);
    close(fd);
}
