// sources: p9/io.c p9/open.c p9/getattr.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/
// virtio/
/*
 * Opening, reading and writing files, their attributes, and clunking.
 */
#define _GNU_SOURCE
#include "p9/device.h"

enum { USERS_ROOT = 900, USER = 1000 };

static void open_file(int fid, const char *name, int flags)
{
    CHECK(walk_to(fid, name) == 0);
    CHECK(ask(P9_TLOPEN, "44", fid, flags) == 0);
}

/* What Tread or Twrite reports as its count. */
static uint32_t moved(void)
{
    return (uint32_t)reply_number(P9_HEADER_SIZE, 4);
}

/* Writes a text at an offset. */
static int write_text(int fid, int offset, const char *text)
{
    return ask(P9_TWRITE, "484d", fid, offset, (int)strlen(text), text);
}

/* ---- opening -----------------------------------------------------------------------------------
 */

TEST(only_files_and_directories_are_opened)
{
    CHECK(symlink("none", host("link")) == 0 && mkfifo(host("pipe"), 0600) == 0);
    CHECK(walk_to(1, "link") == 0 && walk_to(2, "pipe") == 0);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == -ELOOP);
    CHECK(ask(P9_TLOPEN, "44", 2, O_RDONLY) == -ENXIO);
    CHECK(ask(P9_TLOPEN, "44", ROOT, O_RDONLY) == 0);
}

TEST(a_fid_is_opened_once)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDONLY);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDWR | O_TRUNC) == -EBADF);
    CHECK(host_has("file", "text"));
}

TEST(opening_empties_a_file_where_the_client_asks_for_it)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDWR | O_TRUNC);
    CHECK(host_has("file", ""));
}

TEST(topen_knows_its_own_modes)
{
    dev.dialect = V9_9P2000U;
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TOPEN, "41", 1, 0x11) == 0); /* OWRITE | OTRUNC */
    CHECK(host_has("file", "") && write_text(1, 0, "new") == 0 && host_has("file", "new"));
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == -EBADF);
}

TEST(in_a_readonly_export_nothing_is_opened_for_writing)
{
    host_writes("file", "text");
    dev.exports[0]->conf.readonly = true;
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDWR) == -EROFS);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY | O_TRUNC) == -EROFS);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    CHECK(write_text(1, 0, "new") == -EROFS && host_has("file", "text"));
}

/* ---- reading and writing -----------------------------------------------------------------------
 */

TEST(what_was_written_is_read)
{
    host_writes("file", "some text");
    open_file(1, "file", O_RDWR);
    CHECK(write_text(1, 5, "words") == 0 && moved() == 5);
    CHECK(host_has("file", "some words"));
    CHECK(ask(P9_TREAD, "484", 1, 2, 4) == 0 && moved() == 4);
    CHECK(!memcmp(reply + P9_IO_SIZE, "me w", 4));
}

TEST(at_the_end_of_a_file_less_or_nothing_is_read)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDONLY);
    CHECK(ask(P9_TREAD, "484", 1, 2, 100) == 0 && moved() == 2);
    CHECK(ask(P9_TREAD, "484", 1, 4, 100) == 0 && moved() == 0);
}

TEST(no_reply_is_larger_than_msize)
{
    host_writes("file", "text");
    CHECK(truncate(host("file"), 2 * MSIZE) == 0);
    dev.msize = 512;
    open_file(1, "file", O_RDONLY);
    CHECK(ask(P9_TREAD, "484", 1, 0, MSIZE) == 0 && moved() == 512 - P9_IO_SIZE);
    CHECK(reply_number(0, 4) == 512);
}

TEST(a_file_that_was_opened_to_append_is_written_at_its_end)
{
    host_writes("file", "text");
    open_file(1, "file", O_WRONLY | O_APPEND);
    CHECK(write_text(1, 0, "+") == 0 && host_has("file", "text+"));
}

TEST(data_move_only_as_a_fid_was_opened)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == -EBADF && write_text(1, 0, "x") == -EBADF);
    open_file(2, "file", O_RDONLY);
    open_file(3, "file", O_WRONLY);
    CHECK(write_text(2, 0, "x") == -EBADF && ask(P9_TREAD, "484", 3, 0, 10) == -EBADF);
    CHECK(host_has("file", "text"));
}

TEST(a_write_of_more_than_its_message_has_is_refused)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDWR);
    CHECK(ask(P9_TWRITE, "484d", 1, 0, 4, "abc") == -EINVAL);
    CHECK(ask(P9_TWRITE, "484d", 1, 0, 2, "abc") == 0 && host_has("file", "abxt"));
}

TEST(an_offset_that_no_file_has_is_refused)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDWR);
    CHECK(ask(P9_TREAD, "484", 1, -1, 1) == -EINVAL);
}

TEST(a_users_write_takes_set_id_bits_away)
{
    struct stat st;

    enter_root(USERS_ROOT, USER);
    host_writes("file", "text");
    CHECK(chmod(host("file"), 06755) == 0);
    CHECK(ask(P9_TWALK, "442s", USERS_ROOT, 1, 1, "file") == 0);
    CHECK(ask(P9_TLOPEN, "44", 1, O_WRONLY) == 0);
    CHECK(stat(host("file"), &st) == 0 && (st.st_mode & 07777) == 06755);
    CHECK(write_text(1, 0, "x") == 0);
    CHECK(stat(host("file"), &st) == 0 && (st.st_mode & 07777) == 0755);
}

/* ---- what is Python's --------------------------------------------------------------------------
 */

TEST(a_fid_with_locks_is_clunked_by_python)
{
    uint64_t handle;

    host_writes("file", "text");
    open_file(1, "file", O_RDWR);
    CHECK(v9_fids_find(&dev.fids, 1, &handle) == 0);
    CHECK(v9_fids_mark(&dev.fids, handle, V9_FID_LOCKS) == 0);
    CHECK(write_text(1, 0, "x") == 0 && ask(P9_TCLUNK, "4", 1) == -V9_NOT_OURS);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == 0);
}

TEST(in_9p2000u_python_reads_directories)
{
    dev.dialect = V9_9P2000U;
    CHECK(ask(P9_TOPEN, "41", ROOT, 0) == 0);
    CHECK(ask(P9_TREAD, "484", ROOT, 0, 100) == -V9_NOT_OURS);
}

/* ---- attributes --------------------------------------------------------------------------------
 */

TEST(attributes_are_those_of_the_hosts_file)
{
    const uint32_t mode_at = P9_HEADER_SIZE + 8 + P9_QID_SIZE, size_at = mode_at + 28;

    host_writes("file", "text");
    CHECK(chmod(host("file"), 0640) == 0 && walk_to(1, "file") == 0);
    CHECK(ino_of_fid(1) == host_ino("file"));
    CHECK(reply_number(mode_at, 4) == (S_IFREG | 0640));
    CHECK(reply_number(mode_at + 4, 4) == geteuid() && reply_number(size_at, 8) == 4);
}

TEST(a_file_system_reports_its_sizes)
{
    CHECK(ask(P9_TSTATFS, "4", ROOT) == 0);
    CHECK(reply_number(P9_HEADER_SIZE + 4, 4) > 0 && reply_number(P9_HEADER_SIZE + 56, 4) == 255);
    CHECK(ask(P9_TSTATFS, "4", 77) == -EBADF);
}

TEST(a_clunked_fid_is_gone)
{
    host_writes("file", "text");
    open_file(1, "file", O_RDONLY);
    CHECK(ask(P9_TCLUNK, "4", 1) == 0 && ask(P9_TCLUNK, "4", 1) == -EBADF);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == -EBADF);
}
