/*
 * What Linux's 9p client does not pass to any server: these cases pass on native file systems and
 * not through 9p. They run on request only, and show when a client has learned one of them.
 */
#include "posix.h"

#include <sys/file.h>
#include <sys/xattr.h>

CASE(rename_noreplace)
{
    put("f", "");
    put("g", "");
    EXPECT(EEXIST, renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_NOREPLACE));
    OK(renameat2(AT_FDCWD, "f", AT_FDCWD, "h", RENAME_NOREPLACE));
}

CASE(rename_exchange)
{
    put("f", "one");
    put("g", "two");
    OK(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_EXCHANGE));
    holds("f", "two");
    holds("g", "one");
}

CASE(unnamed_file)
{
    char path[64];
    int fd = (int)OK(open(".", O_TMPFILE | O_RDWR, 0600));
    SAME(0, entries("."));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    OK(linkat(AT_FDCWD, path, AT_FDCWD, "f", AT_SYMLINK_FOLLOW));
    holds("f", "");
}

CASE(allocation)
{
    put("f", "data");
    int fd = (int)OK(open("f", O_RDWR));
    OK(fallocate(fd, 0, 0, 100000));
    SAME(100000, look("f").st_size);
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    char byte;
    SAME(1, pread(fd, &byte, 1, 0));
    SAME(0, byte);
}

CASE(seeking_data)
{
    put("f", "data");
    int fd = (int)OK(open("f", O_RDWR));
    SAME(1, pwrite(fd, "x", 1, 1 << 20));
    CHECK(lseek(fd, 0, SEEK_HOLE) < 1 << 20);
    CHECK(lseek(fd, 65536, SEEK_DATA) >= 1 << 19);
}

CASE(nanoseconds)
{
    put("f", "");
    OK(utimensat(AT_FDCWD, "f", (struct timespec[2]){{1000, 123456789}, {2000, 987654321}}, 0));
    SAME(123456789, look("f").st_atim.tv_nsec);
    SAME(987654321, look("f").st_mtim.tv_nsec);
}

CASE(birth_time)
{
    struct statx sx;
    put("f", "");
    OK(statx(AT_FDCWD, "f", 0, STATX_BTIME, &sx));
    CHECK(sx.stx_mask & STATX_BTIME && sx.stx_btime.tv_sec > 0);
}

CASE(lease)
{
    put("f", "");
    OK(fcntl((int)OK(open("f", O_RDONLY)), F_SETLEASE, F_RDLCK));
}

CASE(file_handle)
{
    struct {
        struct file_handle handle;
        unsigned char bytes[MAX_HANDLE_SZ];
    } buffer = {.handle.handle_bytes = MAX_HANDLE_SZ};
    int mount;
    put("f", "");
    OK(name_to_handle_at(AT_FDCWD, "f", &buffer.handle, &mount, 0));
}

/* flock and fcntl locks look alike to a 9p server; natively they do not meet. */
CASE(independent_locks)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    put("f", "");
    OK(flock((int)OK(open("f", O_RDWR)), LOCK_EX));
    OK(fcntl((int)OK(open("f", O_RDWR)), F_SETLK, &lock));
}

/* The server has opened the file with O_APPEND and is not told that this has ended. */
CASE(append_switched_off)
{
    int fd = (int)OK(open("f", O_WRONLY | O_CREAT | O_APPEND, 0600));
    SAME(4, write(fd, "data", 4));
    OK(fcntl(fd, F_SETFL, 0));
    SAME(1, pwrite(fd, "D", 1, 0));
    holds("f", "Data");
}

/* The client gives up what it knows of an unlinked node unless it is open for reading or writing.
 */
CASE(unlinked_path)
{
    node(a->type, "n");
    int fd = (int)OK(open("n", O_PATH | O_NOFOLLOW));
    struct stat old = look_fd(fd);
    OK(drop(a->type, "n"));
    struct stat st = look_fd(fd);
    SAME(0, (long long)st.st_nlink);
    SAME((long long)old.st_ino, (long long)st.st_ino);
    SAME(old.st_mode, st.st_mode);
}

CASE(removed_working)
{
    struct stat st;
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    OK(stat(".", &st));
    SAME(0, (long long)st.st_nlink);
}

/* On the wire, replacing a value by an empty one is the same as removing it. */
CASE(xattr_emptied)
{
    char value[8];
    need_xattrs();
    put("f", "");
    OK(setxattr("f", "user.x", "full", 4, 0));
    OK(setxattr("f", "user.x", "", 0, XATTR_REPLACE));
    SAME(0, getxattr("f", "user.x", value, sizeof(value)));
}

void suite_client_limits(void)
{
    static const struct plain_case plain[] = {
        {"rename-noreplace", rename_noreplace},
        {"rename-exchange", rename_exchange},
        {"unnamed-file", unnamed_file},
        {"allocation", allocation},
        {"seeking-data", seeking_data},
        {"nanoseconds", nanoseconds},
        {"birth-time", birth_time},
        {"lease", lease},
        {"file-handle", file_handle},
        {"independent-locks", independent_locks},
        {"append-switched-off", append_switched_off},
        {"removed-working-directory", removed_working},
        {"xattr-emptied", xattr_emptied},
    };
    run_plain("client-limits", plain, COUNT(plain));
    for (enum type type = 0; type < TYPES; type++)
        run(unlinked_path, (struct arg){.type = type}, "client-limits/unlinked-path/%s",
            type_names[type]);
}
