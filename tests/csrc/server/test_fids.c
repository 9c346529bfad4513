// sources: server/fids.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Python enters, pins, marks and clunks the fids of a device. They are the guest's, too.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "base/sys.h"
#include "fid/evict.h"
#include "fid/renames.h"
#include "request/state.h"
#include "server/served.h"

enum { CLUNKED = P9_TCLUNK + 1 };

static void begin_device(void)
{
    create_device();
    CHECK(v9_device_set_export(dev, 0, export) == 0);
}

static struct v9_attr attr_of(const char *name)
{
    const int fd = open(host(name), O_PATH | O_CLOEXEC);
    struct v9_attr attr;

    CHECK(v9_attr_read(export, fd, "", &attr) == 0);
    close(fd);
    return attr;
}

static bool is_file(int fd, const char *name)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_ino == host_ino(name);
}

/* ---- entering and pinning ----------------------------------------------------------------------
 */

TEST(a_fid_is_found_by_its_number_and_describes_its_file)
{
    struct v9_fid_info info;
    uint64_t handle, found;

    begin_device();
    host_writes("file", "text");
    add_fid(ROOT, "");
    handle = add_fid(1, "file");
    CHECK(v9_fid_find(dev, 1, &found) == 0 && found == handle);
    CHECK(v9_fid_find(dev, 2, &found) == -EBADF && v9_fid_get(dev, 2, &info) == -EBADF);
    CHECK(v9_fid_get(dev, 1, &info) == 0);
    CHECK(info.handle == handle && is_file(info.path_fd, "file"));
    CHECK(info.st_ino == host_ino("file") && info.st_dev == attr_of("file").st_dev);
    CHECK(info.io_fd == -1 && info.meta_fd == -1 && info.flags == 0 && info.export == 0);
    CHECK(info.uid == geteuid());
    v9_fid_put(dev, handle);
    stop();
}

TEST(a_number_in_use_is_refused_and_the_cap_holds)
{
    struct v9_attr attr;
    uint64_t handle;
    int fd;

    conf.max_fids = 2;
    begin_device();
    add_fid(ROOT, "");
    attr = attr_of("");
    fd = open(top, O_PATH | O_CLOEXEC);
    CHECK(v9_fid_add(dev, ROOT, fd, 0, 0, &attr, &handle) == -EBADF);
    CHECK(v9_fid_add(dev, P9_NOFID, fd, 0, 0, &attr, &handle) == -EBADF);
    add_fid(1, "");
    CHECK(v9_fid_add(dev, 2, fd, 0, 0, &attr, &handle) == -EMFILE);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* the caller's still */
    CHECK(stats().fids == 2 && stats().inodes == 1);
    close(fd);
    stop();
}

/* Its number may stand for another one by then. */
TEST(a_pinned_fid_keeps_its_file_when_it_is_clunked)
{
    struct v9_fid_info info;
    uint64_t handle;

    begin_device();
    host_writes("file", "text");
    host_writes("other", "text");
    handle = add_fid(1, "file");
    CHECK(v9_fid_get(dev, 1, &info) == 0);
    CHECK(v9_fid_clunk(dev, handle) == 0 && v9_fid_clunk(dev, handle) == -EBADF);
    CHECK(add_fid(1, "other") != handle);
    CHECK(is_file(info.path_fd, "file"));
    CHECK(v9_fid_clunk(dev, handle) == -EBADF && stats().fids == 1 && stats().inodes == 2);
    v9_fid_put(dev, handle);
    CHECK(stats().fids == 1 && stats().inodes == 1);
    stop();
}

TEST(a_fid_whose_file_is_lost_is_found_to_be_clunked)
{
    struct v9_fid_info info;
    uint64_t handle, found;

    begin_device();
    host_writes("file", "text");
    handle = add_fid(1, "file");
    nanosleep(&(struct timespec){0, 120000000}, NULL); /* it can be told from later files */
    for (int round = 0; round < 3; round++)
        while (v9_evict_ops.evict(&dev->fids.shrinker, 1))
            ;
    CHECK(stats().evicted == 1 && unlink(host("file")) == 0);
    CHECK(v9_fid_get(dev, 1, &info) == -ESTALE);
    CHECK(v9_fid_find(dev, 1, &found) == 0 && found == handle);
    CHECK(v9_fid_clunk(dev, handle) == 0 && stats().fids == 0);
    stop();
}

/* ---- marks -------------------------------------------------------------------------------------
 */

/* Whether Python is asked to clunk a fid. */
static bool is_pythons(uint32_t fid)
{
    const uint64_t before = stats().upcalls;

    CHECK(ask(P9_TCLUNK, &fid, sizeof(fid)) == CLUNKED);
    return stats().upcalls > before;
}

