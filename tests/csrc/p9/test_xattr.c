// sources: p9/xattr.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Extended attributes over fids: reading, listing, writing, removing, their bounds, and fids that
 * end in all ways. Rules, limits and ids are tests/csrc/fs/test_xattr.c's.
 */
#define _GNU_SOURCE
#include "p9/device.h"

#include <linux/limits.h>
#include <sys/xattr.h>

enum { FILE_FID = 1, NEW_FID = 2, OTHER_FID = 3 };

static int walk_attribute(int fid, const char *name)
{
    return ask(P9_TXATTRWALK, "44s", fid, NEW_FID, name);
}

static uint64_t reported_size(void)
{
    return reply_number(P9_HEADER_SIZE, 8);
}

static int create_attribute(int fid, const char *name, uint64_t size, int flags)
{
    return ask(P9_TXATTRCREATE, "4sq4", fid, name, size, flags);
}

static int write_piece(int fid, uint64_t offset, const char *text)
{
    return ask(P9_TWRITE, "4q4d", fid, offset, (int)strlen(text), text);
}

static int clunk(int fid)
{
    return ask(P9_TCLUNK, "4", fid);
}

/* Reads a piece; its size, or -errno. */
static int read_piece(int fid, uint64_t offset, uint32_t count)
{
    const int err = ask(P9_TREAD, "4q4", fid, offset, (int)count);

    return err ? err : (int)reply_number(P9_HEADER_SIZE, 4);
}

static bool reads(uint64_t offset, uint32_t count, const char *text)
{
    const int size = read_piece(NEW_FID, offset, count);

    return size == (int)strlen(text) && !memcmp(reply + P9_IO_SIZE, text, (size_t)size);
}

/* setxattr(2), as Linux's client sends it. */
static int set(const char *name, const char *text, int flags)
{
    int err = walk_to(OTHER_FID, "file");

    if (!err)
        err = create_attribute(OTHER_FID, name, strlen(text), flags);
    if (!err && *text)
        err = write_piece(OTHER_FID, 0, text);
    if (err) {
        clunk(OTHER_FID);
        return err;
    }
    err = clunk(OTHER_FID);
    CHECK(clunk(OTHER_FID) == -EBADF);
    return err;
}

static ssize_t size_on_host(const char *name)
{
    const ssize_t size = getxattr(host("file"), name, NULL, 0);
    return size < 0 ? -errno : size;
}

/* A file with a fid; whether its file system keeps attributes. */
static bool file_has_attributes(void)
{
    bool has;

    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    has = setxattr(host("file"), "user.probe", "", 0, 0) == 0;
    if (has)
        CHECK(removexattr(host("file"), "user.probe") == 0);
    return has;
}

