// sources: fs/names.c fs/ mapped/ export/ quota/ base/
/*
 * Names linked, unlinked and renamed: the metadata and the quota follow, whatever fails, and
 * wherever a daemon ends. What link(2), unlink(2) and rename(2) do themselves is shown by
 * tests/system/test_names.py, which unlinks more than this.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faulty_host.h"
#include "fs/names.h"
#include "quota/quota.h"

static v9_export *ex;

/* ---- files of the guest ------------------------------------------------------------------------
 */

/* Creates a file or directory that a user owns, who is its mode's last digit, too. */
static void create(int dir, const char *name, uint32_t kind, uint32_t uid)
{
    const struct v9_new as = {
        .kind = kind, .mode = 0600 | uid, .uid = uid, .gid = uid, .flags = O_RDWR | 0200};
    struct v9_created made;

    CHECK(v9_create(ex, dir, name, &as, &made) == 0);
    v9_created_close(&made);
}

/* The owner that the guest sees; -1 where the mode is another one's, or there is no such file. */
static int owner(int dir, const char *name)
{
    struct v9_attr attr;
    const int err = v9_attr_read(ex, dir, name, &attr);

    if (err && err != -V9_NO_DEVICE && err != -V9_NO_GROUP)
        return -1;
    return (attr.mode & 0777) == (0600 | attr.uid) ? (int)attr.uid : -1;
}