TEST(a_fid_that_is_marked_is_pythons_to_clunk)
{
    uint64_t locks;
    uint8_t open_request[8];

    serve();
    host_writes("file", "text");
    locks = add_fid(1, "file");
    CHECK(v9_fid_mark(dev, locks, V9_FID_LOCKS) == -EBADF); /* which go with an open file */
    v9_put(v9_put(open_request, 1, 4), O_RDWR, 4);
    CHECK(ask(P9_TLOPEN, open_request, sizeof(open_request)) == P9_TLOPEN + 1);
    CHECK(v9_fid_mark(dev, locks, V9_FID_LOCKS) == 0 && is_pythons(1));
    add_fid(2, "file");
    CHECK(!is_pythons(2));
    CHECK(v9_fid_clunk(dev, locks) == 0 && v9_fid_mark(dev, locks, V9_FID_LOCKS) == -EBADF);
    stop();
}

TEST(a_fid_of_an_extended_attribute_has_no_file)
{
    const uint8_t list[] = {1, 0, 0, 0, 2, 0, 0, 0, 0, 0};
    struct v9_fid_info info;

    serve();
    host_writes("file", "text");
    add_fid(1, "file");
    CHECK(ask(P9_TXATTRWALK, list, sizeof(list)) == P9_TXATTRWALK + 1);
    CHECK(v9_fid_get(dev, 2, &info) == 0);
    CHECK(info.path_fd == -1 && info.io_fd == -1 && info.meta_fd == -1);
    CHECK(info.uid == geteuid() && info.flags == V9_FID_XATTR);
    v9_fid_put(dev, info.handle);
    CHECK(v9_fid_mark(dev, info.handle, V9_FID_LOCKS) == -EBADF && !is_pythons(2));
    stop();
}

/* ---- changes -----------------------------------------------------------------------------------
 */

TEST(a_directorys_fid_becomes_the_file_that_was_created_there)
{
    struct v9_created made = {.meta_fd = -1, .io_flags = O_RDWR};
    struct v9_fid_info info;
    char name[V9_NAME_SIZE];
    struct v9_attr attr;
    uint64_t handle;
    int directory;

    begin_device();
    host_makes_directory("dir");
    handle = add_fid(1, "dir");
    CHECK(v9_fid_get(dev, 1, &info) == 0);
    host_writes("dir/new", "text");
    attr = attr_of("dir/new");
    made.path_fd = open(host("dir/new"), O_PATH | O_CLOEXEC);
    made.io_fd = open(host("dir/new"), O_RDWR | O_CLOEXEC);
    CHECK(v9_fid_become(dev, handle, "new", &made, &attr) == 0);
    v9_fid_put(dev, handle);
    CHECK(v9_fid_clunk(dev, handle) == -EBADF);
    CHECK(v9_fid_get(dev, 1, &info) == 0 && info.handle != handle);
    handle = info.handle;
    CHECK(is_file(info.path_fd, "dir/new") && is_file(info.io_fd, "dir/new"));
    CHECK(info.io_flags == O_RDWR && info.uid == geteuid());
    directory = v9_renames_name_of(&dev->fids, v9_fids_of(&dev->fids, handle), name);
    CHECK(is_file(directory, "dir") && !strcmp(name, "new"));
    v9_budget_close(directory);
    v9_fid_put(dev, info.handle);
    stop();
}

TEST(names_of_a_fids_file_are_changed_for_9p2000u)
{
    struct v9_fid_info file, directory;

    begin_device();
    host_makes_directory("dir");
    host_writes("dir/file", "text");
    add_fid(ROOT, "");
    add_fid(1, "dir");
    add_fid(2, "dir/file");
    CHECK(v9_fid_get(dev, 1, &directory) == 0 && v9_fid_get(dev, 2, &file) == 0);
    CHECK(v9_fid_rename(dev, file.handle, "renamed") == 0 && host_has("dir/renamed", "text"));
    CHECK(v9_fid_link(dev, file.handle, directory.handle, "linked") == 0);
    CHECK(v9_fid_link(dev, file.handle, directory.handle, "linked") == -EEXIST);
    CHECK(v9_fid_unlink(dev, directory.handle) == -ENOTEMPTY);
    export->conf.readonly = true;
    CHECK(v9_fid_unlink(dev, file.handle) == -EROFS);
    CHECK(v9_fid_rename(dev, file.handle, "x") == -EROFS);
    CHECK(v9_fid_link(dev, file.handle, directory.handle, "x") == -EROFS);
    export->conf.readonly = false;
    CHECK(v9_fid_unlink(dev, file.handle) == 0 && v9_fid_unlink(dev, file.handle) == -ENOENT);
    CHECK(access(host("dir/renamed"), F_OK) < 0 && host_has("dir/linked", "text"));
    v9_fid_put(dev, file.handle);
    v9_fid_put(dev, directory.handle);
    stop();
}

