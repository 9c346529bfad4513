/*
 * Locks between this process and a peer: fcntl's ranges with their splitting and their release at
 * any close, flock's whole files, and open-file-description locks.
 */
#include "posix.h"

#include <sys/file.h>

static int file;

/* The file and two openers of it: `file` here and the peer's. */
static void begin(void)
{
    put("f", "0123456789");
    file = (int)OK(open("f", O_RDWR));
    peer_start();
    SAME(0, peer(PEER_OPEN, O_RDWR, 0, 0, "f"));
}

static int lock_fd(int fd, int command, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

static int lock(short type, off_t start, off_t length)
{
    return lock_fd(file, F_SETLK, type, start, length);
}

/* What the peer is told when it asks for the range: 0, or the conflict as EAGAIN. */
static int peer_lock(short type, off_t start, off_t length)
{
    int answer = peer(PEER_SETLK, type, start, length, NULL);
    return answer == -EACCES ? EAGAIN : -answer;
}

/* One byte after the other: 'f' free to the peer, 'r' to be read-locked only, 'w' not at all. */
static void map_is(const char *map)
{
    char found[32] = "";
    for (size_t i = 0; map[i]; i++)
        found[i] = peer(PEER_GETLK, F_WRLCK, (off_t)i, 1, NULL) == F_UNLCK   ? 'f'
                   : peer(PEER_GETLK, F_RDLCK, (off_t)i, 1, NULL) == F_UNLCK ? 'r'
                                                                             : 'w';
    if (strcmp(map, found))
        fail(__FILE__, __LINE__, "locks by byte", "expected %s got %s", map, found);
}

/* a->mode: ours; a->number: the peer's wish; a->error: its answer. */
CASE(conflict)
{
    begin();
    OK(lock((short)a->mode, 2, 4));
    SAME(a->error, peer_lock((short)a->number, 3, 1));
    SAME(a->error, peer_lock((short)a->number, 0, 0));
    SAME(0, peer_lock((short)a->number, 0, 2));
    SAME(0, peer_lock((short)a->number, 6, 0));
    OK(lock(F_UNLCK, 2, 4));
    SAME(0, peer_lock((short)a->number, 0, 0));
}

struct step {
    short type;
    off_t start, length;
};
struct ranges {
    const char *name;
    struct step steps[3];
    int count;
    const char *map;
};

static const struct ranges ranges[] = {
    {"one", {{F_WRLCK, 2, 3}}, 1, "ffwwwfff"},
    {"to-end", {{F_WRLCK, 5, 0}}, 1, "fffffwww"},
    {"negative-length", {{F_WRLCK, 5, -3}}, 1, "ffwwwfff"},
    {"unlock-middle", {{F_WRLCK, 0, 8}, {F_UNLCK, 3, 2}}, 2, "wwwffwww"},
    {"unlock-start", {{F_WRLCK, 0, 8}, {F_UNLCK, 0, 2}}, 2, "ffwwwwww"},
    {"unlock-end", {{F_WRLCK, 0, 8}, {F_UNLCK, 5, 0}}, 2, "wwwwwfff"},
    {"unlock-all", {{F_WRLCK, 1, 2}, {F_RDLCK, 5, 2}, {F_UNLCK, 0, 0}}, 3, "ffffffff"},
    {"downgrade", {{F_WRLCK, 1, 4}, {F_RDLCK, 1, 4}}, 2, "frrrrfff"},
    {"downgrade-part", {{F_WRLCK, 1, 5}, {F_RDLCK, 2, 2}}, 2, "fwrrwwff"},
    {"upgrade", {{F_RDLCK, 1, 4}, {F_WRLCK, 1, 4}}, 2, "fwwwwfff"},
    {"upgrade-part", {{F_RDLCK, 0, 6}, {F_WRLCK, 4, 3}}, 2, "rrrrwwwf"},
    {"adjacent", {{F_WRLCK, 0, 2}, {F_WRLCK, 2, 2}}, 2, "wwwwffff"},
    {"overlapping", {{F_WRLCK, 0, 4}, {F_WRLCK, 2, 4}}, 2, "wwwwwwff"},
    {"two", {{F_WRLCK, 0, 1}, {F_RDLCK, 7, 1}}, 2, "wffffffr"},
    {"join", {{F_RDLCK, 0, 2}, {F_RDLCK, 4, 2}, {F_RDLCK, 1, 4}}, 3, "rrrrrrff"},
    {"unlock-free", {{F_UNLCK, 0, 0}}, 1, "ffffffff"},
};

CASE(range)
{
    const struct ranges *r = a->table;
    begin();
    for (int i = 0; i < r->count; i++)
        OK(lock(r->steps[i].type, r->steps[i].start, r->steps[i].length));
    map_is(r->map);
}

CASE(beyond_end)
{
    begin();
    OK(lock(F_WRLCK, 0x100000000, 100));
    SAME(EAGAIN, peer_lock(F_WRLCK, 0x100000063, 1));
    SAME(0, peer_lock(F_WRLCK, 0x100000064, 1));
    SAME(0, peer_lock(F_WRLCK, 0, 0x100000000));
    EXPECT(EINVAL, lock(F_WRLCK, -1, 1));
    EXPECT(EINVAL, lock(F_WRLCK, 0, -1));
    EXPECT(EINVAL, lock(99, 0, 1));
}

CASE(relative)
{
    struct flock request = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = -1, .l_len = 2};
    begin();
    SAME(4, lseek(file, 4, SEEK_SET));
    OK(fcntl(file, F_SETLK, &request));
    request = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -3, .l_len = 1};
    OK(fcntl(file, F_SETLK, &request));
    map_is("fffwwffwff");
}

