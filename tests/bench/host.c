/*
 * The workloads as the system calls that any server has to make, in one thread and with no protocol
 * around them: the limit. A name is looked up as a server without a cache does it: opened with
 * O_PATH, looked at, closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host.h"
#include "tree.h"

int host_directory;

static int files_fd, own_fd;
static ino_t file_inos[FILES], level_inos[LEVELS];

struct entry {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[];
};

static int opened(int fd, const char *name)
{
    if (fd < 0)
        broken("%s: %s", name, strerror(errno));
    return fd;
}

static int look_up(int at, const char *name, struct stat *found)
{
    int fd = opened(openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), name);

    if (fstat(fd, found) < 0)
        broken("%s: %s", name, strerror(errno));
    return fd;
}

static void expect_file(struct lane *lane, const struct stat *found, unsigned index)
{
    if (found->st_ino != file_inos[index] || (uint64_t)found->st_size != tree_file_size(index))
        wrong(lane, "file %u has size %llu", index, (unsigned long long)found->st_size);
}

static bool do_getattr(struct lane *lane)
{
    struct stat found;

    if (fstat(own_fd, &found) < 0)
        broken("fstat: %s", strerror(errno));
    expect_file(lane, &found, 0);
    return false;
}

static bool do_stat(struct lane *lane)
{
    unsigned index = draw(lane) % FILES;
    struct stat found;
    char name[16];

    tree_file_name(name, index);
    close(look_up(files_fd, name, &found));
    expect_file(lane, &found, index);
    return false;
}

/* The directories below `at`, one in the other. */
static void walk(struct lane *lane, int at, const char *first, const char *const *names,
                 const ino_t *inos)
{
    int fd = at;

    for (unsigned i = 0; i < LEVELS; i++) {
        struct stat found;
        int below = look_up(fd, i ? names[i] : first, &found);

        if (!S_ISDIR(found.st_mode) || (inos && found.st_ino != inos[i]))
            wrong(lane, "level %u is another", i);
        if (fd != at)
            close(fd);
        fd = below;
    }
    close(fd);
}

static bool do_open(struct lane *lane)
{
    char name[16];

    tree_file_name(name, draw(lane) % FILES);
    close(opened(openat(files_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), name));
    return false;
}

static bool do_read(struct lane *lane)
{
    const uint32_t size = io_size();
    uint64_t offset = draw(lane) % (DATA_SIZE / size) * size;

    if (pread(own_fd, lane->data, size, (off_t)offset) != (ssize_t)size)
        wrong(lane, "a short read");
    if (!tree_data_right(lane->data, offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)offset);
    return false;
}

static bool do_write(struct lane *lane)
{
    const uint32_t size = io_size();

    lane->offset = tree_block_choose(lane, size);
    tree_block_stamp(lane);
    if (pwrite(own_fd, lane->data, size, (off_t)lane->offset) != (ssize_t)size)
        wrong(lane, "a short write");
    tree_written_note(lane->offset);
    return false;
}

static bool do_list(struct lane *lane)
{
    long bytes;

    tree_listing_begin(lane);
    lseek(own_fd, 0, SEEK_SET);
    while ((bytes = syscall(SYS_getdents64, own_fd, lane->data, LISTING)) > 0) {
        for (long at = 0; at < bytes;) {
            const struct entry *one = (const struct entry *)(lane->data + at);

            tree_listing_note(lane, one->name, (unsigned)strlen(one->name));
            at += one->length;
        }
    }
    tree_listing_check(lane);
    return false;
}

static bool do_create(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    close(opened(openat(own_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), name));
    if (unlinkat(own_fd, name, 0) < 0)
        broken("%s: %s", name, strerror(errno));
    return false;
}

static bool do_walk(struct lane *lane)
{
    walk(lane, host_directory, tree_levels[0], tree_levels, level_inos);
    return false;
}

static bool do_fresh_walk(struct lane *lane)
{
    char name[16];

    tree_fresh_entry(name, FRESH_WALK, run.fresh++);
    walk(lane, own_fd, name, tree_fresh_levels, NULL);
    return false;
}

static bool do_fresh_stat(struct lane *lane)
{
    uint32_t index = run.fresh++;
    struct stat found;
    char name[16];

    tree_fresh_entry(name, FRESH_STAT, index);
    close(look_up(own_fd, name, &found));
    if (found.st_mode != (S_IFREG | tree_fresh_mode(index)))
        wrong(lane, "%s has mode %o", name, found.st_mode);
    return false;
}