static int open_path(const char *path)
{
    return openat(top, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static int link_to(const char *old, const char *name)
{
    const int fd = open_path(old), err = v9_link_file(ex, fd, -1, top, name);

    close(fd);
    return err;
}

static int rename_to(const char *old, const char *new)
{
    return v9_rename(ex, top, old, top, new);
}

/* ---- metadata ----------------------------------------------------------------------------------
 */

static void check_following(uint32_t model)
{
    unsigned before;
    int dir;

    begin();
    ex = export_of(model);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    create(top, "d", V9_NEW_DIR, 3);
    dir = open_path("d");
    before = descriptors();
    CHECK(v9_rename(ex, top, "a", dir, "c") == 0 && owner(dir, "c") == 1);
    CHECK(v9_rename(ex, dir, "c", top, "b") == 0 && owner(top, "b") == 1);
    CHECK(rename_to("d", "e") == 0 && owner(top, "e") == 3);
    CHECK(link_to("b", "f") == 0 && owner(top, "f") == 1);
    CHECK(v9_unlink(ex, top, "b", false) == 0 && owner(top, "f") == 1);
    CHECK(!is_there(META "/a") && !is_there(META "/b") && !is_there(META "/d"));
    CHECK(!is_there("e/" META "/c") && !is_there(META "/" META));
    CHECK(is_there(META "/f") == (model == V9_MODEL_FILE));
    CHECK(descriptors() == before);
    close(dir);
    end(ex);
}

TEST(with_xattrs_the_metadata_follow_the_names)
{
    check_following(V9_MODEL_XATTR);
}

TEST(with_metadata_files_the_metadata_follow_the_names)
{
    check_following(V9_MODEL_FILE);
}

static void check_failing(uint32_t model)
{
    unsigned before;
    int dir;

    begin();
    ex = export_of(model);
    create(top, "f", V9_NEW_FILE, 1);
    create(top, "d", V9_NEW_DIR, 2);
    dir = open_path("d");
    create(dir, "below", V9_NEW_DIR, 3);
    before = descriptors();
    CHECK(rename_to("f", "d") == -EISDIR && rename_to("d", "f") == -ENOTDIR);
    CHECK(rename_to("gone", "f") == -ENOENT && link_to("f", "d") == -EEXIST);
    CHECK(v9_rename(ex, top, "d", dir, "below") == -EINVAL);
    CHECK(owner(top, "f") == 1 && owner(top, "d") == 2 && owner(dir, "below") == 3);
    CHECK(v9_rename(ex, dir, "below", dir, "below") == 0 && owner(dir, "below") == 3);
    CHECK(!is_there(META "/" META) && descriptors() == before);
    close(dir);
    end(ex);
}

TEST(with_xattrs_what_fails_changes_nothing)
{
    check_failing(V9_MODEL_XATTR);
}

TEST(with_metadata_files_what_fails_changes_nothing)
{
    check_failing(V9_MODEL_FILE);
}

TEST(with_metadata_files_a_file_system_without_hard_links_will_do)
{
    begin();
    ex = export_of(V9_MODEL_FILE);
    host.no_tmpfile = host.no_links = true;
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    create(top, "d", V9_NEW_DIR, 3);
    CHECK(rename_to("a", "d") == -EISDIR && owner(top, "a") == 1 && owner(top, "d") == 3);
    CHECK(rename_to("a", "b") == 0 && owner(top, "b") == 1);
    CHECK(!is_there(META "/a") && !is_there(META "/" META));
    CHECK(link_to("b", "c") == -EPERM && !is_there(META "/c"));
    end(ex);
}

TEST(a_file_without_metadata_gets_none_of_the_file_that_it_replaces)
{
    begin();
    ex = export_of(V9_MODEL_FILE);
    close(openat(top, "host", O_CREAT | O_WRONLY, 0640));
    create(top, "f", V9_NEW_FILE, 1);
    CHECK(rename_to("host", "f") == 0 && !is_there(META "/f"));
    end(ex);
}

/* As soon as the guest's file has lost its name. */
static void write_a(void)
{
    if (is_there("a"))
        return;
    host.after_rename = NULL;
    close(openat(top, "a", O_CREAT | O_WRONLY, 0640));
}

TEST(a_file_that_takes_the_name_of_a_renamed_one_gets_none_of_its_metadata)
{
    begin();
    ex = export_of(V9_MODEL_FILE);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    host.after_rename = write_a;
    CHECK(rename_to("a", "b") == 0 && !host.after_rename);
    CHECK(owner(top, "b") == 1 && is_there("a") && !is_there(META "/a"));
    end(ex);
}

/* By another daemon. */
static void create_a(void)
{
    v9_export *const own = ex;

    if (is_there("a"))
        return;
    host.after_rename = NULL;
    ex = export_of(V9_MODEL_FILE);
    create(top, "a", V9_NEW_FILE, 3);
    v9_export_free(ex);
    ex = own;
}

TEST(a_guests_file_that_takes_the_name_of_a_renamed_one_keeps_its_metadata)
{
    begin();
    ex = export_of(V9_MODEL_FILE);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    host.after_rename = create_a;
    CHECK(rename_to("a", "b") == 0 && !host.after_rename);
    CHECK(owner(top, "b") == 1 && owner(top, "a") == 3);
    end(ex);
}

/* What a daemon that ended half way has left. */
TEST(metadata_that_were_set_aside_are_in_nobodys_way)
{
    begin();
    ex = export_of(V9_MODEL_FILE);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    close(openat(top, META "/" META, O_CREAT | O_WRONLY, 0600));
    CHECK(rename_to("a", "b") == 0 && owner(top, "b") == 1 && !is_there(META "/" META));
    end(ex);
}

TEST(a_directory_with_nothing_but_metadata_is_replaced)
{
    int dir;

    begin();
    ex = export_of(V9_MODEL_FILE);
    create(top, "d", V9_NEW_DIR, 1);
    create(top, "e", V9_NEW_DIR, 2);
    dir = open_path("d");
    create(dir, "x", V9_NEW_FILE, 3);
    CHECK(rename_to("e", "d") == -ENOTEMPTY && owner(dir, "x") == 3 && owner(top, "e") == 2);
    CHECK(v9_unlink(ex, dir, "x", false) == 0 && is_there("d/" META));
    CHECK(rename_to("e", "d") == 0 && owner(top, "d") == 2 && !is_there("e"));
    close(dir);
    end(ex);
}

TEST(names_that_metadata_have_are_refused)
{
    static const char *const names[] = {META, META "_root"};

    begin();
    ex = export_of(V9_MODEL_FILE);
    create(top, "f", V9_NEW_FILE, 1);
    for (int i = 0; i < 2; i++) {
        CHECK(link_to("f", names[i]) == -EINVAL);
        CHECK(v9_unlink(ex, top, names[i], true) == -EINVAL);
        CHECK(rename_to(names[i], "x") == -EINVAL && rename_to("f", names[i]) == -EINVAL);
        CHECK(v9_rename_to_free(ex, top, "f", top, names[i]) != 0);
    }
    CHECK(owner(top, "f") == 1 && is_there(META "/f"));
    end(ex);
}

/* ---- names of one file -------------------------------------------------------------------------
 */

static void *unlink_b(void *unused)
{
    CHECK(v9_unlink(ex, top, "b", false) == 0);
    return unused;
}

static pthread_t other;

static void begin_to_unlink_b(void)
{
    host.before_rename = NULL;
    CHECK(pthread_create(&other, NULL, unlink_b, NULL) == 0);
    usleep(20000);
}

static void check_one_file(uint32_t model)
{
    begin();
    ex = export_of(model);
    create(top, "a", V9_NEW_FILE, 1);
    CHECK(link_to("a", "b") == 0 && rename_to("a", "b") == 0);
    CHECK(owner(top, "a") == 1 && owner(top, "b") == 1);
    host.before_rename = begin_to_unlink_b;
    CHECK(rename_to("a", "b") == 0);
    pthread_join(other, NULL);
    CHECK(is_there("a") != is_there("b"));
    CHECK(owner(top, is_there("a") ? "a" : "b") == 1);
    end(ex);
}

TEST(with_xattrs_a_rename_between_names_of_one_file_keeps_both_or_the_last)
{
    check_one_file(V9_MODEL_XATTR);
}

TEST(with_metadata_files_a_rename_between_names_of_one_file_keeps_both_or_the_last)
{
    check_one_file(V9_MODEL_FILE);
}

static void check_free(uint32_t model)
{
    begin();
    ex = export_of(model);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    CHECK(v9_rename_to_free(ex, top, "a", top, "b") == -EEXIST);
    CHECK(owner(top, "a") == 1 && owner(top, "b") == 2);
    if (v9_rename_to_free(ex, top, "a", top, "c") == 0)
        CHECK(model == V9_MODEL_XATTR && owner(top, "c") == 1 && !is_there("a"));
    else
        CHECK(owner(top, "a") == 1 && !is_there("c"));
    end(ex);
}

TEST(with_xattrs_a_rename_to_a_free_name_replaces_none)
{
    check_free(V9_MODEL_XATTR);
}

TEST(with_metadata_files_a_rename_to_a_free_name_replaces_none)
{
    check_free(V9_MODEL_FILE);
}

/* ---- a daemon that ends half way ---------------------------------------------------------------
 */

/* Each name stands for a file with all of its attributes, old or new, and what lies about stands in
 * nobody's way. */
static void check_whole(void)
{
    static const char *const names[] = {"a", "b", "n"};
    int left = 0;

    for (int i = 0; i < 3; i++) {
        if (!is_there(names[i]))
            continue;
        left++;
        CHECK(owner(top, names[i]) == 1 || owner(top, names[i]) == 2);
        CHECK(v9_unlink(ex, top, names[i], false) == 0);
    }
    CHECK(left >= 1);
    create(top, "n", V9_NEW_FILE, 5);
    CHECK(owner(top, "n") == 5);
}

static int file, metadata;

/* Links `file`: a child opens nothing, since the export asks the parent's /proc about it. */
static int link_file(const char *old, const char *name)
{
    return v9_link_file(ex, file, metadata, top, name);
}

static void check_half_way(uint32_t model, int (*change)(const char *, const char *),
                           const char *new)
{
    long calls = 0;
    int status;

    do {
        pid_t child;
        begin();
        ex = export_of(model);
        create(top, "a", V9_NEW_FILE, 1);
        create(top, "b", V9_NEW_FILE, 2);
        file = open_path("a");
        metadata = openat(top, META "/a", O_RDONLY);
        child = fork();
        if (child == 0) {
            host.left = calls;
            _exit(change("a", new) ? 1 : 0);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        status = WEXITSTATUS(status);
        CHECK(status == 0 || status == 7);
        CHECK(change != link_file || is_there("a"));
        CHECK(is_there("b") && (status || is_there(new)));
        check_whole();
        close(file);
        if (metadata >= 0)
            close(metadata);
        end(ex);
    } while (status == 7 && ++calls < 40);
    CHECK(calls > 0 && status == 0);
}

TEST(with_xattrs_a_daemon_that_ends_half_way_leaves_whole_files)
{
    check_half_way(V9_MODEL_XATTR, rename_to, "n");
    check_half_way(V9_MODEL_XATTR, rename_to, "b");
    check_half_way(V9_MODEL_XATTR, link_file, "n");
}

TEST(with_metadata_files_a_daemon_that_ends_half_way_leaves_whole_files)
{
    check_half_way(V9_MODEL_FILE, rename_to, "n");
    check_half_way(V9_MODEL_FILE, link_file, "n");
}

/* ---- quota -------------------------------------------------------------------------------------
 */

static v9_quota *quota;
static int usage_fd;

static void begin_counted(uint64_t bytes)
{
    struct v9_quota_conf conf = {
        .bytes = bytes, .inodes = UINT64_MAX, .error = EDQUOT, .block = 4096, .max_accounts = 64};
    int err;

    begin();
    ex = export_of(V9_MODEL_XATTR);
    usage_fd = conf.fd = memfd_create("usage", 0);
    CHECK(ftruncate(conf.fd, V9_QUOTA_FILE) == 0);
    quota = v9_quota_new(&conf, &err);
    CHECK(quota && !err);
    v9_export_set_quota(ex, quota);
}

static void end_counted(void)
{
    end(ex);
    v9_quota_free(quota);
    close(usage_fd);
}

static int64_t inodes(void)
{
    struct v9_quota_usage usage;

    v9_quota_read(quota, &usage);
    CHECK(usage.changing == 0);
    return usage.inodes;
}

TEST(what_a_rename_replaces_is_given_back)
{
    begin_counted(UINT64_MAX);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    create(top, "d", V9_NEW_DIR, 3);
    create(top, "e", V9_NEW_DIR, 4);
    CHECK(inodes() == 4);
    CHECK(rename_to("a", "b") == 0 && inodes() == 3);
    CHECK(rename_to("d", "d") == 0 && inodes() == 3);
    CHECK(rename_to("d", "e") == 0 && inodes() == 2 && owner(top, "e") == 3);
    CHECK(link_to("b", "c") == 0 && rename_to("b", "c") == 0 && inodes() == 2);
    CHECK(v9_unlink(ex, top, "b", false) == 0 && inodes() == 2);
    CHECK(v9_unlink(ex, top, "c", false) == 0 && inodes() == 1);
    end_counted();
}

/* A directory may grow by a block when it gets a name. */
TEST(a_new_name_of_another_directory_is_charged_for)
{
    int dir;

    begin_counted(4095);
    CHECK(mkdirat(top, "d", 0700) == 0);
    close(openat(top, "a", O_CREAT | O_WRONLY, 0600));
    dir = open_path("d");
    CHECK(link_to("a", "b") == -EDQUOT && !is_there("b"));
    CHECK(v9_rename(ex, top, "a", dir, "a") == -EDQUOT && is_there("a"));
    CHECK(rename_to("a", "b") == 0 && is_there("b"));
    close(dir);
    end_counted();
}

TEST(what_a_rename_may_replace_without_being_counted_stays)
{
    begin_counted(UINT64_MAX);
    create(top, "a", V9_NEW_FILE, 1);
    create(top, "b", V9_NEW_FILE, 2);
    host.no_paths = true;
    CHECK(rename_to("a", "b") == -EMFILE && is_there("a"));
    host.no_paths = false;
    CHECK(inodes() == 2);
    end_counted();
}