/* F_GETLK tells the lock in the way. */
CASE(told)
{
    begin();
    SAME(0, peer_lock(F_WRLCK, 3, 4));
    struct flock request = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    OK(fcntl(file, F_GETLK, &request));
    SAME(F_WRLCK, request.l_type);
    SAME(SEEK_SET, request.l_whence);
    SAME(3, request.l_start);
    SAME(4, request.l_len);
    CHECK(request.l_pid > 0 && request.l_pid != getpid());
    request = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7};
    OK(fcntl(file, F_GETLK, &request));
    SAME(F_UNLCK, request.l_type);
}

/* The process's own locks never stand in its way, whichever descriptor it uses. */
CASE(own)
{
    begin();
    int other = (int)OK(open("f", O_RDWR));
    OK(lock(F_WRLCK, 0, 0));
    OK(lock_fd(other, F_SETLK, F_WRLCK, 0, 5));
    OK(lock_fd(other, F_SETLK, F_RDLCK, 2, 2));
    map_is("wwrrwwww");
    OK(lock_fd(other, F_SETLK, F_UNLCK, 0, 0));
    map_is("ffffffff");
}

/* Any close of the file by the process releases all of its locks, whoever set them. */
CASE(close_releases)
{
    begin();
    OK(lock(F_WRLCK, 0, 0));
    SAME(EAGAIN, peer_lock(F_RDLCK, 0, 1));
    OK(close((int)OK(open("f", O_RDONLY))));
    SAME(0, peer_lock(F_WRLCK, 0, 0));
    SAME(0, peer(PEER_CLOSE, 0, 0, 0, NULL));
    OK(lock(F_WRLCK, 0, 0));
}

CASE(exit_releases)
{
    begin();
    SAME(0, peer_lock(F_WRLCK, 0, 0));
    EITHER(EAGAIN, EACCES, lock(F_RDLCK, 0, 1));
    peer_exit();
    OK(lock(F_WRLCK, 0, 0));
}

CASE(not_inherited)
{
    put("f", "");
    file = (int)OK(open("f", O_RDWR));
    OK(lock(F_WRLCK, 0, 0));
    peer_start();
    SAME(0, peer(PEER_OPEN, O_RDWR, 0, 0, "f"));
    SAME(EAGAIN, peer_lock(F_WRLCK, 0, 0));
}

CASE(access_modes)
{
    begin();
    int reader = (int)OK(open("f", O_RDONLY));
    int writer = (int)OK(open("f", O_WRONLY));
    EXPECT(EBADF, lock_fd(reader, F_SETLK, F_WRLCK, 0, 1));
    EXPECT(0, lock_fd(reader, F_SETLK, F_RDLCK, 0, 1));
    EXPECT(EBADF, lock_fd(writer, F_SETLK, F_RDLCK, 2, 1));
    EXPECT(0, lock_fd(writer, F_SETLK, F_WRLCK, 2, 1));
    EXPECT(EBADF, lock_fd(9999, F_SETLK, F_WRLCK, 0, 1));
    map_is("rfwfffff");
}

/* F_SETLKW: the peer waits until the range is free, and has it then. */
CASE(waiting)
{
    begin();
    OK(lock(F_WRLCK, 0, 4));
    peer_send(PEER_SETLKW, F_WRLCK, 2, 4, NULL);
    CHECK(!peer_answered(30));
    OK(lock(F_UNLCK, 0, 2));
    CHECK(!peer_answered(30));
    OK(lock(F_UNLCK, 0, 0));
    SAME(0, peer_answer());
    EITHER(EAGAIN, EACCES, lock(F_WRLCK, 3, 1));
    OK(lock(F_WRLCK, 0, 2));
}

CASE(after_rename)
{
    begin();
    OK(lock(F_WRLCK, 0, 0));
    OK(rename("f", "g"));
    SAME(EAGAIN, peer_lock(F_WRLCK, 0, 1));
    int again = (int)OK(open("g", O_RDWR));
    OK(lock_fd(again, F_SETLK, F_UNLCK, 0, 0));
    SAME(0, peer_lock(F_WRLCK, 0, 1));
}

static int peer_flock(short operation)
{
    return -peer(PEER_FLOCK, (short)(operation | LOCK_NB), 0, 0, NULL);
}

/* a->mode: ours; a->number: the peer's wish. */
CASE(flock_conflict)
{
    begin();
    OK(flock(file, (int)a->mode));
    SAME(a->error, peer_flock((short)a->number));
    OK(flock(file, LOCK_UN));
    SAME(0, peer_flock((short)a->number));
    SAME(0, peer_flock(LOCK_UN));
}

