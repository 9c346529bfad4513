// sources: p9/lock.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Tlock and Tgetlock: what reaches Python, what it is answered with, and what is refused before.
 */
#define _GNU_SOURCE
#define OWN_LOCKS /* v9_up_lock is here */
#include "p9/device.h"

#include <unistd.h>

#include "export/file_locks.h"

enum { FILE_FID = 1, NOBODY = 65534, PROCESS = 5, BLOCK = 1, RECLAIM = 2 };
enum { STATUS_AT = P9_HEADER_SIZE, RDLCK = 0, WRLCK = 1, UNLCK = 2 };

static const uint64_t end_of_offsets = (uint64_t)1 << 63;

/* The last lock that Python was asked for, and what it says. */
static unsigned locks;
static uint64_t locked_fid, locked_ino, locked_start, locked_length, locked_by;
static uint32_t locked_type, locked_process;
static bool locked_writable, locked_flock;
static int answer;

int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t number)
{
    CHECK(device == dev.conf.id &&
          st_dev == v9_fids_inode(&dev.fids, &dev.fids.entries[0])->st_dev);
    CHECK(client_size == 5 && !memcmp(client_id, "guest", 5) && scratch.worker.in_python);
    locks++;
    locked_fid = fid;
    locked_ino = st_ino;
    locked_start = start;
    locked_length = length;
    locked_type = type;
    locked_process = proc_id;
    locked_writable = writable;
    locked_flock = flock;
    locked_by = number;
    return answer;
}

static int lock(int fid, int type, int flags, uint64_t start, uint64_t length)
{
    return ask(P9_TLOCK, "414qq4s", fid, type, flags, start, length, PROCESS, "guest");
}

static int getlock(int type, uint64_t start, uint64_t length)
{
    return ask(P9_TGETLOCK, "41qq4s", FILE_FID, type, start, length, PROCESS, "guest");
}

static void open_file(int flags)
{
    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    CHECK(ask(P9_TLOPEN, "44", FILE_FID, flags) == 0);
}

TEST(python_gets_the_fid_the_process_and_the_range)
{
    struct v9_fid *fid;

    open_file(O_RDWR);
    request.seq = 5;
    CHECK(lock(FILE_FID, WRLCK, 0, 3, 4) == 0 && reply_number(STATUS_AT, 1) == 0);
    CHECK(v9_fids_pin(&dev.fids, FILE_FID, &fid) == 0);
    CHECK(locks == 1 && locked_fid == v9_fids_handle(&dev.fids, fid));
    v9_fids_unpin(&dev.fids, fid);
    CHECK(locked_ino == host_ino("file") && locked_process == PROCESS);
    CHECK(locked_type == V9_LOCK_WRLCK && locked_start == 3 && locked_length == 4);
    CHECK(locked_writable && !locked_flock && !scratch.worker.in_python);
    CHECK(locked_by == ((uint64_t)request.seq << 32 | request.slot));
}

TEST(a_fid_that_cannot_write_and_a_flock_are_reported)
{
    open_file(O_RDONLY);
    CHECK(lock(FILE_FID, UNLCK, BLOCK, 0, 0) == 0);
    CHECK(!locked_writable && locked_flock && locked_type == V9_LOCK_UNLCK);
}

TEST(a_lock_that_is_held_is_waited_for_by_python_if_the_guest_wants_that)
{
    open_file(O_RDWR);
    answer = -EAGAIN;
    CHECK(lock(FILE_FID, WRLCK, 0, 0, 0) == 0 && reply_number(STATUS_AT, 1) == 1);
    CHECK(lock(FILE_FID, WRLCK, RECLAIM, 0, 0) == 0 && reply_number(STATUS_AT, 1) == 1);
    CHECK(lock(FILE_FID, WRLCK, BLOCK, 0, 0) == -V9_NOT_OURS);
    answer = -ENOLCK;
    CHECK(lock(FILE_FID, WRLCK, BLOCK, 0, 0) == -ENOLCK && locks == 4);
}

static void check_range(uint64_t start, uint64_t length, int expected)
{
    CHECK(lock(FILE_FID, WRLCK, 0, start, length) == expected);
    CHECK(getlock(WRLCK, start, length) == expected);
}

TEST(offsets_are_bounded_as_in_the_kernel)
{
    open_file(O_RDWR);
    check_range(end_of_offsets, 0, -EOVERFLOW);
    check_range(0, end_of_offsets, -EOVERFLOW);
    check_range(end_of_offsets - 1, 2, -EOVERFLOW);
    check_range(UINT64_MAX, UINT64_MAX, -EOVERFLOW);
    CHECK(!locks);
    check_range(end_of_offsets - 1, 1, 0);
    check_range(1, end_of_offsets - 1, 0);
    check_range(0, end_of_offsets - 1, 0);
}

