/*
 * What makes the guest's kernel look again.
 *
 * Times: setting a file's mtime to that of `refresh` or `forget` changes nothing on the host. In
 * the guest it is a change like any other, so inotify fires (IN_ATTRIB if the atime is set, too,
 * IN_MODIFY if it is not), and the attributes are asked for again. After `renew`, which is set once
 * where names are cached, the answer is that there is no such file if another one has the name, so
 * that the kernel looks the name up again. After `forget` it does so in any case, and finds an
 * inode without stale data; whoever has the file open keeps the old.
 *
 * Writes: with cache=loose the client never takes another size for an inode that it has. A write
 * does that, and vhost9p changes nothing if it comes from V9_REFRESH_UID. So an open file shows the
 * new data, and a watch of it goes on. The write is a direct one, which leaves no page behind. A
 * direct read tells the size: nothing else reaches the host, and that of a line may be another
 * file's by now.
 *
 * Who can write in the export may put a symlink in a path's place while the agent, which is root,
 * goes along it. So a path is opened first, and never left (openat2(2)); what is done is done to
 * the descriptor.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROC_PATH 40
#define TRIES 4

bool agent_kernel_suits(void)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC};
    const struct timespec now[2] = {{0}};
    int root = (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how);
    if (root < 0)
        return false;
    close(root);
    /* Before Linux 5.8 the flag is refused before the descriptor is. */
    return utimensat(-1, "", now, AT_EMPTY_PATH) < 0 && errno == EBADF;
}

int agent_open(const struct mount *mount, const char *path)
{
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };
    return (int)syscall(SYS_openat2, mount->root, path, &how, sizeof how);
}

static bool may_forget(const struct mount *mount, int file)
{
    return mount->caches_names && !agent_holds_mounts(mount, file);
}

static const struct timespec *times_of(const struct mount *mount, int file, bool forget)
{
    return forget && may_forget(mount, file) ? &mount->forget : &mount->refresh;
}

void agent_fire_attributes(const struct mount *mount, int file, bool forget)
{
    const struct timespec *time = times_of(mount, file, forget);
    utimensat(file, "", (struct timespec[]){*time, *time}, AT_EMPTY_PATH);
}

static void fire_contents(const struct mount *mount, int file, bool forget)
{
    const struct timespec omitted = {.tv_nsec = UTIME_OMIT};
    utimensat(file, "", (struct timespec[]){omitted, *times_of(mount, file, forget)},
              AT_EMPTY_PATH);
}

void agent_look(const struct mount *mount, const char *path)
{
    int file = agent_open(mount, path);
    if (file >= 0)
        close(file);
}

void agent_look_at(int file)
{
    char path[PROC_PATH];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int same = open(path, O_PATH | O_CLOEXEC);
    if (same >= 0)
        close(same);
}

/*
 * A reply to somebody else's request for the attributes may be on its way meanwhile. The kernel
 * takes it for the newest, and does not ask: then the times are not those of `refresh` any more.
 */
void agent_ask(const struct mount *mount, int file, const char *path)
{
    struct stat status;
    for (int tries = 0; tries < TRIES; tries++) {
        agent_fire_attributes(mount, file, false);
        if (!mount->caches_names)
            return;
        bool will_ask = !fstat(file, &status) && status.st_mtim.tv_sec == mount->refresh.tv_sec;
        agent_look(mount, path);
        if (will_ask)
            return;
    }
}

bool agent_leads_to(const struct mount *mount, const char *path, int file)
{
    struct stat status, named;
    int now = agent_open(mount, path);
    bool same =
        now >= 0 && !fstat(file, &status) && !fstat(now, &named) && status.st_ino == named.st_ino;
    if (now >= 0)
        close(now);
    return same;
}

/* The same happens here, with the times of `forget`. */
void agent_forget(const struct mount *mount, int file, const char *path)
{
    struct stat status, named;
    for (int tries = 0; tries < TRIES; tries++) {
        agent_fire_attributes(mount, file, true);
        int now = mount->caches_names ? agent_open(mount, path) : -1;
        if (now < 0)
            return;
        bool same = !fstat(file, &status) && !fstat(now, &named) && status.st_ino == named.st_ino;
        close(now);
        if (!same || status.st_mtim.tv_sec == mount->forget.tv_sec)
            return;
    }
}

/* The kernel prunes all unused names of a file system that is remounted, even if nothing changes.
 */
static void prune_names(const struct mount *mount)
{
    int context = (int)syscall(SYS_fspick, mount->root, "", 8 /* FSPICK_EMPTY_PATH */);
    if (context < 0)
        return;
    syscall(SYS_fsconfig, context, 7 /* FSCONFIG_CMD_RECONFIGURE */, NULL, NULL, 0);
    close(context);
}

void agent_forget_directory(const struct mount *mount, const char *path)
{
    int directory = agent_open(mount, path);
    bool root = path[0] == '.' && !path[1]; /* which is never looked up */
    bool prunes = root || (directory >= 0 && agent_holds_mounts(mount, directory));
    if (directory >= 0 && !root)
        agent_forget(mount, directory, path);
    if (directory >= 0)
        close(directory);
    if (prunes)
        prune_names(mount);
}

/* Becomes V9_REFRESH_UID towards file systems, with a superuser's rights, or returns from that. */
static bool act_as(unsigned uid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    setfsuid(uid);
    if ((unsigned)setfsuid((uid_t)-1) != uid)
        return false;
    if (syscall(SYS_capget, &header, data))
        return false;
    data[0].effective = data[0].permitted; /* leaving root has taken those for files away */
    return !syscall(SYS_capset, &header, data);
}