/* Nothing is counted for a fid that is gone. */
static bool no_values_are_left(void)
{
    return !dev.fids.values.count && !dev.fids.values.bytes;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

TEST(an_attribute_that_is_not_there_makes_no_fid)
{
    file_has_attributes();
    CHECK(walk_attribute(FILE_FID, "user.none") == -ENODATA);
    CHECK(walk_attribute(FILE_FID, "nowhere") == -EOPNOTSUPP);
    CHECK(walk_attribute(OTHER_FID, "user.none") == -EBADF);
    CHECK(clunk(NEW_FID) == -EBADF && no_values_are_left());
}

TEST(a_value_is_read_in_pieces)
{
    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(setxattr(host("file"), "user.a", "0123456789", 10, 0) == 0);
    CHECK(walk_attribute(FILE_FID, "user.a") == 0 && reported_size() == 10);
    CHECK(reads(0, 100, "0123456789") && reads(3, 4, "3456") && reads(9, 4, "9"));
    CHECK(reads(0, 0, "") && reads(10, 4, "") && reads(11, UINT32_MAX, ""));
    CHECK(reads(INT64_MAX, 1, "") && read_piece(NEW_FID, 1ull << 63, 1) == -EINVAL);
    CHECK(removexattr(host("file"), "user.a") == 0 && reads(0, 2, "01"));
    CHECK(clunk(NEW_FID) == 0 && clunk(NEW_FID) == -EBADF && no_values_are_left());
}

TEST(a_long_value_is_read_in_pieces_that_fit)
{
    char value[3000];

    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    memset(value, 'v', sizeof(value));
    CHECK(setxattr(host("file"), "user.a", value, sizeof(value), 0) == 0);
    CHECK(walk_attribute(FILE_FID, "user.a") == 0 && reported_size() == 3000);
    dev.msize = 1000;
    CHECK(read_piece(NEW_FID, 0, UINT32_MAX) == 1000 - P9_IO_SIZE);
    reply_room = 500;
    CHECK(read_piece(NEW_FID, 0, 900) == 500 - P9_IO_SIZE);
    reply_room = P9_IO_SIZE;
    CHECK(read_piece(NEW_FID, 0, 900) == 0);
    reply_room = MSIZE;
    dev.msize = MSIZE;
    CHECK(read_piece(NEW_FID, 0, MSIZE) == 3000 && !memcmp(reply + P9_IO_SIZE, value, 3000));
    CHECK(read_piece(NEW_FID, 2990, MSIZE) == 10);
}

TEST(an_empty_value_is_a_value)
{
    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(setxattr(host("file"), "user.a", "", 0, 0) == 0);
    CHECK(walk_attribute(FILE_FID, "user.a") == 0 && reported_size() == 0 && reads(0, 10, ""));
}

TEST(an_empty_name_lists_the_names)
{
    char name[32];

    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(walk_attribute(FILE_FID, "") == 0 && reported_size() == 0);
    CHECK(reads(0, 100, "") && clunk(NEW_FID) == 0);
    CHECK(setxattr(host("file"), "user.a", "v", 1, 0) == 0);
    CHECK(walk_attribute(FILE_FID, "") == 0 && reported_size() == 7);
    CHECK(read_piece(NEW_FID, 0, 100) == 7 && !memcmp(reply + P9_IO_SIZE, "user.a", 7));
    CHECK(clunk(NEW_FID) == 0);
    for (int i = 0; i < 60; i++) { /* more than are read at once */
        snprintf(name, sizeof(name), "user.number.%d", i + 10);
        CHECK(setxattr(host("file"), name, "", 0, 0) == 0);
    }
    CHECK(walk_attribute(FILE_FID, "") == 0 && reported_size() == 7 + 60 * 15);
}

TEST(names_are_translated)
{
    static const struct v9_xattr_rule rules[] = {{"security.", "user.guest.", V9_XATTR_STORE},
                                                 {"hidden.", "", V9_XATTR_HIDE},
                                                 {"refused.", "", V9_XATTR_REFUSE}};
    v9_xattr_names *names = v9_xattr_names_new(rules, 3);

    v9_export_set_xattr_names(dev.exports[0], names);
    if (file_has_attributes()) {
        CHECK(set("security.a", "value", 0) == 0 && size_on_host("user.guest.a") == 5);
        CHECK(walk_attribute(FILE_FID, "security.a") == 0 && reads(0, 10, "value"));
        CHECK(clunk(NEW_FID) == 0 && walk_attribute(FILE_FID, "") == 0 && reported_size() == 11);
        CHECK(clunk(NEW_FID) == 0);
    }
    CHECK(walk_attribute(FILE_FID, "security.b") == -ENODATA);
    CHECK(walk_attribute(FILE_FID, "hidden.a") == -EOPNOTSUPP);
    CHECK(walk_attribute(FILE_FID, "refused.a") == -ENODATA);
    CHECK(set("refused.a", "v", 0) == -EPERM && set("hidden.a", "v", 0) == -EOPNOTSUPP);
    v9_export_set_xattr_names(dev.exports[0], NULL);
    v9_xattr_names_free(names);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

TEST(a_value_is_set_by_the_clunk)
{
    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(create_attribute(FILE_FID, "user.a", 5, 0) == 0);
    CHECK(write_piece(FILE_FID, 0, "012") == 0 && reply_number(P9_HEADER_SIZE, 4) == 3);
    CHECK(write_piece(FILE_FID, 3, "34") == 0 && size_on_host("user.a") == -ENODATA);
    CHECK(clunk(FILE_FID) == 0 && size_on_host("user.a") == 5 && no_values_are_left());
    CHECK(clunk(FILE_FID) == -EBADF);
}

TEST(an_empty_value_is_no_removal)
{
    static const int flags[] = {0, XATTR_CREATE};

    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    for (int i = 0; i < 2; i++) {
        CHECK(set("user.a", "", flags[i]) == 0 && size_on_host("user.a") == 0);
        CHECK(set("user.a", "", XATTR_REPLACE) == 0 && size_on_host("user.a") == -ENODATA);
    }
}

TEST(the_clunks_error_is_the_result)
{
    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(set("user.a", "1", XATTR_CREATE) == 0 && set("user.a", "2", XATTR_CREATE) == -EEXIST);
    CHECK(set("user.a", "3", XATTR_REPLACE) == 0 && size_on_host("user.a") == 1);
    CHECK(set("user.b", "4", XATTR_REPLACE) == -ENODATA);
    CHECK(set("user.b", "", XATTR_REPLACE) == -ENODATA && set("nonsense", "5", 0) == -EOPNOTSUPP);
    CHECK(no_values_are_left());
}

TEST(values_are_written_from_front_to_back)
{
    file_has_attributes();
    CHECK(create_attribute(FILE_FID, "user.a", 5, 0) == 0);
    CHECK(write_piece(FILE_FID, 1, "x") == -EINVAL && write_piece(FILE_FID, 0, "abc") == 0);
    CHECK(write_piece(FILE_FID, 0, "abc") == -EINVAL && write_piece(FILE_FID, 3, "def") == -ENOSPC);
    CHECK(write_piece(FILE_FID, 1ull << 63, "") == -EINVAL);
    CHECK(ask(P9_TWRITE, "4q4d", FILE_FID, 3ull, 9, "x") == -EINVAL); /* fewer bytes than it says */
    CHECK(read_piece(FILE_FID, 0, 5) == -EBADF);
    CHECK(clunk(FILE_FID) == -EINVAL); /* 3 of 5 bytes */
    CHECK(size_on_host("user.a") < 0 && clunk(FILE_FID) == -EBADF && no_values_are_left());
}

/* ---- what is refused --------------------------------------------------------------------------
 */

/* Both requests with a name of these bytes. */
static int refusal_of(const char *name, size_t size)
{
    const int walked = ask(P9_TXATTRWALK, "442", FILE_FID, NEW_FID, (int)size);
    int created;

    CHECK(walked == -EINVAL); /* it is cut off */
    v9_put(v9_put(v9_put(message + P9_HEADER_SIZE, FILE_FID, 4), NEW_FID, 4), size, 2);
    memcpy(message + P9_HEADER_SIZE + 10, name, size);
    message_size = P9_HEADER_SIZE + 10 + size;
    created = run(P9_TXATTRWALK);
    v9_put(v9_put(message + P9_HEADER_SIZE, FILE_FID, 4), size, 2);
    memcpy(message + P9_HEADER_SIZE + 6, name, size);
    memset(message + P9_HEADER_SIZE + 6 + size, 0, 12);
    message_size = P9_HEADER_SIZE + 18 + size;
    CHECK(run(P9_TXATTRCREATE) == created);
    return created;
}

TEST(what_is_no_name_is_refused)
{
    char name[300];

    memset(name, 'n', sizeof(name));
    file_has_attributes();
    CHECK(refusal_of("user.\0a", 7) == -EINVAL && refusal_of("\0", 1) == -EINVAL);
    CHECK(refusal_of(name, 256) == -ERANGE && refusal_of(name, 300) == -ERANGE);
    CHECK(create_attribute(FILE_FID, "", 1, 0) == -EINVAL);
    name[255] = 0;
    CHECK(walk_attribute(FILE_FID, name) == -EOPNOTSUPP);
    CHECK(clunk(NEW_FID) == -EBADF && no_values_are_left());
}

TEST(a_number_in_use_is_refused)
{
    file_has_attributes();
    CHECK(ask(P9_TXATTRWALK, "44s", FILE_FID, FILE_FID, "") == -EBADF);
    CHECK(ask(P9_TXATTRWALK, "44s", FILE_FID, ROOT, "") == -EBADF);
    CHECK(ask(P9_TXATTRWALK, "44s", FILE_FID, -1, "") == -EBADF); /* NOFID */
    CHECK(no_values_are_left() && ino_of_fid(FILE_FID) == host_ino("file"));
}

TEST(impossible_values_are_refused)
{
    static const uint64_t sizes[] = {XATTR_SIZE_MAX + 1, 1ull << 32, 1ull << 63, UINT64_MAX};

    file_has_attributes();
    for (unsigned i = 0; i < 4; i++)
        CHECK(create_attribute(FILE_FID, "user.a", sizes[i], 0) == -E2BIG);
    CHECK(create_attribute(FILE_FID, "user.a", 1, 4) == -EINVAL);
    CHECK(create_attribute(FILE_FID, "user.a", 1, -1) == -EINVAL);
    CHECK(ask(P9_TXATTRCREATE, "4s8", FILE_FID, "user.a", 1) == -EINVAL);
    CHECK(create_attribute(FILE_FID, "user.a", XATTR_SIZE_MAX, 0) == 0);
    CHECK(create_attribute(FILE_FID, "user.b", 1, 0) == -EBADF);
    CHECK(walk_to(OTHER_FID, "file") == 0 && ask(P9_TLOPEN, "44", OTHER_FID, O_RDWR) == 0);
    CHECK(create_attribute(OTHER_FID, "user.b", 1, 0) == -EBADF);
}

TEST(in_a_readonly_export_nothing_is_written)
{
    file_has_attributes();
    dev.exports[0]->conf.readonly = true;
    CHECK(create_attribute(FILE_FID, "user.a", 1, 0) == -EROFS);
    CHECK(walk_attribute(FILE_FID, "") == 0);
}

TEST(fids_of_attributes_are_no_files)
{
    file_has_attributes();
    CHECK(walk_attribute(FILE_FID, "") == 0);
    CHECK(write_piece(NEW_FID, 0, "x") == -EBADF && create_attribute(NEW_FID, "a", 1, 0) == -EBADF);
    CHECK(ask(P9_TXATTRWALK, "44s", NEW_FID, OTHER_FID, "") == -EBADF);
    CHECK(ask(P9_TLOPEN, "44", NEW_FID, O_RDONLY) == -EBADF);
    CHECK(ask(P9_TGETATTR, "48", NEW_FID, 0x7ff) == -EBADF);
    CHECK(ask(P9_TWALK, "442", NEW_FID, OTHER_FID, 0) == -EBADF);
    CHECK(create_attribute(FILE_FID, "user.a", 1, 0) == 0);
    CHECK(ask(P9_TLOPEN, "44", FILE_FID, O_RDONLY) == -EBADF);
    CHECK(ask(P9_TREAD, "484", FILE_FID, 0, 1) == -EBADF);
}

/* ---- bounds and ends --------------------------------------------------------------------------
 */

TEST(values_are_bounded_in_number)
{
    file_has_attributes();
    dev.fids.values.max = 1;
    CHECK(walk_attribute(FILE_FID, "") == 0);
    CHECK(ask(P9_TXATTRWALK, "44s", FILE_FID, OTHER_FID, "") == -ENOSPC);
    CHECK(create_attribute(FILE_FID, "user.a", 1, 0) == -ENOSPC);
    CHECK(clunk(OTHER_FID) == -EBADF && clunk(NEW_FID) == 0);
    CHECK(create_attribute(FILE_FID, "user.a", 1, 0) == 0);
    CHECK(walk_to(OTHER_FID, "file") == 0 && walk_attribute(OTHER_FID, "") == -ENOSPC);
    CHECK(clunk(FILE_FID) == -EINVAL && walk_attribute(OTHER_FID, "") == 0);
}

TEST(all_values_together_are_bounded)
{
    file_has_attributes();
    CHECK(create_attribute(FILE_FID, "user.a", 1000, 0) == 0);
    const uint64_t room = dev.fids.values.bytes, others = V9_XATTR_VALUES_BYTES - room;
    CHECK(room > 1000 && clunk(FILE_FID) == -EINVAL && walk_to(FILE_FID, "file") == 0);
    dev.fids.values.bytes = others;
    CHECK(create_attribute(FILE_FID, "user.a", 1001, 0) == -ENOSPC);
    CHECK(create_attribute(FILE_FID, "user.a", 1000, 0) == 0 && clunk(FILE_FID) == -EINVAL);
    CHECK(walk_to(FILE_FID, "file") == 0 && create_attribute(FILE_FID, "user.a", 1000, 0) == 0);
    CHECK(clunk(FILE_FID) == -EINVAL);
    dev.fids.values.bytes -= others;
    CHECK(no_values_are_left());
}

TEST(the_sessions_end_frees_values)
{
    file_has_attributes();
    CHECK(create_attribute(FILE_FID, "user.a", 1000, 0) == 0);
    CHECK(ask(P9_TXATTRWALK, "44s", ROOT, NEW_FID, "") == 0 && dev.fids.values.count == 2);
    CHECK(v9_fids_clear(&dev.fids) == 0 && no_values_are_left());
    CHECK(size_on_host("user.a") < 0);
}

/* The requests of two threads; the first of them hangs while the fid goes. */
TEST(a_pinned_value_outlives_its_number)
{
    struct v9_fid *fid;

    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(setxattr(host("file"), "user.a", "value", 5, 0) == 0);
    CHECK(walk_attribute(FILE_FID, "user.a") == 0);
    CHECK(v9_fids_pin(&dev.fids, NEW_FID, &fid) == 0 && clunk(NEW_FID) == 0);
    CHECK(fid->value->size == 5 && !memcmp(fid->value->data, "value", 5));
    CHECK(dev.fids.values.count == 1);
    v9_fids_unpin(&dev.fids, fid);
    CHECK(no_values_are_left());
}

TEST(a_fid_that_goes_gets_no_value)
{
    struct v9_xattr_value *value = v9_xattr_value_announce(&dev.fids.values, "user.a", 1, 0);
    struct v9_fid *fid;

    file_has_attributes();
    CHECK(v9_fids_pin(&dev.fids, FILE_FID, &fid) == 0 && clunk(FILE_FID) == 0);
    CHECK(v9_fids_set_value(&dev.fids, fid, value) == -EBADF);
    v9_fids_unpin(&dev.fids, fid);
    CHECK(walk_to(FILE_FID, "file") == 0 && ask(P9_TLOPEN, "44", FILE_FID, O_RDONLY) == 0);
    CHECK(v9_fids_pin(&dev.fids, FILE_FID, &fid) == 0);
    CHECK(v9_fids_set_value(&dev.fids, fid, value) == -EBADF);
    v9_fids_unpin(&dev.fids, fid);
    CHECK(no_values_are_left());
    v9_xattr_value_free(value);
}

TEST(an_unlinked_files_attributes_are_its_own)
{
    int old;

    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    CHECK(create_attribute(FILE_FID, "user.a", 0, 0) == 0);
    old = open(host("file"), O_RDONLY);
    CHECK(unlink(host("file")) == 0);
    host_writes("file", "new");
    CHECK(clunk(FILE_FID) == 0 && fgetxattr(old, "user.a", NULL, 0) == 0);
    CHECK(size_on_host("user.a") == -ENODATA);
    close(old);
}

/* ---- eviction ---------------------------------------------------------------------------------
 */

/* Announces an attribute for a file whose inode is evicted then. */
static void announce_and_evict(void)
{
    const struct v9_inode *inode;
    struct v9_fid *fid;

    nanosleep(&(struct timespec){0, 120000000}, NULL); /* it can be told from later files */
    CHECK(create_attribute(FILE_FID, "user.a", 0, 0) == 0);
    for (int round = 0; round < 3; round++)
        while (v9_evict_ops.evict(&dev.fids.shrinker, 1))
            ;
    CHECK(v9_fids_pin_evicted(&dev.fids, FILE_FID, &fid) == 0);
    inode = v9_fids_inode(&dev.fids, fid);
    CHECK(inode->path_fd < 0);
    v9_fids_unpin(&dev.fids, fid);
}

TEST(an_evicted_file_gets_its_attribute)
{
    if (!file_has_attributes())
        SKIP("no user attributes in /tmp");
    announce_and_evict();
    CHECK(clunk(FILE_FID) == 0 && size_on_host("user.a") == 0);
}

TEST(a_fid_ends_even_if_its_file_is_lost)
{
    file_has_attributes();
    announce_and_evict();
    CHECK(unlink(host("file")) == 0);
    CHECK(clunk(FILE_FID) == -ESTALE && clunk(FILE_FID) == -EBADF && no_values_are_left());
}
