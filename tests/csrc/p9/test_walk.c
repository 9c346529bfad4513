// sources: p9/walk.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Twalk and Treadlink: where a walk leads, what it leaves when it fails, and what it never follows.
 */
#define _GNU_SOURCE
#include "p9/device.h"

enum { COUNT_AT = P9_HEADER_SIZE, QIDS_AT = COUNT_AT + 2 };

static uint64_t walked_ino(unsigned index)
{
    return reply_number(QIDS_AT + index * P9_QID_SIZE + 5, 8);
}

static uint8_t walked_type(unsigned index)
{
    return reply[QIDS_AT + index * P9_QID_SIZE];
}

TEST(a_walk_reports_the_qid_of_each_step)
{
    host_makes_directory("a");
    host_makes_directory("a/b");
    host_writes("a/b/file", "");
    CHECK(ask(P9_TWALK, "442sss", ROOT, 1, 3, "a", "b", "file") == 0);
    CHECK(reply_number(COUNT_AT, 2) == 3);
    CHECK(walked_ino(0) == host_ino("a") && walked_ino(1) == host_ino("a/b"));
    CHECK(walked_ino(2) == host_ino("a/b/file"));
    CHECK(walked_type(0) == 0x80 && walked_type(1) == 0x80 && walked_type(2) == 0);
    CHECK(ino_of_fid(1) == host_ino("a/b/file"));
}

TEST(a_walk_without_names_makes_another_fid_of_the_same_file)
{
    host_writes("file", "");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TWALK, "442", 1, 2, 0) == 0 && reply_number(COUNT_AT, 2) == 0);
    CHECK(ask(P9_TCLUNK, "4", 1) == 0);
    CHECK(ino_of_fid(2) == host_ino("file"));
}

TEST(a_walk_that_ends_early_reports_its_steps_and_makes_no_fid)
{
    host_makes_directory("a");
    CHECK(ask(P9_TWALK, "442sss", ROOT, 1, 3, "a", "none", "x") == 0);
    CHECK(reply_number(COUNT_AT, 2) == 1 && walked_ino(0) == host_ino("a"));
    CHECK(ask(P9_TCLUNK, "4", 1) == -EBADF);
}

TEST(a_walk_without_a_first_step_fails)
{
    host_writes("file", "");
    CHECK(walk_to(1, "none") == -ENOENT);
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TWALK, "442s", 1, 2, 1, "below") == -ENOTDIR);
}

TEST(names_that_no_file_can_have_are_not_found)
{
    char longer[P9_NAME_MAX + 2];

    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    host_makes_directory("a");
    host_writes("a/file", "");
    CHECK(walk_to(1, "a/file") == -ENOENT && walk_to(1, "") == -ENOENT);
    CHECK(walk_to(1, longer) == -ENAMETOOLONG);
    CHECK(ask(P9_TWALK, "4422d", ROOT, 1, 1, 3, "a") == -EINVAL); /* it ends too early */
}

TEST(a_walk_has_at_most_sixteen_names)
{
    CHECK(ask(P9_TWALK, "442ssssssssssssssss", ROOT, 1, 16, ".", ".", ".", ".", ".", ".", ".", ".",
              ".", ".", ".", ".", ".", ".", ".", ".") == 0);
    CHECK(ask(P9_TWALK, "442sssssssssssssssss", ROOT, 2, 17, ".", ".", ".", ".", ".", ".", ".", ".",
              ".", ".", ".", ".", ".", ".", ".", ".", ".") == -EINVAL);
}

TEST(dots_do_not_lead_out_of_the_export)
{
    host_makes_directory("a");
    CHECK(ask(P9_TWALK, "442ssss", ROOT, 1, 4, "a", "..", "..", "..") == 0);
    CHECK(walked_ino(3) == host_ino("") && ino_of_fid(1) == host_ino(""));
}

TEST(a_symlink_is_reached_and_not_followed)
{
    host_makes_directory("a");
    CHECK(symlink("a", host("link")) == 0);
    CHECK(walk_to(1, "link") == 0 && walked_type(0) == 0x02);
    CHECK(walked_ino(0) == host_ino("link"));
    CHECK(ask(P9_TWALK, "442ss", ROOT, 2, 2, "link", "..") == 0);
    CHECK(reply_number(COUNT_AT, 2) == 1);
}

TEST(a_walk_onto_its_own_fid_moves_it)
{
    host_makes_directory("a");
    CHECK(walk_to(1, "a") == 0);
    CHECK(ask(P9_TWALK, "442s", 1, 1, 1, "..") == 0);
    CHECK(ino_of_fid(1) == host_ino(""));
}

TEST(a_number_in_use_is_refused_and_stays_what_it_is)
{
    host_writes("one", "");
    host_writes("two", "");
    CHECK(walk_to(1, "one") == 0);
    CHECK(walk_to(1, "two") == -EBADF);
    CHECK(ino_of_fid(1) == host_ino("one"));
}

TEST(an_open_fid_does_not_move)
{
    host_makes_directory("a");
    CHECK(walk_to(1, "a") == 0);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    CHECK(ask(P9_TWALK, "442s", 1, 1, 1, "..") == -EBADF);
    CHECK(ask(P9_TWALK, "442s", 1, 2, 1, "..") == 0);
}

TEST(a_symlinks_target_is_read)
{
    host_writes("file", "");
    CHECK(symlink("/any/where", host("link")) == 0);
    CHECK(walk_to(1, "link") == 0 && walk_to(2, "file") == 0);
    CHECK(ask(P9_TREADLINK, "4", 1) == 0);
    CHECK(reply_number(P9_HEADER_SIZE, 2) == strlen("/any/where"));
    CHECK(!memcmp(reply + P9_HEADER_SIZE + 2, "/any/where", strlen("/any/where")));
    CHECK(ask(P9_TREADLINK, "4", 2) == -EINVAL);
}