CASE(flock_change)
{
    begin();
    OK(flock(file, LOCK_SH));
    SAME(0, peer_flock(LOCK_SH));
    EXPECT(EAGAIN, flock(file, LOCK_EX | LOCK_NB));
    SAME(0, peer_flock(LOCK_UN));
    OK(flock(file, LOCK_EX | LOCK_NB));
    SAME(EAGAIN, peer_flock(LOCK_SH));
    OK(flock(file, LOCK_SH));
    SAME(0, peer_flock(LOCK_SH));
}

/* flock belongs to the open file: two opens conflict in one process, duplicates share it. */
CASE(flock_open_files)
{
    begin();
    int copy = (int)OK(dup(file)), other = (int)OK(open("f", O_RDONLY));
    OK(flock(file, LOCK_EX));
    EXPECT(EAGAIN, flock(other, LOCK_SH | LOCK_NB));
    OK(flock(copy, LOCK_EX | LOCK_NB));
    OK(close(other));
    OK(close(file));
    SAME(EAGAIN, peer_flock(LOCK_EX));
    OK(close(copy));
    SAME(0, peer_flock(LOCK_EX));
}

CASE(flock_read_only)
{
    begin();
    int reader = (int)OK(open("f", O_RDONLY));
    OK(flock(reader, LOCK_EX));
    SAME(EAGAIN, peer_flock(LOCK_SH));
    OK(close(reader));
    SAME(0, peer_flock(LOCK_SH));
    EXPECT(EINVAL, flock(file, 64));
    EXPECT(EBADF, flock(9999, LOCK_SH));
}

CASE(flock_exit)
{
    begin();
    SAME(0, peer_flock(LOCK_EX));
    EXPECT(EAGAIN, flock(file, LOCK_EX | LOCK_NB));
    peer_exit();
    OK(flock(file, LOCK_EX | LOCK_NB));
}

CASE(flock_directory)
{
    OK(mkdir("d", 0755));
    int one = (int)OK(open("d", O_RDONLY)), two = (int)OK(open("d", O_RDONLY));
    OK(flock(one, LOCK_EX));
    EXPECT(EAGAIN, flock(two, LOCK_EX | LOCK_NB));
    OK(flock(one, LOCK_UN));
    OK(flock(two, LOCK_EX | LOCK_NB));
}

CASE(open_description)
{
    put("f", "0123456789");
    int one = (int)OK(open("f", O_RDWR)), two = (int)OK(open("f", O_RDWR));
    OK(lock_fd(one, F_OFD_SETLK, F_WRLCK, 0, 4));
    EITHER(EAGAIN, EACCES, lock_fd(two, F_OFD_SETLK, F_WRLCK, 3, 1));
    OK(lock_fd(two, F_OFD_SETLK, F_WRLCK, 4, 1));
    OK(close((int)OK(open("f", O_RDWR))));
    EITHER(EAGAIN, EACCES, lock_fd(two, F_OFD_SETLK, F_RDLCK, 0, 1));
    OK(close(one));
    OK(lock_fd(two, F_OFD_SETLK, F_WRLCK, 0, 0));
}

static const char *type_of(short type)
{
    return type == F_RDLCK ? "read" : "write";
}

void suite_lock(void)
{
    static const struct plain_case plain[] = {
        {"beyond-end", beyond_end},
        {"relative", relative},
        {"told", told},
        {"own", own},
        {"close-releases", close_releases},
        {"exit-releases", exit_releases},
        {"not-inherited", not_inherited},
        {"access-modes", access_modes},
        {"waiting", waiting},
        {"after-rename", after_rename},
        {"flock-change", flock_change},
        {"flock-open-files", flock_open_files},
        {"flock-read-only", flock_read_only},
        {"flock-exit", flock_exit},
        {"flock-directory", flock_directory},
        {"open-description", open_description},
    };
    for (int ours = F_RDLCK; ours <= F_WRLCK; ours++)
        for (int theirs = F_RDLCK; theirs <= F_WRLCK; theirs++) {
            bool shared = ours == F_RDLCK && theirs == F_RDLCK;
            run(conflict,
                (struct arg){.mode = (mode_t)ours, .number = theirs, .error = shared ? 0 : EAGAIN},
                "lock/conflict/%s-%s", type_of((short)ours), type_of((short)theirs));
            run(flock_conflict,
                (struct arg){.mode = ours == F_RDLCK ? LOCK_SH : LOCK_EX,
                             .number = theirs == F_RDLCK ? LOCK_SH : LOCK_EX,
                             .error = shared ? 0 : EAGAIN},
                "lock/flock/%s-%s", type_of((short)ours), type_of((short)theirs));
        }
    for (size_t i = 0; i < COUNT(ranges); i++)
        run(range, (struct arg){.table = &ranges[i]}, "lock/range/%s", ranges[i].name);
    run_plain("lock", plain, COUNT(plain));
}
