/*
 * What makes the guest's kernel look again.
 *
 * Times: setting a file's mtime to that of `refresh` or `forget` changes nothing on the host. In
 * the guest it is a change like any other, so inotify fires (IN_ATTRIB if the atime is set, too,
 * IN_MODIFY if it is not), and the attributes are asked for again. After `forget` the file's name
 * is looked up again, too, and leads to an inode without stale data; whoever has it open keeps the
 * old.
 *
 * Sizes: with cache=loose the client never takes another size for an inode that it has. truncate(2)
 * does that, and vhost9p changes nothing if it comes from REFRESH_UID. So an open file shows the
 * new data, and a watch of it goes on.
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
#include <sched.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROC_PATH 40

int agent_open(const struct mount *mount, const char *path)
{
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };
    return (int)syscall(SYS_openat2, mount->root, path, &how, sizeof how);
}

static const struct timespec *times_of(const struct mount *mount, bool forget)
{
    return forget && mount->caches_names ? &mount->forget : &mount->refresh;
}

void agent_fire_attributes(const struct mount *mount, int file, bool forget)
{
    const struct timespec *time = times_of(mount, forget);
    utimensat(file, "", (struct timespec[]){*time, *time}, AT_EMPTY_PATH);
}

void agent_fire_contents(const struct mount *mount, int file, bool forget)
{
    const struct timespec omitted = {.tv_nsec = UTIME_OMIT};
    utimensat(file, "", (struct timespec[]){omitted, *times_of(mount, forget)}, AT_EMPTY_PATH);
}

void agent_look(const struct mount *mount, const char *path)
{
    int file = agent_open(mount, path);
    if (file >= 0)
        close(file);
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
    if (directory >= 0 && !root) {
        agent_fire_attributes(mount, directory, true);
        agent_look(mount, path);
    }
    if (directory >= 0)
        close(directory);
    if (root)
        prune_names(mount);
}

/* Becomes REFRESH_UID towards file systems, with a superuser's rights, or returns from that. */
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

static bool resize(const char *path, off_t size)
{
    bool done = act_as(REFRESH_UID) && !truncate(path, size);
    act_as(geteuid());
    return done;
}

static void read_last(int data, off_t size)
{
    char byte;
    ssize_t read = size > 0 ? pread(data, &byte, 1, size - 1) : 0;
    (void)read;
}

/*
 * Drops the pages of a file that has `size` bytes now.
 *
 * Network file systems of Linux 6.8 and later read zeros where they believe that the host has
 * nothing: behind the size at which the inode was made, but for what has been in the cache and left
 * it. So the last byte is read before that.
 */
static void drop_pages(int data, off_t size)
{
    read_last(data, size);
    posix_fadvise(data, 0, 0, POSIX_FADV_DONTNEED);
}

/* Sets the size and drops the pages, before whoever the new size wakes can read: the page of the
 * old end is read beforehand, so that nothing waits for the host if the new end is in it, too. */
static bool resize_and_drop(const char *path, int data, off_t old_size, off_t size)
{
    const struct sched_param first = {.sched_priority = 1}, usual = {0};
    read_last(data, old_size);
    sched_setscheduler(0, SCHED_FIFO, &first);
    bool done = resize(path, size);
    drop_pages(data, size);
    sched_setscheduler(0, SCHED_OTHER, &usual);
    return done;
}

bool agent_renew(const struct mount *mount, int file, off_t size)
{
    char path[PROC_PATH];
    struct stat status;
    if (fstat(file, &status) || !S_ISREG(status.st_mode))
        return false;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    bool renewed = !mount->caches_names;
    int data = mount->caches_pages ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    if (data < 0)
        return renewed;
    if (!mount->caches_names)
        drop_pages(data, status.st_size); /* fstat has asked the host */
    else if (mount->resizes && size >= 0)
        renewed = resize_and_drop(path, data, status.st_size, size);
    close(data);
    return renewed;
}

/* `refresh` can be cut and filled by an agent, and by nobody else. */
bool agent_can_resize(const char *directory)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/refresh", directory) >= sizeof path)
        return false;
    return resize(path, 1) && resize(path, 0);
}
