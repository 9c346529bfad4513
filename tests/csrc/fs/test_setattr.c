// sources: fs/setattr.c fs/attributes.c fs/stat_override.c mapped/ export/ quota/ base/
/*
 * Changes of attributes: where each security model makes them, whose ids, and what goes with them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "export/export.h"
#include "fs/api.h"
#include "mapped/mapped.h"

#define META ".virtfs_metadata"

static char path[] = "/var/tmp/v9-setattr-XXXXXX";
static v9_qidmap *qids;
static v9_export *ex;
static int top, file;

SET_UP()
{
    CHECK(mkdtemp(path));
    top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(top, "f", O_CREAT | O_WRONLY, 0600));
    CHECK(fchmodat(top, "f", 0600, 0) == 0);
    file = openat(top, "f", O_PATH);
    qids = v9_qidmap_new();
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(ex);
    v9_qidmap_free(qids);
    close(file);
    close(top);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    CHECK(system(command) == 0);
}

static void serve(uint32_t model, bool owners_matter)
{
    const struct v9_export_conf conf = {
        .root_fd = top, .model = model, .owners_matter = owners_matter};
    int32_t err;

    ex = v9_export_new(&conf, qids, &err);
    CHECK(ex && !err);
}

static int set_mode(int fd, uint32_t mode)
{
    const struct v9_setattr to = {.valid = V9_SETATTR_MODE, .mode = mode};
    return v9_setattr(ex, fd, -1, -1, &to);
}

static int set_owner(int fd, uint32_t uid, uint32_t gid)
{
    const struct v9_setattr to = {.valid = V9_SETATTR_UID | V9_SETATTR_GID, .uid = uid, .gid = gid};
    return v9_setattr(ex, fd, -1, -1, &to);
}

static int set_size(int fd, uint64_t size)
{
    const struct v9_setattr to = {.valid = V9_SETATTR_SIZE, .size = size};
    return v9_setattr(ex, fd, -1, -1, &to);
}

static struct stat status(int fd)
{
    struct stat st = {0};

    CHECK(fstat(fd, &st) == 0);
    return st;
}

TEST(a_mode_keeps_the_type_and_leaves_symlinks_alone)
{
    int link;

    serve(V9_MODEL_HOST, true);
    CHECK(set_mode(file, S_IFDIR | 04755) == 0 && status(file).st_mode == (S_IFREG | 04755));
    CHECK(symlinkat("f", top, "l") == 0);
    link = openat(top, "l", O_PATH | O_NOFOLLOW);
    CHECK(set_mode(link, 0777) == -EOPNOTSUPP && status(file).st_mode == (S_IFREG | 04755));
    close(link);
}

TEST(an_id_that_is_none_leaves_the_owner_and_the_set_id_bits_alone)
{
    serve(V9_MODEL_HOST, true);
    CHECK(set_mode(file, 04755) == 0 && set_owner(file, V9_NO_ID, V9_NO_ID) == 0);
    CHECK(status(file).st_mode == (S_IFREG | 04755));
}

TEST(ids_are_mapped_and_forbidden_ones_refused)
{
    const struct v9_id_range range = {0, getegid(), 1}, forbidden = {7, 0, 1};
    const struct v9_id_conf conf = {&range, &forbidden, 1, 1, 0, 0};

    serve(V9_MODEL_HOST, true);
    CHECK(v9_export_set_ids(ex, V9_GID, &conf) == 0);
    CHECK(set_owner(file, V9_NO_ID, 7) == -EPERM && set_owner(file, V9_NO_ID, 0) == 0);
    CHECK(status(file).st_gid == getegid());
}

TEST(only_regular_files_have_a_size)
{
    int fifo;

    serve(V9_MODEL_HOST, true);
    CHECK(mkfifoat(top, "fifo", 0600) == 0);
    fifo = openat(top, "fifo", O_PATH);
    CHECK(set_size(fifo, 0) == -EINVAL && set_size(top, 0) == -EISDIR);
    CHECK(set_size(file, 5) == 0 && status(file).st_size == 5);
    CHECK(set_size(file, (uint64_t)INT64_MAX + 1) == -EINVAL && status(file).st_size == 5);
    close(fifo);
}

/* chown(2) with both ids -1 would take them. */
TEST(a_new_ctime_leaves_a_programs_set_id_bits)
{
    const struct v9_setattr to = {.valid = V9_SETATTR_CTIME};
    struct timespec before;

    serve(V9_MODEL_HOST, true);
    CHECK(set_mode(file, 06755) == 0);
    before = status(file).st_ctim;
    do
        CHECK(v9_setattr(ex, file, -1, -1, &to) == 0);
    while (!memcmp(&before,
                   &(struct timespec){status(file).st_ctim.tv_sec, status(file).st_ctim.tv_nsec},
                   sizeof(before)));
    CHECK(status(file).st_mode == (S_IFREG | 06755));
}

TEST(a_mapped_file_gets_metadata_and_stays_what_it_is_on_the_host)
{
    struct v9_mapped found;

    serve(V9_MODEL_FILE, false);
    CHECK(set_owner(file, 5, 6) == 0 && set_mode(file, 0644) == 0);
    CHECK(v9_mapped_read(ex, file, "", -1, V9_HAS_ALL, &found) == 0);
    CHECK(found.uid == 5 && found.gid == 6 && found.mode == (S_IFREG | 0644));
    CHECK(status(file).st_mode == (S_IFREG | 0600) && status(file).st_uid == geteuid());
    CHECK(faccessat(top, META "/f", F_OK, 0) == 0);
}

/* As by chown(2): not those of the host's mode. */
TEST(a_mapped_program_that_is_given_away_loses_the_set_id_bits_of_its_metadata)
{
    struct v9_mapped found;

    serve(V9_MODEL_FILE, false);
    CHECK(set_mode(file, 06755) == 0 && set_owner(file, 5, V9_NO_ID) == 0);
    CHECK(v9_mapped_read(ex, file, "", -1, V9_HAS_ALL, &found) == 0);
    CHECK(found.mode == (S_IFREG | 0755) && found.uid == 5);
}

TEST(a_mapped_file_without_a_name_keeps_the_metadata_that_it_has_none_of)
{
    serve(V9_MODEL_FILE, false);
    CHECK(unlinkat(top, "f", 0) == 0);
    CHECK(set_mode(file, 0644) == -ENOENT && status(file).st_mode == (S_IFREG | 0600));
}

TEST(the_root_has_metadata_of_its_own)
{
    struct v9_mapped found;

    serve(V9_MODEL_FILE, false);
    CHECK(set_mode(top, 01755) == 0);
    CHECK(v9_mapped_read(ex, top, "", -1, V9_HAS_ALL, &found) == 0);
    CHECK(found.mode == (S_IFDIR | 01755) && faccessat(top, META "_root", F_OK, 0) == 0);
}

TEST(capabilities_that_are_kept_go_with_the_size_and_the_owner)
{
    const char *const name = "user.caps";
    char proc[32];

    serve(V9_MODEL_XATTR, false);
    CHECK(v9_export_watch_caps(ex, name) == 0);
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", file);
    CHECK(setxattr(proc, name, "x", 1, 0) == 0 && set_mode(file, 0755) == 0);
    CHECK(getxattr(proc, name, NULL, 0) == 1);
    CHECK(set_size(file, 0) == 0 && getxattr(proc, name, NULL, 0) < 0 && errno == ENODATA);
    CHECK(setxattr(proc, name, "x", 1, 0) == 0 && set_owner(file, 5, 6) == 0);
    CHECK(getxattr(proc, name, NULL, 0) < 0 && errno == ENODATA);
}