/* ---- around the runs */

static void begin(struct lane *lane)
{
    int fd = host_directory;
    struct stat found;
    char name[16];

    files_fd = look_up(host_directory, "files", &found);
    for (unsigned i = 0; i < FILES; i++) {
        tree_file_name(name, i);
        close(look_up(files_fd, name, &found));
        file_inos[i] = found.st_ino;
    }
    for (unsigned i = 0; i < LEVELS; i++) {
        fd = look_up(fd, tree_levels[i], &found); /* kept, so that nothing replaces them */
        level_inos[i] = found.st_ino;
    }
    lane->data = malloc(PAYLOAD_MAX);
    if (!lane->data)
        broken("out of memory");
}

static void open_own(const char *name, int flags)
{
    own_fd = opened(openat(host_directory, name, flags | O_CLOEXEC), name);
}

static void open_file(struct lane *lane)
{
    char name[16], path[32];

    tree_file_name(name, lane->index);
    snprintf(path, sizeof(path), "files/%s", name);
    open_own(path, O_RDONLY);
}

static void open_data(struct lane *lane)
{
    (void)lane;
    open_own("data", O_RDONLY);
}

static void open_written(struct lane *lane)
{
    (void)lane;
    open_own("written", O_RDWR);
}

static void open_list(struct lane *lane)
{
    (void)lane;
    open_own("list", O_RDONLY);
}

static void open_made(struct lane *lane)
{
    (void)lane;
    open_own("made", O_RDONLY);
}

static void open_fresh(struct lane *lane)
{
    char name[40];

    (void)lane;
    tree_fresh_name(name);
    open_own(name, O_RDONLY);
}

static void close_own(struct lane *lane)
{
    (void)lane;
    close(own_fd);
}

const struct protocol host = {
    .begin = begin,
    .operations =
        {
            [GETATTR] = {open_file, do_getattr, close_own},
            [STAT] = {NULL, do_stat, NULL},
            [WALK] = {NULL, do_walk, NULL},
            [OPEN] = {NULL, do_open, NULL},
            [READ_SMALL] = {open_data, do_read, close_own},
            [WRITE_SMALL] = {open_written, do_write, close_own},
            [READ_LARGE] = {open_data, do_read, close_own},
            [WRITE_LARGE] = {open_written, do_write, close_own},
            [LIST] = {open_list, do_list, close_own},
            [CREATE] = {open_made, do_create, close_own},
            [CHMOD] = {host_prepare_own, host_chmod, host_release_own},
            [UTIMENS] = {host_prepare_own, host_utimens, host_release_own},
            [TRUNCATE] = {host_prepare_own, host_truncate, host_release_own},
            [RENAME] = {host_prepare_own, host_rename, host_release_own},
            [LINK] = {host_prepare_own, host_link, host_release_own},
            [MKDIR] = {host_prepare_own, host_mkdir, host_release_own},
            [SYMLINK] = {host_prepare_own, host_symlink, host_release_own},
            [READLINK] = {host_prepare_own, host_readlink, host_release_own},
            [XATTR_GET] = {host_prepare_own, host_xattr_get, host_release_own},
            [XATTR_NONE] = {host_prepare_own, host_xattr_none, host_release_own},
            [XATTR_LIST] = {host_prepare_own, host_xattr_list, host_release_own},
            [XATTR_SET] = {host_prepare_own, host_xattr_set, host_release_own},
            [LOCK] = {host_prepare_own, host_lock, host_release_own},
            [GETLOCK] = {host_prepare_own, host_getlock, host_release_own},
            [FSYNC] = {host_prepare_own, host_fsync, host_release_own},
            [STATFS] = {host_prepare_own, host_statfs, host_release_own},
            [ATTACH] = {host_prepare_own, host_attach, host_release_own},
            [FIDS_FILL] = {host_prepare_scale, host_fill, host_release_scale},
            [FIDS_GETATTR] = {host_prepare_scale, host_members_getattr, host_release_scale},
            [ENTRIES_LIST] = {host_prepare_scale, host_entries, host_release_scale},
            [FRESH_STAT] = {open_fresh, do_fresh_stat, close_own},
            [FRESH_WALK] = {open_fresh, do_fresh_walk, close_own},
        },
};
