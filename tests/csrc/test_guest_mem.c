// sources: guest_mem.c
/*
 * Guest memory: what regions are refused, how addresses are translated, what happens when the
 * frontend truncates the memory, and how late writers are cut off.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "guest_mem.h"

#define PAGE 4096ull
#define GPA 0x100000ull
#define UVA 0x7f0000000000ull

static struct v9_mem mem;

static int memory_file(size_t size)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

static void test_refusals(void)
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

static void test_slots(void)
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

static void test_translation(void)
{
    int fd = three_regions();
    uint8_t byte = 0;
    uint8_t *at = v9_mem_gpa(&mem, GPA + 2 * PAGE + 5, 1);

    CHECK(at && at == v9_mem_uva(&mem, UVA + 100 * PAGE + 5, 1));
    if (at)
        *at = 99;
    CHECK(pread(fd, &byte, 1, 4 * PAGE + 5) == 1 && byte == 99);
    CHECK(v9_mem_gpa(&mem, GPA, 2 * PAGE) != NULL);
    CHECK(v9_mem_gpa(&mem, GPA, 2 * PAGE + 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA - 1, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA + 3 * PAGE, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, UINT64_MAX, 1) == NULL);
    CHECK(v9_mem_gpa(&mem, GPA + 1, UINT64_MAX) == NULL);
    CHECK(v9_mem_uva(&mem, UVA + 2 * PAGE, 1) == NULL);
    v9_mem_clear(&mem);
    close(fd);
}

static void test_segments(void)
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

static void test_truncated_memory(void)
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

static void test_cutting_off(void)
{
    struct v9_grave *graveyard = NULL;
    int fd = memory_file(2 * PAGE);
    uint8_t *late, *now;

    CHECK(v9_mem_add(&mem, GPA, 2 * PAGE, UVA, 0, fd) == 0);
    late = v9_mem_gpa(&mem, GPA, PAGE);
    late[0] = 1;
    CHECK(v9_mem_cut_off(&mem, &graveyard) == 0);
    now = v9_mem_gpa(&mem, GPA, PAGE);
    CHECK(now && now != late && now[0] == 1);
    late[0] = 9; /* goes nowhere */
    CHECK(now[0] == 1);
    CHECK(graveyard != NULL);
    v9_mem_bury(&graveyard);
    CHECK(graveyard == NULL);
    v9_mem_clear(&mem);
    close(fd);
}

int main(void)
{
    CHECK(v9_mem_init() == 0);
    test_refusals();
    test_slots();
    test_translation();
    test_segments();
    test_truncated_memory();
    test_cutting_off();
    return check_report();
}
