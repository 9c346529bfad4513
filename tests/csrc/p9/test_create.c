// sources: p9/create.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Tlcreate, Tmkdir, Tmknod and Tsymlink: what they make, and which names and fids they refuse.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "p9/device.h"

static int truncates; /* with this result, instead of the system call */

int ftruncate(int fd, off_t size)
{
    return truncates ? (errno = -truncates, -1) : (int)syscall(SYS_ftruncate, fd, size);
}

enum { QID_INO_AT = P9_HEADER_SIZE + 5 };

static int create(int fid, const char *name, int flags)
{
    return ask(P9_TLCREATE, "4s444", fid, name, flags, 0640, getegid());
}

static int create_directory(const char *name)
{
    return ask(P9_TMKDIR, "4s44", ROOT, name, 0750, getegid());
}

static int create_link(const char *name, const char *target)
{
    return ask(P9_TSYMLINK, "4ss4", ROOT, name, target, getegid());
}

static int create_special(const char *name, int mode)
{
    return ask(P9_TMKNOD, "4s4444", ROOT, name, mode, 0, 0, getegid());
}

static mode_t host_mode(const char *name)
{
    struct stat st;

    return lstat(host(name), &st) ? 0 : st.st_mode;
}

static void clone_root(int fid)
{
    CHECK(ask(P9_TWALK, "442", ROOT, fid, 0) == 0);
}

/* ---- creating ----------------------------------------------------------------------------------
 */

TEST(the_fid_of_the_directory_becomes_the_open_file)
{
    clone_root(1);
    CHECK(create(1, "file", O_RDWR) == 0);
    CHECK(reply_number(QID_INO_AT, 8) == host_ino("file"));
    CHECK(host_mode("file") == (S_IFREG | 0640));
    CHECK(ask(P9_TWRITE, "484d", 1, 0, 4, "text") == 0 && host_has("file", "text"));
    CHECK(ino_of_fid(1) == host_ino("file"));
}

TEST(a_file_that_is_there_is_not_created_exclusively)
{
    host_writes("file", "text");
    clone_root(1);
    CHECK(create(1, "file", O_RDWR | O_EXCL) == -EEXIST);
    CHECK(ino_of_fid(1) == host_ino("") && host_has("file", "text"));
}

TEST(a_fid_that_is_open_becomes_no_other_file)
{
    clone_root(1);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    CHECK(create(1, "file", O_RDWR) == -EBADF && !host_mode("file"));
}

TEST(every_kind_of_entry_is_made_and_its_qid_reported)
{
    CHECK(create_directory("directory") == 0);
    CHECK(host_mode("directory") == (S_IFDIR | 0750));
    CHECK(reply[P9_HEADER_SIZE] == 0x80 && reply_number(QID_INO_AT, 8) == host_ino("directory"));
    CHECK(create_link("link", "any/where") == 0 && S_ISLNK(host_mode("link")));
    CHECK(reply[P9_HEADER_SIZE] == 0x02 && reply_number(QID_INO_AT, 8) == host_ino("link"));
    CHECK(create_special("pipe", S_IFIFO | 0600) == 0 && host_mode("pipe") == (S_IFIFO | 0600));
    CHECK(reply_number(QID_INO_AT, 8) == host_ino("pipe"));
}

TEST(nothing_is_made_over_a_name_that_is_taken)
{
    host_writes("name", "text");
    CHECK(create_directory("name") == -EEXIST && create_link("name", "x") == -EEXIST);
    CHECK(create_special("name", S_IFIFO | 0600) == -EEXIST && host_has("name", "text"));
}

TEST(names_that_no_entry_can_have_are_refused)
{
    host_makes_directory("a");
    CHECK(create_directory("a/b") == -EINVAL && !host_mode("a/b"));
    CHECK(create_directory("") == -ENOENT && create_directory("..") == -EEXIST);
    clone_root(1);
    CHECK(create(1, "../outside", O_RDWR) == -EINVAL && create(1, ".", O_RDWR) == -EEXIST);
}

TEST(a_readonly_export_does_not_change)
{
    host_writes("file", "text");
    clone_root(1);
    dev.exports[0]->conf.readonly = true;
    CHECK(create(1, "new", O_RDWR) == -EROFS && create_directory("new") == -EROFS);
    CHECK(create_link("new", "x") == -EROFS && create_special("new", S_IFIFO) == -EROFS);
    CHECK(!host_mode("new") && host_has("file", "text"));
}

TEST(a_file_that_cannot_be_opened_for_lack_of_fids_keeps_its_content)
{
    int fid = 1;

    host_writes("file", "text");
    while (ask(P9_TWALK, "442", ROOT, fid, 0) == 0)
        fid++;
    CHECK(create(1, "file", O_RDWR | O_TRUNC) == -EMFILE && host_has("file", "text"));
    CHECK(ino_of_fid(1) == host_ino("") && dev.fids.live == FIDS);
    CHECK(ask(P9_TCLUNK, "4", 2) == 0);
    CHECK(create(1, "file", O_RDWR | O_TRUNC) == 0 && host_has("file", ""));
    CHECK(ino_of_fid(1) == host_ino("file") && dev.fids.live == FIDS - 1);
}

/* A truncation that fails leaves room for others. */
TEST(a_file_that_cannot_be_truncated_is_not_opened)
{
    host_writes("file", "text");
    clone_root(1);
    truncates = -EIO;
    CHECK(create(1, "file", O_RDWR | O_TRUNC) == -EIO && host_has("file", "text"));
    CHECK(ino_of_fid(1) == host_ino("") && dev.fids.live == 2);
}

/* Python's refusal comes when the file is there: what is held for the request is closed with it. */
TEST(a_request_that_fails_after_it_has_created_keeps_no_descriptor)
{
    const uint32_t before = v9_budget_held(dev.fids.inodes.account);

    refusal = -ENODEV;
    CHECK(ask(P9_TMKDIR, "4s44", ROOT, "directory", 0755, getegid()) == -ENODEV);
    CHECK(questions == 1 && request.created.path_fd == -1);
    CHECK(v9_budget_held(dev.fids.inodes.account) == before);
}
