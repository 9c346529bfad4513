// sources: p9/dispatch.c p9/handler.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Which requests are answered here, and what becomes of what a handler returns: a reply, an error
 * in the words of the dialect, a question to Python, or nothing yet.
 */
#define _GNU_SOURCE
#include "p9/device.h"

#include "base/sys.h"
#include "p9/handler.h"

/* ---- whose a request is ------------------------------------------------------------------------
 */

TEST(in_9p2000l_the_data_path_is_answered_here)
{
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TSTATFS, "4", 1) == 0);
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == 0);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDWR) == 0);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == 0);
    CHECK(ask(P9_TCLUNK, "4", 1) == 0);
}

TEST(in_9p2000u_only_what_both_dialects_share_is_answered_here)
{
    dev.dialect = V9_9P2000U;
    host_writes("file", "text");
    CHECK(walk_to(1, "file") == 0);
    CHECK(ask(P9_TSTATFS, "4", 1) == -V9_NOT_OURS);
    CHECK(ask(P9_TGETATTR, "48", 1, 0x7ff) == -V9_NOT_OURS);
    CHECK(ask(P9_TLOPEN, "44", 1, O_RDWR) == -V9_NOT_OURS);
    CHECK(ask(P9_TOPEN, "41", 1, 0) == 0);
    CHECK(ask(P9_TREAD, "484", 1, 0, 10) == 0);
    CHECK(ask(P9_TCLUNK, "4", 1) == 0);
}

TEST(topen_is_no_request_of_9p2000l)
{
    CHECK(ask(P9_TOPEN, "41", ROOT, 0) == -V9_NOT_OURS);
}

TEST(what_has_no_handler_is_up_to_python_in_both_dialects)
{
    for (dev.dialect = V9_9P2000L; dev.dialect <= V9_9P2000U; dev.dialect++) {
        CHECK(ask(P9_TVERSION, "4s", MSIZE, "9P2000.L") == -V9_NOT_OURS);
        CHECK(ask(P9_TATTACH, "44ss4", 1, -1, "", "", 0) == -V9_NOT_OURS);
        CHECK(ask(255, "") == -V9_NOT_OURS);
    }
}

/* A fid that stands for a name which is gone: Python need not find that out. */
TEST(what_python_is_to_answer_fails_at_once_where_its_fid_has_lost_its_file)
{
    host_writes("file", "");
    CHECK(walk_to(1, "file") == 0);
    dev.dialect = V9_9P2000U;
    CHECK(ask(P9_TSTAT, "4", 1) == -V9_NOT_OURS);
    CHECK(unlink(host("file")) == 0);
    names_grow_old();
    CHECK(ask(P9_TSTAT, "4", 1) == -ENOENT);
}

TEST(python_reports_an_unknown_fid_itself)
{
    dev.dialect = V9_9P2000U;
    CHECK(ask(P9_TSTAT, "4", 77) == -V9_NOT_OURS);
}

/* ---- Tflush ------------------------------------------------------------------------------------
 */

TEST(a_flush_concerns_other_requests_in_flight)
{
    CHECK(ask(P9_TFLUSH, "2", 5) == -V9_IS_FLUSH);
}

TEST(a_flush_of_a_wrong_size_is_refused)
{
    CHECK(ask(P9_TFLUSH, "1", 5) == -EINVAL);
    CHECK(ask(P9_TFLUSH, "21", 5, 0) == -EINVAL);
}

/* ---- errors ------------------------------------------------------------------------------------
 */

TEST(in_9p2000l_an_error_is_an_rlerror_with_the_errno)
{
    CHECK(ask(P9_TCLUNK, "4", 77) == -EBADF);
    CHECK(reply[4] == P9_RLERROR && reply_number(0, 4) == P9_RLERROR_SIZE);
}

