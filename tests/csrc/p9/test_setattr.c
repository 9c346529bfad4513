// sources: p9/setattr.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Tsetattr: its fields, by which descriptor a size is set, and what is refused. What each bit does
 * is shown by tests/p9/test_setattr.py.
 */
#define _GNU_SOURCE
#include "p9/device.h"

#include "fid/known_size.h"

enum { FILE_FID = 1, NOBODY = 65534 };

static int setattr(int fid, int valid, int mode, uint64_t size)
{
    return ask(P9_TSETATTR, "44444qqqqq", fid, valid, mode, -1, -1, size, (uint64_t)5, (uint64_t)6,
               (uint64_t)7, (uint64_t)8);
}

static struct stat status(const char *name)
{
    struct stat st = {0};

    CHECK(lstat(host(name), &st) == 0);
    return st;
}

/* A user whose rights the file's mode decides; root is asked for none. */
static void as_somebody(void)
{
    CHECK(geteuid() || seteuid(NOBODY) == 0);
}

static void as_before(void)
{
    CHECK(getuid() || seteuid(0) == 0);
}

TEST(all_fields_are_decoded)
{
    struct stat st;

    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    CHECK(setattr(FILE_FID,
                  V9_SETATTR_MODE | V9_SETATTR_SIZE | V9_SETATTR_ATIME | V9_SETATTR_ATIME_SET |
                      V9_SETATTR_MTIME | V9_SETATTR_MTIME_SET,
                  04711, 2) == 0);
    st = status("file");
    CHECK(st.st_mode == (S_IFREG | 04711) && st.st_size == 2);
    CHECK(st.st_atim.tv_sec == 5 && st.st_atim.tv_nsec == 6);
    CHECK(st.st_mtim.tv_sec == 7 && st.st_mtim.tv_nsec == 8);
    CHECK(st.st_uid == geteuid() && st.st_gid == getegid());
}

TEST(a_file_that_may_not_be_written_is_cut_by_a_fid_that_is_open_for_writing)
{
    int err;

    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    CHECK(ask(P9_TWALK, "442", FILE_FID, FILE_FID + 1, 0) == 0);
    CHECK(ask(P9_TLOPEN, "44", FILE_FID, O_RDWR) == 0 && chmod(host("file"), 0400) == 0);
    CHECK(chmod(top, 0755) == 0);
    as_somebody();
    err = setattr(FILE_FID + 1, V9_SETATTR_SIZE, 0, 2);
    CHECK(err == -EACCES && setattr(FILE_FID, V9_SETATTR_SIZE, 0, 1) == 0);
    as_before();
    CHECK(host_has("file", "t"));
}

TEST(the_client_knows_the_size_that_it_has_set_and_none_that_failed)
{
    struct v9_inode *inode;
    struct v9_known_size before;

    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    inode = v9_fids_inode(&dev.fids, &dev.fids.entries[v9_fid_table_find(&dev.fids, FILE_FID) - 1]);
    before = v9_known_size_now(inode);
    v9_known_size_reported(inode, before, 4);
    CHECK(setattr(FILE_FID, V9_SETATTR_SIZE, 0, 9) == 0);
    CHECK(v9_known_size_now(inode).size == 9 + 1 && !v9_known_size_now(inode).resizing);
    CHECK(setattr(FILE_FID, V9_SETATTR_SIZE, 0, UINT64_MAX) == -EINVAL);
    CHECK(v9_known_size_now(inode).size == 9 + 1 && !v9_known_size_now(inode).resizing);
}

TEST(what_is_invalid_or_readonly_does_not_change)
{
    host_writes("file", "text");
    CHECK(chmod(host("file"), 0600) == 0);
    CHECK(walk_to(FILE_FID, "file") == 0);
    CHECK(setattr(FILE_FID, V9_SETATTR_ALL + 1, 0777, 0) == -EINVAL);
    CHECK(ask(P9_TSETATTR, "444", FILE_FID, V9_SETATTR_MODE, 0777) == -EINVAL); /* too short */
    CHECK(setattr(FILE_FID + 1, V9_SETATTR_MODE, 0777, 0) == -EBADF);
    dev.exports[0]->conf.readonly = true;
    CHECK(setattr(FILE_FID, V9_SETATTR_MODE, 0777, 0) == -EROFS);
    CHECK(status("file").st_mode == (S_IFREG | 0600) && host_has("file", "text"));
}