/* A fid of an extended attribute that is being written has a file, which is not meant. */
TEST(a_fid_that_is_in_use_for_an_attribute_unlinks_nothing)
{
    const uint8_t create[] = {1, 0, 0, 0, 6, 0, 'u', 's', 'e', 'r', '.', 'a',
                              1, 0, 0, 0, 0, 0, 0,   0,   0,   0,   0,   0};
    struct v9_fid_info info;

    serve();
    host_writes("file", "text");
    add_fid(ROOT, "");
    add_fid(1, "file");
    CHECK(ask(P9_TXATTRCREATE, create, sizeof(create)) == P9_TXATTRCREATE + 1);
    CHECK(v9_fid_get(dev, 1, &info) == 0 && info.flags == V9_FID_XATTR);
    CHECK(v9_fid_unlink(dev, info.handle) == -EBADF && host_has("file", "text"));
    v9_fid_put(dev, info.handle);
    stop();
}

/* Whether Rgetattr of fid 1 contains the file's size. */
static bool reports_size(void)
{
    const uint64_t size_bit = 0x200, all = 0x3fff;
    uint8_t body[12];
    uint64_t valid;

    v9_put(v9_put(body, 1, 4), all, 8);
    CHECK(ask(P9_TGETATTR, body, sizeof(body)) == P9_TGETATTR + 1);
    memcpy(&valid, guest + DATA_AT + REPLY_AT + P9_HEADER_SIZE, sizeof(valid));
    return valid & size_bit;
}

/* A client that has a file open knows what it has made of its size (fid/known_size.h). */
TEST(a_size_that_the_guest_has_set_is_not_reported_to_it)
{
    struct v9_setattr to = {.valid = V9_SETATTR_SIZE, .size = 20};
    struct v9_fid_info info;
    uint8_t body[10] = {0};

    serve();
    host_writes("file", "text");
    add_fid(ROOT, "");
    walk(1, "file");
    v9_put(v9_put(body, 1, 4), 2, 4);
    CHECK(ask(P9_TWALK, body, 10) == P9_TWALK + 1); /* a clone */
    v9_put(v9_put(body, 2, 4), O_RDWR, 4);
    CHECK(ask(P9_TLOPEN, body, 8) == P9_TLOPEN + 1);
    CHECK(reports_size() && !reports_size());
    CHECK(truncate(host("file"), 10) == 0); /* by the host */
    CHECK(reports_size() && !reports_size());
    CHECK(v9_fid_get(dev, 2, &info) == 0);
    CHECK(v9_fid_setattr(dev, info.handle, &to) == 0 && !reports_size()); /* by the guest */
    CHECK(truncate(host("file"), 30) == 0);
    to.valid |= V9_SETATTR_ALL + 1;
    CHECK(v9_fid_setattr(dev, info.handle, &to) == -EINVAL && reports_size());
    v9_fid_put(dev, info.handle);
    stop();
}

/* ---- sessions ----------------------------------------------------------------------------------
 */

TEST(a_new_session_begins_without_fids)
{
    struct v9_fid_info info;
    uint64_t handle;

    begin_device();
    host_writes("file", "text");
    add_fid(ROOT, "");
    handle = add_fid(1, "file");
    CHECK(v9_fid_get(dev, 1, &info) == 0);
    CHECK(v9_fid_clear(dev) == 0 && stats().fids == 0);
    CHECK(is_file(info.path_fd, "file")); /* it is pinned */
    CHECK(v9_fid_clunk(dev, handle) == -EBADF && v9_fid_find(dev, 1, &handle) == -EBADF);
    v9_fid_put(dev, info.handle);
    CHECK(stats().inodes == 0);
    add_fid(1, "file");
    stop();
}

static void *clear(void *unused)
{
    CHECK(v9_fid_clear(dev) == 0);
    add_fid(ROOT, "");
    return unused;
}

/* A request of the old session that is late leaves the fids of the new one alone. */
TEST(a_straggler_neither_clears_nor_enters_fids)
{
    struct v9_attr attr;
    pthread_t thread;
    uint64_t handle;
    int fd;

    begin_device();
    add_fid(ROOT, "");
    attr = attr_of("");
    fd = open(top, O_PATH | O_CLOEXEC);
    v9_fids_begin_request(&dev->fids, NULL);
    CHECK(pthread_create(&thread, NULL, clear, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(v9_fid_clear(dev) == -ESTALE && stats().fids == 1);
    CHECK(v9_fid_add(dev, 1, fd, 0, 0, &attr, &handle) == -EBADF);
    CHECK(v9_fid_find(dev, ROOT, &handle) == 0);
    v9_fids_begin_request(&dev->fids, NULL);
    CHECK(v9_fid_add(dev, 1, fd, 0, 0, &attr, &handle) == 0);
    stop();
}