static bool write_end(const char *path, off_t size)
{
    const off_t most = sizeof V9_REFRESH_DATA - 1, count = size < most ? size : most;
    int out = open(path, O_WRONLY | O_DIRECT | O_NONBLOCK | O_CLOEXEC);
    if (out < 0)
        return false;
    bool done = !count || pwrite(out, V9_REFRESH_DATA, (size_t)count, size - count) == count;
    close(out);
    return done;
}

/*
 * Has the kernel believe that this program has just written the end of the file: it takes the size,
 * drops the pages, and fires IN_OPEN, IN_MODIFY and IN_CLOSE_WRITE. What is smaller is cut first.
 */
static bool pretend(enum pretence pretence, const char *path, off_t old_size, off_t size)
{
    bool done = act_as(V9_REFRESH_UID);
    if (done && (pretence == TRUNCATIONS || size < old_size))
        done = !truncate(path, size);
    if (done && pretence == WRITES)
        done = write_end(path, size);
    act_as(geteuid());
    return done;
}

static void drop_pages(int data)
{
    if (data >= 0)
        posix_fadvise(data, 0, 0, POSIX_FADV_DONTNEED);
}

/*
 * Network file systems of Linux 6.8 and later read zeros where they believe that the host has
 * nothing: behind the size at which the inode was made, but for what was written, or has been in
 * the cache and left it.
 */
static void read_last(int data, off_t size)
{
    char byte;
    ssize_t read = data >= 0 && size > 0 ? pread(data, &byte, 1, size - 1) : 0;
    (void)read;
}

/* Whether a file has a byte at an offset on the host; -1: that cannot be found out. ENODATA says
 * that the guest believes in more than there is. */
static int has_byte(int data, off_t at)
{
    char byte;
    ssize_t got = pread(data, &byte, 1, at);
    return got < 0 && errno != ENODATA ? -1 : got == 1;
}

/* How many bytes a file has on the host, some `guess`; -1: that cannot be found out. */
static off_t size_on_host(int data, off_t guess)
{
    off_t low = 0, high = INT64_MAX, at = guess > 0 ? guess - 1 : 0, step = 1;
    while (low < high) {
        int has = has_byte(data, at);
        if (has < 0)
            return -1;
        *(has ? &low : &high) = has ? at + 1 : at;
        bool leap = high == INT64_MAX && step < high - low;
        at = low + (leap ? step - 1 : (high - low) / 2);
        step *= leap ? 2 : 1;
    }
    return low;
}

/* What takes another size only by a write. */
static enum written fire_cached(const struct mount *mount, int file, const char *path,
                                const struct stat *status, off_t size)
{
    /* A program cannot be started while it is open for writing. */
    bool may_tell = mount->pretence && !(status->st_mode & 0111);
    int data = open(path, O_RDONLY | O_DIRECT | O_NONBLOCK | O_CLOEXEC);
    if (may_tell && data >= 0)
        size = size_on_host(data, size < 0 ? status->st_size : size);
    drop_pages(data);
    bool told =
        may_tell && data >= 0 && size >= 0 && pretend(mount->pretence, path, status->st_size, size);
    drop_pages(data);
    if (data >= 0)
        close(data);
    fire_contents(mount, file, !may_tell); /* the write has set the time of modification, here */
    return told ? TOLD : may_tell ? FAILED : FORGOTTEN;
}

enum written agent_fire_written(const struct mount *mount, int file, off_t size)
{
    char path[PROC_PATH];
    struct stat status;
    if (fstat(file, &status) || !S_ISREG(status.st_mode)) {
        fire_contents(mount, file, true);
        return FORGOTTEN;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    if (mount->caches_names)
        return fire_cached(mount, file, path, &status, size);
    size = status.st_size; /* the host has been asked */
    int data = mount->caches_pages ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    drop_pages(data);
    bool may_run = status.st_mode & 0111;
    bool told = mount->pretence && !may_run && pretend(mount->pretence, path, size, size);
    if (!told)
        read_last(data, size);
    drop_pages(data);
    if (data >= 0)
        close(data);
    if (!told || !size)
        fire_contents(mount, file, false);
    return TOLD;
}

void agent_renew(const struct mount *mount, int file)
{
    char path[PROC_PATH];
    struct stat status;
    if (!mount->caches_pages || fstat(file, &status) || !S_ISREG(status.st_mode))
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int data = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (data < 0)
        return;
    drop_pages(data);
    read_last(data, status.st_size);
    drop_pages(data);
    close(data);
}

/* `refresh` can be changed by V9_REFRESH_UID alone. Before Linux 6.4 cache=loose also opens what is
 * written as root, which cannot; nothing reads zeros there, and a truncation is enough. */
enum pretence agent_can_pretend(const char *directory)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/refresh", directory) >= sizeof path)
        return NOTHING;
    if (!pretend(TRUNCATIONS, path, 0, 1))
        return NOTHING;
    enum pretence most = pretend(WRITES, path, 1, 1) ? WRITES : TRUNCATIONS;
    pretend(TRUNCATIONS, path, 1, 0);
    return most;
}

void agent_renew_names(const char *directory)
{
    char path[4096];
    struct stat status;
    if ((size_t)snprintf(path, sizeof path, "%s/renew", directory) < sizeof path &&
        !stat(path, &status))
        utimensat(AT_FDCWD, path, (struct timespec[]){status.st_mtim, status.st_mtim}, 0);
}