TEST(what_is_no_request_is_refused)
{
    static char long_id[1026];

    open_file(O_RDWR);
    CHECK(lock(FILE_FID, 3, 0, 0, 0) == -EINVAL && getlock(3, 0, 0) == -EINVAL);
    CHECK(lock(FILE_FID, WRLCK, 4, 0, 0) == -EINVAL);
    memset(long_id, 'x', 1025);
    CHECK(ask(P9_TLOCK, "414884s", FILE_FID, WRLCK, 0, 0, 0, 1, long_id) == -EINVAL);
    CHECK(ask(P9_TGETLOCK, "41884s", FILE_FID, WRLCK, 0, 0, 1, long_id) == -EINVAL);
    CHECK(ask(P9_TLOCK, "414", FILE_FID, WRLCK, 0) == -EINVAL);
    CHECK(!locks);
}

TEST(only_open_fids_are_locked)
{
    host_writes("file", "");
    CHECK(walk_to(FILE_FID, "file") == 0);
    for (int type = RDLCK; type <= UNLCK; type++) {
        CHECK(lock(FILE_FID, type, 0, 0, 0) == -EBADF && lock(9, type, 0, 0, 0) == -EBADF);
        CHECK(getlock(type, 0, 0) == -EBADF);
    }
    CHECK(!locks);
}

TEST(python_is_asked_whose_a_lock_is_only_if_there_is_one)
{
    struct v9_lock found;
    int fd;

    open_file(O_RDWR);
    fd = open(host("file"), O_RDWR | O_CLOEXEC);
    for (int type = RDLCK; type <= UNLCK; type++) {
        CHECK(getlock(type, 3, 4) == 0 && reply_number(0, 4) == P9_HEADER_SIZE + 23 + 5);
        CHECK(reply[STATUS_AT] == UNLCK && reply_number(STATUS_AT + 1, 8) == 3);
        CHECK(reply_number(STATUS_AT + 9, 8) == 4 && reply_number(STATUS_AT + 17, 4) == PROCESS);
        CHECK(reply_number(STATUS_AT + 21, 2) == 5 && !memcmp(reply + STATUS_AT + 23, "guest", 5));
    }
    CHECK(v9_lock_ofd(fd, V9_LOCK_RDLCK, 5, 1, NULL) == 0);
    CHECK(getlock(RDLCK, 3, 4) == 0 && getlock(WRLCK, 6, 4) == 0);
    CHECK(getlock(WRLCK, 3, 4) == -V9_NOT_OURS && getlock(UNLCK, 3, 4) == -V9_NOT_OURS);
    found = (struct v9_lock){.type = V9_LOCK_WRLCK, .length = 9};
    CHECK(v9_lock_ofd_test(fd, &found) == 0 && found.type == V9_LOCK_UNLCK); /* nothing is left */
    close(fd);
}

/* ---- descriptors for locks ---------------------------------------------------------------------
 */

/* How a file of this mode is opened for locks; -errno. */
static int access_to(mode_t mode)
{
    const int fd = open(host("file"), O_PATH | O_CLOEXEC);
    int32_t access = -1;
    int opened;

    CHECK(chmod(host("file"), mode) == 0);
    CHECK(geteuid() || seteuid(NOBODY) == 0);
    opened = v9_lock_open(dev.exports[0], fd, &access);
    CHECK(getuid() || seteuid(0) == 0);
    close(fd);
    if (opened < 0)
        return opened;
    CHECK((fcntl(opened, F_GETFL) & O_ACCMODE) == access);
    v9_budget_close(opened);
    return access;
}

TEST(a_file_is_opened_for_locks_as_its_mode_allows)
{
    host_writes("file", "text");
    CHECK(getuid() || (chown(host("file"), NOBODY, NOBODY) == 0 && chmod(top, 0755) == 0));
    CHECK(access_to(0600) == O_RDWR && access_to(0400) == O_RDONLY && access_to(0200) == O_WRONLY);
    CHECK(access_to(0) == -EACCES);
    dev.exports[0]->conf.readonly = true;
    CHECK(access_to(0600) == O_RDONLY && access_to(0200) == -EACCES);
}

TEST(without_a_descriptor_there_are_no_locks)
{
    int32_t access;

    host_writes("file", "text");
    v9_budget_set(v9_budget_held(dev.fids.inodes.account), 0);
    CHECK(v9_lock_open(dev.exports[0], dev.exports[0]->conf.root_fd, &access) == -ENOLCK);
    v9_budget_set(UINT32_MAX, UINT32_MAX);
}
