/*
 * Files that are open and have lost their name: by unlink, by a rename over them, by unlink and a
 * new file under the old name (which must not be touched), or with their whole directory. Each
 * operation through the descriptor is tried after each of these.
 */
#include "posix.h"

#include <sys/file.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

enum way { UNLINKED, REPLACED, RECREATED, WITH_DIRECTORY, WAYS };
static const char *const way_names[WAYS] = {"unlinked", "replaced", "recreated", "with-directory"};

static void lose_name(enum way way)
{
    if (way == REPLACED) {
        put("other", "untouched");
        OK(rename("other", "d/f"));
        return;
    }
    OK(unlink("d/f"));
    if (way == RECREATED)
        put("d/f", "untouched");
    if (way == WITH_DIRECTORY)
        OK(rmdir("d"));
}

static const char *self_path(int fd)
{
    static char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return path;
}

static void do_stat(int fd)
{
    struct stat st = look_fd(fd);
    SAME(0, (long long)st.st_nlink);
    SAME(8, st.st_size);
    SAME(0644, st.st_mode & 07777);
}

static void do_read(int fd)
{
    char got[9];
    SAME(8, read(fd, got, 9));
    SAME_BYTES("contents", got, 8);
    SAME(0, read(fd, got, 9));
}

static void do_write(int fd)
{
    char got[16];
    SAME(4, pwrite(fd, "CONT", 4, 0));
    SAME(4, pwrite(fd, "more", 4, 8));
    SAME(12, look_fd(fd).st_size);
    SAME(12, pread(fd, got, 16, 0));
    SAME_BYTES("CONTentsmore", got, 12);
}

static void do_append(int fd)
{
    OK(fcntl(fd, F_SETFL, O_APPEND));
    SAME(1, write(fd, "!", 1));
    SAME(9, look_fd(fd).st_size);
    SAME(9, lseek(fd, 0, SEEK_END));
}

static void do_truncate(int fd)
{
    char got[20];
    OK(ftruncate(fd, 3));
    SAME(3, look_fd(fd).st_size);
    OK(ftruncate(fd, 10));
    SAME(10, pread(fd, got, 20, 0));
    SAME_BYTES("con\0\0\0\0\0\0\0", got, 10);
}

static void do_chmod(int fd)
{
    OK(fchmod(fd, 0600));
    SAME(0600, look_fd(fd).st_mode & 07777);
    OK(fchmod(fd, 04711));
    SAME(04711, look_fd(fd).st_mode & 07777);
}

static void do_chown(int fd)
{
    need_privileges();
    OK(fchown(fd, ALICE, ALICES));
    SAME(ALICE, look_fd(fd).st_uid);
    SAME(ALICES, look_fd(fd).st_gid);
}

static void do_utimens(int fd)
{
    OK(futimens(fd, (struct timespec[2]){{1000000, 0}, {2000000, 0}}));
    SAME(1000000, look_fd(fd).st_atim.tv_sec);
    SAME(2000000, look_fd(fd).st_mtim.tv_sec);
}

static void do_setxattr(int fd)
{
    char got[32];
    need_xattrs();
    OK(fsetxattr(fd, "user.new", "value", 5, XATTR_CREATE));
    SAME(5, fgetxattr(fd, "user.new", got, sizeof(got)));
    SAME_BYTES("value", got, 5);
    SAME(9, flistxattr(fd, got, sizeof(got)));
    SAME_BYTES("user.new", got, 9);
}

static void do_removexattr(int fd)
{
    need_xattrs();
    OK(fsetxattr(fd, "user.new", "value", 5, 0));
    OK(fremovexattr(fd, "user.new"));
    SAME(0, flistxattr(fd, NULL, 0));
}

static void do_reopen_read(int fd)
{
    char got[9];
    int again = (int)OK(open(self_path(fd), O_RDONLY));
    SAME((long long)look_fd(fd).st_ino, (long long)look_fd(again).st_ino);
    SAME(8, read(again, got, 9));
    SAME_BYTES("contents", got, 8);
    OK(close(again));
    do_stat(fd);
}

static void do_reopen_write(int fd)
{
    char got[8];
    int again = (int)OK(open(self_path(fd), O_WRONLY));
    SAME(3, write(again, "CON", 3));
    SAME(8, pread(fd, got, 8, 0));
    SAME_BYTES("CONtents", got, 8);
    OK(open(self_path(fd), O_WRONLY | O_TRUNC));
    SAME(0, look_fd(fd).st_size);
}

static void do_paths(int fd)
{
    struct stat st;
    OK(stat(self_path(fd), &st));
    SAME(0, (long long)st.st_nlink);
    OK(chmod(self_path(fd), 0611));
    SAME(0611, look_fd(fd).st_mode & 07777);
    OK(truncate(self_path(fd), 2));
    SAME(2, look_fd(fd).st_size);
}

