// sources: p9/names.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Tlink, Tunlinkat, Trename and Trenameat: what they change, and which names and fids they refuse.
 * What becomes of other fids' names is shown by tests/csrc/fid/test_renames.c.
 */
#define _GNU_SOURCE
#include "p9/names.h"

#include "p9/device.h"

enum { REMOVEDIR = 0x200 };

static int link_name(int directory, int fid, const char *name)
{
    return ask(P9_TLINK, "44s", directory, fid, name);
}

static int unlink_name(const char *name, int flags)
{
    return ask(P9_TUNLINKAT, "4s4", ROOT, name, flags);
}

static int rename_fid(int fid, int directory, const char *name)
{
    return ask(P9_TRENAME, "44s", fid, directory, name);
}

static int rename_entry(int from, const char *old, int to, const char *new)
{
    return ask(P9_TRENAMEAT, "4s4s", from, old, to, new);
}

static mode_t host_mode(const char *name)
{
    struct stat st;

    return lstat(host(name), &st) ? 0 : st.st_mode;
}

static bool is_pinned(int number)
{
    uint64_t handle;

    CHECK(v9_fids_find(&dev.fids, (uint32_t)number, &handle) == 0);
    return v9_fids_inode(&dev.fids, v9_fids_of(&dev.fids, handle))->pins;
}

/* ---- linking -----------------------------------------------------------------------------------
 */

TEST(a_file_gets_one_more_name)
{
    host_writes("file", "text");
    host_makes_directory("dir");
    CHECK(symlink("nowhere", host("symlink")) == 0);
    CHECK(walk_to(1, "file") == 0 && walk_to(2, "dir") == 0 && walk_to(3, "symlink") == 0);
    CHECK(link_name(2, 1, "again") == 0 && host_ino("dir/again") == host_ino("file"));
    CHECK(link_name(2, 3, "itself") == 0 && S_ISLNK(host_mode("dir/itself")));
    CHECK(link_name(ROOT, 2, "dir 2") == -EPERM && link_name(ROOT, 1, "dir") == -EEXIST);
    CHECK(link_name(1, 1, "below") == -ENOTDIR);
    CHECK(!is_pinned(1) && !is_pinned(2) && !is_pinned(3) && !is_pinned(ROOT));
}

/* ---- unlinking ---------------------------------------------------------------------------------
 */

TEST(files_and_directories_are_unlinked_each_in_their_way)
{
    host_writes("file", "text");
    host_makes_directory("directory");
    CHECK(unlink_name("file", REMOVEDIR) == -ENOTDIR && unlink_name("directory", 0) == -EISDIR);
    CHECK(unlink_name("file", 0) == 0 && unlink_name("directory", REMOVEDIR) == 0);
    CHECK(!host_mode("file") && !host_mode("directory"));
    CHECK(unlink_name("file", 0) == -ENOENT);
}

TEST(a_directory_with_entries_is_kept)
{
    host_makes_directory("directory");
    host_writes("directory/file", "");
    CHECK(unlink_name("directory", REMOVEDIR) == -ENOTEMPTY && host_mode("directory/file"));
}

TEST(no_other_flags_and_no_dots_are_unlinked)
{
    host_writes("file", "text");
    CHECK(unlink_name("file", 1) == -EINVAL && host_has("file", "text"));
    CHECK(unlink_name(".", REMOVEDIR) == -EINVAL && unlink_name("..", REMOVEDIR) == -EINVAL);
}

TEST(an_unlinked_file_is_read_through_the_fid_that_has_it_open)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0 && ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    CHECK(unlink_name("file", 0) == 0 && !host_mode("file"));
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == 0);
    CHECK(reply_number(P9_HEADER_SIZE, 4) == 4 && !memcmp(reply + P9_IO_SIZE, "text", 4));
}

/* ---- renaming ----------------------------------------------------------------------------------
 */

TEST(an_entry_and_a_fids_file_are_renamed)
{
    uint64_t ino;

    host_makes_directory("dir");
    host_writes("file", "text");
    ino = host_ino("file");
    CHECK(walk_to(1, "dir") == 0 && walk_to(2, "file") == 0);
    CHECK(rename_entry(ROOT, "file", ROOT, "a") == 0 && host_ino("a") == ino);
    CHECK(rename_entry(ROOT, "a", 1, "b") == 0 && host_ino("dir/b") == ino);
    CHECK(rename_fid(2, ROOT, "c") == 0 && host_ino("c") == ino);
    CHECK(rename_fid(2, 1, "d") == 0 && host_ino("dir/d") == ino && ino_of_fid(2) == ino);
    CHECK(rename_entry(ROOT, "dir", ROOT, "dir 2") == 0 && ino_of_fid(2) == ino);
    CHECK(!is_pinned(1) && !is_pinned(2) && !is_pinned(ROOT));
}

TEST(a_rename_replaces_what_it_may)
{
    host_writes("old", "old");
    host_writes("new", "new");
    host_makes_directory("dir");
    host_makes_directory("empty");
    CHECK(rename_entry(ROOT, "old", ROOT, "new") == 0 && host_has("new", "old"));
    CHECK(rename_entry(ROOT, "new", ROOT, "dir") == -EISDIR);
    CHECK(rename_entry(ROOT, "dir", ROOT, "new") == -ENOTDIR);
    CHECK(rename_entry(ROOT, "dir", ROOT, "empty") == 0 && !host_mode("dir"));
    CHECK(rename_entry(ROOT, "dir", ROOT, "other") == -ENOENT);
    CHECK(rename_entry(ROOT, "new", ROOT, "new") == 0 && host_has("new", "old"));
}

