/* Making nodes of every type, looking at them, and removing whole trees. */
#include "posix.h"

#include <sys/sysmacros.h>
#include <time.h>

const char *const type_names[TYPES] = {"file", "dir", "fifo", "socket", "char", "block", "symlink"};
const mode_t type_bits[TYPES] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFLNK};

void node(enum type type, const char *path)
{
    switch (type) {
    case FILE_:
        put(path, "");
        return;
    case DIR_:
        OK(mkdir(path, 0755));
        return;
    case LINK:
        OK(symlink("nowhere", path));
        return;
    case CHAR:
    case BLOCK:
        need_privileges();
        OK(mknod(path, type_bits[type] | 0644, makedev(1, 7)));
        return;
    default:
        OK(mknod(path, type_bits[type] | 0644, 0));
    }
}

int drop(enum type type, const char *path)
{
    return type == DIR_ ? rmdir(path) : unlink(path);
}

void give(const char *path, uid_t uid, gid_t gid)
{
    need_privileges();
    OK(lchown(path, uid, gid));
}

static void put_bytes(const char *path, const void *bytes, size_t size)
{
    int fd = (int)OK(open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    if (size)
        SAME((long long)size, write(fd, bytes, size));
    OK(close(fd));
}

void put(const char *path, const char *text)
{
    put_bytes(path, text, strlen(text));
}

void pattern(unsigned char *buffer, size_t size, size_t offset)
{
    for (size_t i = 0; i < size; i++)
        buffer[i] = (unsigned char)((offset + i) * 31 + ((offset + i) >> 8) + 1);
}

void put_pattern(const char *path, size_t size)
{
    unsigned char *bytes = malloc(size);
    CHECK(bytes != NULL);
    pattern(bytes, size, 0);
    put_bytes(path, bytes, size);
    free(bytes);
}

void holds(const char *path, const char *text)
{
    char got[4096] = {0};
    int fd = (int)OK(open(path, O_RDONLY));
    long size = OK(read(fd, got, sizeof(got) - 1));
    OK(close(fd));
    SAME((long long)strlen(text), size);
    SAME_BYTES(text, got, (size_t)size);
}

struct stat look(const char *path)
{
    struct stat st;
    OK(lstat(path, &st));
    return st;
}

struct stat look_fd(int fd)
{
    struct stat st;
    OK(fstat(fd, &st));
    return st;
}

mode_t mode_of(const char *path)
{
    return look(path).st_mode & 07777;
}

bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

long entries(const char *path)
{
    DIR *dir = opendir(path);
    CHECK(dir != NULL);
    long count = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    OK(closedir(dir));
    return count;
}

const char *long_name(size_t length, char letter)
{
    static char buffer[512];
    CHECK(length < sizeof(buffer));
    memset(buffer, letter, length);
    buffer[length] = 0;
    return buffer;
}

const char *long_path(size_t length, const char *tail)
{
    static char buffer[PATH_MAX + 64];
    size_t rest = strlen(tail);
    CHECK(length >= rest && length < sizeof(buffer));
    /* "./" as often as it takes; an odd length gets one more slash. */
    for (size_t i = 0; i < length - rest; i++)
        buffer[i] = i % 2 ? '/' : '.';
    if ((length - rest) % 2)
        buffer[length - rest - 1] = '/';
    memcpy(buffer + length - rest, tail, rest + 1);
    return buffer;
}

bool before(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec;
}

/* File times come from a clock that advances with the timer tick: 10 ms at HZ=100, the slowest. */
void tick(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 21 * 1000 * 1000}, NULL);
}

static int remove_entry(int fd, const struct dirent *entry)
{
    if (entry->d_type != DT_DIR)
        return unlinkat(fd, entry->d_name, 0) < 0 ? errno : 0;
    if (!privileged())
        (void)fchmodat(fd, entry->d_name, 0700, 0);
    int below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = below < 0 ? errno : empty_directory(below);
    if (!error && unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0)
        error = errno;
    return error;
}

int empty_directory(int fd)
{
    DIR *dir = fdopendir(fd);
    if (!dir)
        return errno;
    int first_error = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int error = remove_entry(dirfd(dir), entry);
        if (!first_error)
            first_error = error;
    }
    closedir(dir);
    return first_error;
}