TEST(in_9p2000u_an_error_is_an_rerror_with_its_text_and_the_errno)
{
    dev.dialect = V9_9P2000U;
    CHECK(ask(P9_TCLUNK, "4", 77) == -EBADF);
    CHECK(reply[4] == P9_RERROR && reply_number(7, 2) == strlen("Bad file descriptor"));
    CHECK(!memcmp(reply + 9, "Bad file descriptor", strlen("Bad file descriptor")));
}

TEST(what_the_header_has_wrong_is_reported_and_nothing_is_run)
{
    host_makes_directory("directory");
    request.error = -EMSGSIZE;
    CHECK(ask(P9_TUNLINKAT, "4s4", ROOT, "directory", 0x200) == -EMSGSIZE);
    CHECK(access(host("directory"), F_OK) == 0);
}

TEST(a_message_that_is_too_short_or_too_long_is_refused)
{
    CHECK(ask(P9_TCLUNK, "2", 0) == -EINVAL);
    CHECK(ask(P9_TCLUNK, "41", ROOT, 0) == -EINVAL);
    CHECK(ask(P9_TWALK, "442", ROOT, 1, 1) == -EINVAL);
    CHECK(ask(P9_TCLUNK, "4", ROOT) == 0); /* the root is there still */
}

TEST(a_reply_without_room_becomes_an_error)
{
    reply_room = P9_RLERROR_SIZE;
    CHECK(ask(P9_TSTATFS, "4", ROOT) == -EMSGSIZE);
}

/* ---- questions ---------------------------------------------------------------------------------
 */

TEST(a_device_that_is_not_known_is_asked_about_once_and_the_request_runs_again)
{
    host_writes("file", "");
    CHECK(walk_to(1, "file") == 0 && questions == 1);
    CHECK(reply_number(P9_HEADER_SIZE + 2 + 5, 8) == host_ino("file"));
    CHECK(walk_to(2, "file") == 0 && questions == 1);
}

TEST(what_python_refuses_fails_the_request_that_asked)
{
    host_writes("file", "");
    refusal = -ENODEV;
    CHECK(walk_to(1, "file") == -ENODEV && questions == 1 && request.question.fd == -1);
    CHECK(ask(P9_TCLUNK, "4", 1) == -EBADF);
}

TEST(what_was_created_before_python_was_asked_is_not_created_twice)
{
    CHECK(ask(P9_TMKDIR, "4s44", ROOT, "directory", 0755, getgid()) == 0);
    CHECK(questions == 1 && request.created.path_fd == -1);
    CHECK(reply_number(P9_HEADER_SIZE + 5, 8) == host_ino("directory"));
}

TEST(a_question_about_a_group_names_the_device_and_the_inode)
{
    const struct v9_attr attr = {.device = 7, .st_ino = 11};

    CHECK(v9_p9_question(&request, -1, &attr, -V9_NO_GROUP) == -V9_NO_GROUP);
    CHECK(request.question.a == 7 && request.question.b == 11);
}

/* ---- metadata files ----------------------------------------------------------------------------
 */

TEST(a_metadata_file_is_found_once_it_is_there_and_kept)
{
    v9_export *ex = dev.exports[0];
    struct v9_inode inode = {.path_fd = -1, .meta_fd = -1};
    char name[64];
    int32_t meta;

    ex->conf.model = V9_MODEL_FILE;
    host_writes("file", "");
    inode.path_fd = v9_sys_reach(ex->conf.root_fd, "file", 0);
    CHECK(v9_inode_meta(ex, &inode) == -1);
    host_makes_directory(v9_hidden_name(V9_META_DIR));
    snprintf(name, sizeof(name), "%s/file", v9_hidden_name(V9_META_DIR));
    host_writes(name, "virtfs.uid=5\n");
    meta = v9_inode_meta(ex, &inode);
    CHECK(meta >= 0 && meta == inode.meta_fd && v9_inode_meta(ex, &inode) == meta);
    v9_budget_close(meta);
    v9_budget_close(inode.path_fd);
}
