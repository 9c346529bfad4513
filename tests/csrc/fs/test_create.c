// sources: fs/create.c fs/create_mapped.c fs/created.c fs/ mapped/ export/ quota/ base/
/*
 * Entries created and unlinked: what calls that fail, file systems that lack something, and a
 * daemon that ends half way leave behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faulty_host.h"

static const char *const kinds[] = {"file", "dir", "special", "link"};

static void check_kinds(uint32_t model, bool no_tmpfile)
{
    static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFLNK};
    struct v9_attr attr;
    v9_export *ex;

    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++) {
        begin();
        ex = export_of(model);
        host.no_tmpfile = no_tmpfile;
        if (!CHECK(make(ex, kind, O_RDWR | O_EXCL) == 0))
            fprintf(stderr, "  %s, model %u\n", kinds[kind], model);
        CHECK(make(ex, kind, O_RDWR | 0200) == -EEXIST);
        v9_attr_read(ex, top, "n", &attr);
        CHECK((attr.mode & S_IFMT) == types[kind] && attr.uid == 1000 && attr.gid == 2000);
        CHECK(kind == V9_NEW_LINK || (attr.mode & 07777) == 0640);
        CHECK(v9_unlink(ex, top, "n", kind != V9_NEW_DIR) != 0);
        CHECK(v9_unlink(ex, top, "n", kind == V9_NEW_DIR) == 0);
        CHECK(!is_there("n") && !is_there(META "/n"));
        CHECK(v9_unlink(ex, top, "n", kind == V9_NEW_DIR) == -ENOENT);
        end(ex);
    }
}

TEST(on_the_host_every_kind_is_created_and_unlinked)
{
    if (geteuid())
        SKIP("only root creates for others");
    check_kinds(V9_MODEL_HOST, false);
}

TEST(with_xattrs_every_kind_is_created_and_unlinked)
{
    check_kinds(V9_MODEL_XATTR, false);
}

TEST(with_xattrs_without_tmpfile_every_kind_is_created_and_unlinked)
{
    check_kinds(V9_MODEL_XATTR, true);
}

TEST(with_metadata_files_every_kind_is_created_and_unlinked)
{
    check_kinds(V9_MODEL_FILE, false);
}

TEST(with_metadata_files_without_tmpfile_every_kind_is_created_and_unlinked)
{
    check_kinds(V9_MODEL_FILE, true);
}

static void check_full(uint32_t model, bool no_tmpfile)
{
    unsigned before;
    v9_export *ex;

    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_SPECIAL; kind++) {
        begin();
        ex = export_of(model);
        host.no_tmpfile = no_tmpfile;
        host.full = true;
        before = descriptors();
        /* The directory's descriptor is O_PATH: its attributes are written by a path. */
        if (kind != V9_NEW_DIR || model == V9_MODEL_FILE)
            CHECK(make(ex, kind, O_RDWR) == -ENOSPC && !is_there("n") && !is_there(META "/n"));
        CHECK(descriptors() == before);
        end(ex);
    }
}

TEST(with_xattrs_a_full_disk_leaves_nothing_behind)
{
    check_full(V9_MODEL_XATTR, false);
}

TEST(with_xattrs_without_tmpfile_a_full_disk_leaves_nothing_behind)
{
    check_full(V9_MODEL_XATTR, true);
}

TEST(with_metadata_files_a_full_disk_leaves_nothing_behind)
{
    check_full(V9_MODEL_FILE, false);
}

TEST(with_metadata_files_without_tmpfile_a_full_disk_leaves_nothing_behind)
{
    check_full(V9_MODEL_FILE, true);
}

static void check_races(uint32_t model)
{
    unsigned before;
    v9_export *ex;

    begin();
    ex = export_of(model);
    CHECK(make(ex, V9_NEW_FILE, O_RDWR) == 0);
    CHECK(v9_unlink(ex, top, "n", false) == 0);
    before = descriptors();
    host.always_there = true;
    CHECK(make(ex, V9_NEW_FILE, O_RDWR | 0200) == -EEXIST);
    CHECK(make(ex, V9_NEW_FILE, O_RDWR) == -EAGAIN);
    CHECK(!is_there("n") && !is_there(META "/n") && descriptors() == before);
    end(ex);
}

