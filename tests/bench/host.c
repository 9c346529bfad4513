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

static void do_getattr(struct lane *lane)
{
    struct stat found;

    if (fstat(own_fd, &found) < 0)
        broken("fstat: %s", strerror(errno));
    expect_file(lane, &found, 0);
}

static void do_stat(struct lane *lane)
{
    unsigned index = draw(lane) % FILES;
    struct stat found;
    char name[16];

    tree_file_name(name, index);
    close(look_up(files_fd, name, &found));
    expect_file(lane, &found, index);
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

static void do_open(struct lane *lane)
{
    char name[16];

    tree_file_name(name, draw(lane) % FILES);
    close(opened(openat(files_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), name));
}

static void do_read(struct lane *lane, uint32_t size)
{
    uint64_t offset = draw(lane) % (DATA_SIZE / size) * size;

    if (pread(own_fd, lane->data, size, (off_t)offset) != (ssize_t)size)
        wrong(lane, "a short read");
    if (!tree_data_right(lane->data, offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)offset);
}

static void do_write(struct lane *lane, uint32_t size)
{
    lane->offset = tree_block_choose(lane, size);
    tree_block_stamp(lane);
    if (pwrite(own_fd, lane->data, size, (off_t)lane->offset) != (ssize_t)size)
        wrong(lane, "a short write");
    tree_written_note(lane->offset);
}

static void do_list(struct lane *lane)
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
}

static void do_create(void)
{
    close(opened(openat(own_fd, "f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "f"));
    if (unlinkat(own_fd, "f", 0) < 0)
        broken("f: %s", strerror(errno));
}

static void do_fresh(struct lane *lane)
{
    uint32_t index = run.fresh++;
    struct stat found;
    char name[16];

    tree_fresh_entry(name, run.workload, index);
    if (run.workload == FRESH_WALK) {
        walk(lane, own_fd, name, tree_fresh_levels, NULL);
        return;
    }
    close(look_up(own_fd, name, &found));
    if (found.st_mode != (S_IFREG | tree_fresh_mode(index)))
        wrong(lane, "%s has mode %o", name, found.st_mode);
}

static bool step(enum workload workload, struct lane *lane)
{
    if (is_upcall(workload)) {
        host_step_upcall(workload);
        return false;
    }
    if (is_scale(workload)) {
        host_step_scale(workload, lane);
        return false;
    }
    switch (workload) {
    case GETATTR:
        do_getattr(lane);
        break;
    case STAT:
        do_stat(lane);
        break;
    case WALK:
        walk(lane, host_directory, tree_levels[0], tree_levels, level_inos);
        break;
    case OPEN:
        do_open(lane);
        break;
    case READ_SMALL:
    case READ_LARGE:
        do_read(lane, workload == READ_SMALL ? SMALL : PAYLOAD_MAX);
        break;
    case WRITE_SMALL:
    case WRITE_LARGE:
        do_write(lane, workload == WRITE_SMALL ? SMALL : PAYLOAD_MAX);
        break;
    case LIST:
        do_list(lane);
        break;
    case CREATE:
        do_create();
        break;
    default:
        do_fresh(lane);
        break;
    }
    return false;
}

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

static void prepare(enum workload workload, struct lane *lane)
{
    static const char *const names[WORKLOADS] = {
        [GETATTR] = "files/f000",  [READ_SMALL] = "data",     [READ_LARGE] = "data",
        [WRITE_SMALL] = "written", [WRITE_LARGE] = "written", [LIST] = "list",
        [CREATE] = "made",
    };
    char name[40];
    int flags = O_RDONLY | O_CLOEXEC;

    if (lane->index || workload == STAT || workload == WALK || workload == OPEN)
        return;
    if (is_upcall(workload)) {
        host_prepare_upcall(workload);
        return;
    }
    if (is_scale(workload)) {
        host_prepare_scale(workload);
        return;
    }
    tree_fresh_name(name);
    if (workload < FRESH_STAT)
        snprintf(name, sizeof(name), "%s", names[workload]);
    if (workload == WRITE_SMALL || workload == WRITE_LARGE)
        flags = O_RDWR | O_CLOEXEC;
    own_fd = opened(openat(host_directory, name, flags), name);
}

static void release(enum workload workload, struct lane *lane)
{
    if (is_upcall(workload))
        host_release_upcall();
    else if (is_scale(workload))
        host_release_scale();
    else if (lane->index == 0 && workload != STAT && workload != WALK && workload != OPEN)
        close(own_fd);
}

const struct protocol host = {begin, prepare, release, step, NULL, false};
