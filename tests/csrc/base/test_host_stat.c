// sources: base/host_stat.c
/*
 * What the host reports about a file, by name and by descriptor.
 */
#define _GNU_SOURCE
#include "base/host_stat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

static char path[] = "/var/tmp/v9-stat-XXXXXX";
static int top;

SET_UP()
{
    CHECK(mkdtemp(path));
    top = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    close(openat(top, "file", O_CREAT | O_WRONLY, 0640));
    CHECK(symlinkat("file", top, "link") == 0);
}

TEAR_DOWN()
{
    CHECK(unlinkat(top, "file", 0) == 0 && unlinkat(top, "link", 0) == 0 && rmdir(path) == 0);
    close(top);
}

TEST(a_name_and_a_descriptor_report_the_same_file)
{
    const int fd = openat(top, "file", O_PATH);
    struct v9_attr named, held;
    struct stat st;

    CHECK(fstat(fd, &st) == 0);
    CHECK(v9_host_stat(top, "file", &named) == 0 && v9_host_stat(fd, "", &held) == 0);
    CHECK(held.st_dev == st.st_dev && held.st_ino == st.st_ino && held.mode == st.st_mode);
    CHECK(named.st_ino == held.st_ino && named.gen == held.gen && held.type == S_IFREG);
    CHECK(named.stat_fd == -1 && held.stat_fd == fd);
    close(fd);
}

TEST(a_symlink_is_not_followed)
{
    struct v9_attr attr;

    CHECK(v9_host_stat(top, "link", &attr) == 0 && S_ISLNK(attr.mode) && attr.type == S_IFLNK);
    CHECK(v9_host_stat(top, "none", &attr) == -ENOENT);
}

TEST(an_identity_distinguishes_two_files)
{
    struct v9_identity file, link;
    uint64_t nlink;
    uint32_t mode;

    CHECK(v9_host_identify(top, "link", &link, &mode, &nlink) == 0);
    CHECK(v9_host_identify(top, "file", &file, &mode, &nlink) == 0);
    CHECK(file.st_dev == link.st_dev && file.mnt_id == link.mnt_id && file.st_ino != link.st_ino);
    CHECK(mode == (S_IFREG | 0640) && nlink == 1);
}

TEST(device_numbers_have_the_kernels_encoding)
{
    CHECK(v9_host_rdev(8, 1) == 0x801);
    CHECK(v9_host_rdev(259, 0x12345) == (0x45u | 259u << 8 | 0x123u << 20));
}

TEST(two_names_are_of_one_file_or_not)
{
    CHECK(linkat(top, "file", top, "other", 0) == 0);
    CHECK(v9_host_are_one_file(top, "file", top, "other") == 1);
    CHECK(v9_host_are_one_file(top, "file", top, "link") == 0);
    CHECK(unlinkat(top, "other", 0) == 0);
    CHECK(v9_host_are_one_file(top, "file", top, "other") == 0);
    CHECK(v9_host_are_one_file(top, "other", top, "file") == -ENOENT);
}