TEST(on_the_host_a_lost_race_leaves_nothing_behind)
{
    if (geteuid())
        SKIP("only root creates for others");
    check_races(V9_MODEL_HOST);
}

TEST(with_xattrs_a_lost_race_leaves_nothing_behind)
{
    check_races(V9_MODEL_XATTR);
}

TEST(with_metadata_files_a_lost_race_leaves_nothing_behind)
{
    check_races(V9_MODEL_FILE);
}

/* A directory that cannot be read to its end may have more than metadata in it. */
TEST(a_directory_that_cannot_be_read_to_its_end_is_kept)
{
    const struct v9_new file = {.kind = V9_NEW_FILE, .mode = 0600, .flags = O_RDWR};
    v9_export *ex;
    struct v9_created made;
    int dir;

    begin();
    ex = export_of(V9_MODEL_FILE);
    CHECK(make(ex, V9_NEW_DIR, 0) == 0);
    dir = openat(top, "n", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(v9_create(ex, dir, "kept", &file, &made) == 0);
    v9_created_close(&made);
    close(dir);
    host.bad = "kept";
    CHECK(v9_unlink(ex, top, "n", true) == -EIO);
    CHECK(is_there("n/kept") && is_there("n/" META "/kept"));
    CHECK(v9_unlink(ex, top, "n", true) == -ENOTEMPTY);
    CHECK(is_there("n/" META "/kept"));
    end(ex);
}

/* What may be at "n" after an end half way: nothing, or the whole of what was there or is new. */
static void check_whole(v9_export *ex, uint32_t kind)
{
    struct v9_attr attr;

    if (!is_there("n"))
        return;
    v9_attr_read(ex, top, "n", &attr);
    if (!CHECK(attr.uid == 1000 && attr.gid == 2000))
        fprintf(stderr, "  %s, model %u\n", kinds[kind], ex->conf.model);
    CHECK(v9_unlink(ex, top, "n", S_ISDIR(attr.mode)) == 0);
}

static int end_after(long calls, v9_export *ex, uint32_t kind, bool removed)
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        host.left = calls;
        if (removed)
            v9_unlink(ex, top, "n", kind == V9_NEW_DIR);
        else
            make(ex, kind, O_RDWR);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_half_way(uint32_t model, uint32_t kind, bool removed)
{
    const struct v9_new other = {
        .kind = V9_NEW_FILE, .mode = 0600, .uid = 1, .flags = O_RDWR | 0200};
    struct v9_created made;
    struct v9_attr attr;
    long calls = 0;
    int status;
    v9_export *ex;

    do {
        begin();
        ex = export_of(model);
        if (removed)
            CHECK(make(ex, kind, O_RDWR) == 0);
        status = end_after(calls, ex, kind, removed);
        CHECK(status == 0 || status == 7);
        check_whole(ex, kind);
        /* And what is left lying about stands in nobody's way. */
        CHECK(v9_create(ex, top, "n", &other, &made) == 0);
        v9_created_close(&made);
        v9_attr_read(ex, top, "n", &attr);
        CHECK(attr.uid == 1 && attr.mode == (S_IFREG | 0600));
        end(ex);
    } while (status == 7 && ++calls < 40);
    CHECK(calls > 0 && status == 0);
}

static void create_half_way(uint32_t model)
{
    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++)
        if (kind != V9_NEW_DIR || model == V9_MODEL_FILE)
            check_half_way(model, kind, false);
}

static void unlink_half_way(uint32_t model)
{
    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++)
        check_half_way(model, kind, true);
}

TEST(with_xattrs_a_daemon_that_ends_while_it_creates_leaves_all_or_nothing)
{
    create_half_way(V9_MODEL_XATTR);
}

TEST(with_xattrs_a_daemon_that_ends_while_it_unlinks_leaves_all_or_nothing)
{
    unlink_half_way(V9_MODEL_XATTR);
}

TEST(with_metadata_files_a_daemon_that_ends_while_it_creates_leaves_all_or_nothing)
{
    create_half_way(V9_MODEL_FILE);
}

TEST(with_metadata_files_a_daemon_that_ends_while_it_unlinks_leaves_all_or_nothing)
{
    unlink_half_way(V9_MODEL_FILE);
}