TEST(a_fid_whose_name_is_gone_renames_nothing)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0 && rename(host("file"), host("moved")) == 0);
    host_writes("file", "another");
    names_grow_old();
    CHECK(rename_fid(1, ROOT, "x") == -ENOENT);
    CHECK(host_has("moved", "text") && host_has("file", "another"));
    CHECK(rename_fid(ROOT, ROOT, "x") == -EBUSY);
}

/* An open fid keeps its file, and its directory's fid follows the host. */
TEST(the_directory_is_what_has_its_name_now)
{
    host_makes_directory("dir");
    host_makes_directory("other");
    host_writes("file", "text");
    CHECK(walk_to(1, "dir") == 0 && walk_to(2, "file") == 0);
    CHECK(rmdir(host("dir")) == 0 && rename(host("other"), host("dir")) == 0);
    names_grow_old();
    CHECK(rename_fid(2, 1, "a") == 0 && host_has("dir/a", "text"));
    CHECK(rename_entry(1, "a", ROOT, "b") == 0 && link_name(1, 2, "c") == 0);
    CHECK(host_has("b", "text") && host_has("dir/c", "text"));
}

/* ---- what is refused ---------------------------------------------------------------------------
 */

TEST(names_that_no_entry_can_have_are_refused)
{
    static const struct {
        const char *name;
        int error; /* 0: as for dots */
    } wrong[] = {{"", -ENOENT}, {"a/b", -EINVAL}, {"/", -EINVAL}, {".", 0}, {"..", 0}};
    char name[300] = "";

    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        const char *const bad = wrong[i].name;
        const int error = wrong[i].error ? wrong[i].error : -EBUSY;
        CHECK(rename_entry(ROOT, bad, ROOT, "n") == error);
        CHECK(rename_entry(ROOT, "file", ROOT, bad) == error && rename_fid(1, ROOT, bad) == error);
        CHECK(link_name(ROOT, 1, bad) == (wrong[i].error ? wrong[i].error : -EEXIST));
        CHECK(unlink_name(bad, 0) == (wrong[i].error ? wrong[i].error : -EINVAL));
    }
    memset(name, 'n', P9_NAME_MAX + 1);
    CHECK(rename_entry(ROOT, "file", ROOT, name) == -ENAMETOOLONG);
    CHECK(rename_entry(ROOT, name, ROOT, "n") == -ENAMETOOLONG);
    CHECK(rename_fid(1, ROOT, name) == -ENAMETOOLONG && link_name(ROOT, 1, name) == -ENAMETOOLONG);
    CHECK(host_has("file", "text"));
}

TEST(fids_that_stand_for_no_file_are_refused)
{
    const struct v9_fid_new attribute = {.number = 7,
                                         .flags = V9_FID_XATTR,
                                         .io_fd = -1,
                                         .value = v9_xattr_value_new(&dev.fids.values, "", 0)};

    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0 && v9_fids_enter(&dev.fids, &attribute, NULL, NULL) == 0);
    for (int none = 7; none < 9; none++) {
        CHECK(link_name(none, 1, "n") == -EBADF && link_name(ROOT, none, "n") == -EBADF);
        CHECK(rename_fid(none, ROOT, "n") == -EBADF && rename_fid(1, none, "n") == -EBADF);
        CHECK(rename_entry(none, "file", ROOT, "n") == -EBADF);
        CHECK(rename_entry(ROOT, "file", none, "n") == -EBADF);
    }
    CHECK(host_has("file", "text") && !is_pinned(1) && !is_pinned(ROOT));
}

TEST(a_readonly_export_does_not_change)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    dev.exports[0]->conf.readonly = true;
    CHECK(link_name(ROOT, 1, "n") == -EROFS && unlink_name("file", 0) == -EROFS);
    CHECK(rename_fid(1, ROOT, "n") == -EROFS && rename_entry(ROOT, "file", ROOT, "n") == -EROFS);
    CHECK(rename_entry(ROOT, "none", ROOT, "n") == -EROFS);
    CHECK(host_has("file", "text") && !host_mode("n"));
}

/* Fids of a second export, which is read-only: tools copy after EXDEV, not after EROFS. */
TEST(nothing_is_renamed_or_linked_across_exports)
{
    const struct v9_fid_new as = {2, 0, 0, -1, 0, NULL, NULL};
    struct v9_found found = {v9_sys_dup(dev.exports[0]->conf.root_fd), -1, 1, NULL};
    struct v9_attr attr;

    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0 && v9_attr_read(dev.exports[0], found.path_fd, "", &attr) == 0);
    found.attr = &attr;
    dev.exports[1] = dev.exports[0];
    CHECK(v9_fids_enter(&dev.fids, &as, &found, NULL) == 0);
    dev.exports[0]->conf.readonly = true;
    CHECK(link_name(2, 1, "n") == -EXDEV && rename_fid(1, 2, "n") == -EXDEV);
    CHECK(rename_entry(ROOT, "file", 2, "n") == -EXDEV);
    CHECK(rename_entry(2, "file", ROOT, "n") == -EXDEV);
    CHECK(host_has("file", "text") && !host_mode("n"));
}

TEST(a_message_that_is_too_short_or_too_long_changes_nothing)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TLINK, "44", ROOT, 1) == -EINVAL);
    CHECK(ask(P9_TLINK, "44s1", ROOT, 1, "n", 0) == -EINVAL);
    CHECK(ask(P9_TRENAME, "44", 1, ROOT) == -EINVAL);
    CHECK(ask(P9_TRENAME, "44s1", 1, ROOT, "n", 0) == -EINVAL);
    CHECK(ask(P9_TRENAMEAT, "4s4", ROOT, "file", ROOT) == -EINVAL);
    CHECK(ask(P9_TRENAMEAT, "4s4s1", ROOT, "file", ROOT, "n", 0) == -EINVAL);
    CHECK(host_has("file", "text") && !host_mode("n"));
}