static void do_link(int fd)
{
    EXPECT(ENOENT, linkat(AT_FDCWD, self_path(fd), AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
    CHECK(!exists("again"));
}

static void do_sync(int fd)
{
    SAME(1, write(fd, "x", 1));
    OK(fsync(fd));
    OK(fdatasync(fd));
}

static void do_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    OK(fcntl(fd, F_SETLK, &lock));
    lock.l_type = F_UNLCK;
    OK(fcntl(fd, F_SETLK, &lock));
    OK(flock(fd, LOCK_EX | LOCK_NB));
    OK(flock(fd, LOCK_UN));
}

static void do_statfs(int fd)
{
    struct statfs fs;
    OK(fstatfs(fd, &fs));
    CHECK(fs.f_blocks > 0);
}

static void do_dup(int fd)
{
    char got[8];
    int copy = (int)OK(dup(fd));
    OK(close(fd));
    SAME(8, read(copy, got, 8));
    SAME(0, (long long)look_fd(copy).st_nlink);
}

static void do_write_much(int fd)
{
    static unsigned char want[300000], got[300000];
    pattern(want, sizeof(want), 0);
    SAME(sizeof(want), pwrite(fd, want, sizeof(want), 0));
    SAME(sizeof(got), pread(fd, got, sizeof(got), 0));
    SAME_BYTES(want, got, sizeof(got));
}

static const struct use {
    const char *name;
    void (*call)(int fd);
} uses[] = {
    {"stat", do_stat},
    {"read", do_read},
    {"write", do_write},
    {"write-much", do_write_much},
    {"append", do_append},
    {"truncate", do_truncate},
    {"chmod", do_chmod},
    {"chown", do_chown},
    {"utimens", do_utimens},
    {"setxattr", do_setxattr},
    {"removexattr", do_removexattr},
    {"reopen-read", do_reopen_read},
    {"reopen-write", do_reopen_write},
    {"paths", do_paths},
    {"link-ENOENT", do_link},
    {"sync", do_sync},
    {"lock", do_lock},
    {"statfs", do_statfs},
    {"dup", do_dup},
};

CASE(used_without_name)
{
    const struct use *use = a->table;
    enum way way = (enum way)a->number;
    OK(mkdir("d", 0755));
    put("d/f", "contents");
    int fd = (int)OK(open("d/f", O_RDWR));
    lose_name(way);
    bool other = way == REPLACED || way == RECREATED;
    struct stat old = other ? look("d/f") : (struct stat){0};
    use->call(fd);
    if (!other)
        return;
    struct stat st = look("d/f");
    holds("d/f", "untouched");
    SAME(old.st_mode, st.st_mode);
    SAME(old.st_uid, st.st_uid);
    SAME(1, (long long)st.st_nlink);
    SAME(old.st_mtim.tv_sec, st.st_mtim.tv_sec);
    SAME(old.st_ctim.tv_nsec, st.st_ctim.tv_nsec);
    CHECK(listxattr("d/f", NULL, 0) <= 0);
}

/* The attributes survive the name, also for a user without rights to the new file. */
CASE(after_mode_change)
{
    need_privileges();
    put("f", "contents");
    give("f", ALICE, ALICES);
    as(ALICE, ALICES);
    int fd = (int)OK(open("f", O_RDWR));
    OK(fchmod(fd, 0));
    OK(unlink("f"));
    as_self();
    put("f", "untouched");
    OK(chmod("f", 0600));
    as(ALICE, ALICES);
    do_read(fd);
    OK(ftruncate(fd, 1));
    SAME(1, look_fd(fd).st_size);
    OK(fchmod(fd, 0600));
    OK(open(self_path(fd), O_RDWR));
    as_self();
    holds("f", "untouched");
}

/* One of two descriptors is closed; one of two names is removed. */
CASE(two_descriptors)
{
    put("f", "contents");
    int one = (int)OK(open("f", O_RDWR)), two = (int)OK(open("f", O_RDONLY));
    OK(unlink("f"));
    SAME(1, pwrite(one, "C", 1, 0));
    OK(close(one));
    char got[8];
    SAME(8, read(two, got, 8));
    SAME_BYTES("Contents", got, 8);
    do_stat(two);
}

CASE(space_returns)
{
    put_pattern("f", 500000);
    int fd = (int)OK(open("f", O_RDWR));
    OK(unlink("f"));
    CHECK(look_fd(fd).st_blocks > 0);
    OK(ftruncate(fd, 0));
    SAME(0, look_fd(fd).st_blocks);
}

/* Many at once, all with the same old name. */
CASE(many)
{
    int fds[30];
    char text[3], got[3];
    for (int i = 0; i < 30; i++) {
        snprintf(text, sizeof(text), "%02d", i);
        put("f", text);
        fds[i] = (int)OK(open("f", O_RDWR));
        OK(unlink("f"));
    }
    for (int i = 0; i < 30; i++) {
        snprintf(text, sizeof(text), "%02d", i);
        SAME(2, pread(fds[i], got, 3, 0));
        SAME_BYTES(text, got, 2);
        OK(fchmod(fds[i], (mode_t)i));
    }
    for (int i = 0; i < 30; i++)
        SAME(i, look_fd(fds[i]).st_mode & 07777);
    SAME(0, entries("."));
}

void suite_unlinked(void)
{
    static const struct plain_case plain[] = {
        {"after-mode-change", after_mode_change},
        {"two-descriptors", two_descriptors},
        {"space-returns", space_returns},
        {"many", many},
    };
    for (int way = 0; way < WAYS; way++)
        for (size_t i = 0; i < COUNT(uses); i++)
            run(used_without_name, (struct arg){.number = way, .table = &uses[i]}, "unlinked/%s/%s",
                way_names[way], uses[i].name);
    run_plain("unlinked", plain, COUNT(plain));
}
