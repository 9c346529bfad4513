/*
 * The files that the workloads use: see tree.h.
 */
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

const char *const tree_levels[LEVELS] = {"level1", "level2", "level3", "level4",
                                         "level5", "level6", "level7", "level8"};
const char *const tree_fresh_levels[LEVELS] = {"", "a", "b", "c", "d", "e", "f", "g"};

static uint8_t written_blocks[DATA_SIZE / SMALL];
static uint64_t file_system_size;

static void must(bool held, const char *what, const char *name)
{
    if (!held)
        broken("%s %s: %s", what, name, strerror(errno));
}

static int make_directory(int at, const char *name)
{
    int fd;

    must(mkdirat(at, name, 0755) == 0 || errno == EEXIST, "cannot make", name);
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(fd >= 0, "cannot open", name);
    return fd;
}

static int make_file(int at, const char *name)
{
    int fd = openat(at, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    must(fd >= 0, "cannot make", name);
    return fd;
}

static uint64_t data_word(uint64_t offset)
{
    return (offset + 1) * 0x9E3779B97F4A7C15ull;
}

static void make_data(int at, const char *name)
{
    static uint64_t words[PAYLOAD_MAX / 8];
    uint64_t offset;
    int fd = make_file(at, name);

    for (offset = 0; offset < DATA_SIZE; offset += sizeof(words)) {
        for (size_t i = 0; i < PAYLOAD_MAX / 8; i++)
            words[i] = data_word(offset + 8 * i);
        must(write(fd, words, sizeof(words)) == sizeof(words), "cannot write", name);
    }
    close(fd);
}

static void make_levels(int at, const char *const names[LEVELS], unsigned first)
{
    int fd = dup(at);

    for (unsigned i = first; i < LEVELS; i++) {
        int below = make_directory(fd, names[i]);

        close(fd);
        fd = below;
    }
    close(fd);
}

void tree_make(int at)
{
    char name[32];
    int files = make_directory(at, "files"), list = make_directory(at, "list"), fd;

    for (unsigned i = 0; i < FILES; i++) {
        tree_file_name(name, i);
        fd = make_file(files, name);
        must(ftruncate(fd, (off_t)tree_file_size(i)) == 0, "cannot size", name);
        close(fd);
    }
    for (unsigned i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof(name), "e%05u", i);
        close(make_file(list, name));
    }
    make_levels(at, tree_levels, 0);
    make_data(at, "data");
    make_data(at, "written");
    close(make_directory(at, "made"));
    close(files);
    close(list);
}

void tree_many_name(char name[32])
{
    snprintf(name, 32, "many-%u", run.entries);
}

void tree_many_entry(char name[16], uint32_t index)
{
    snprintf(name, 16, "e%07u", index);
}

void tree_grow(int at, uint32_t count)
{
    char name[32];
    int fd;

    run.entries = count;
    tree_many_name(name);
    fd = make_directory(at, name);
    for (uint32_t i = 0; i < count; i++) {
        tree_many_entry(name, i);
        must(mknodat(fd, name, S_IFREG | tree_fresh_mode(i), 0) == 0, "cannot make", name);
    }
    close(fd);
}

void tree_file_name(char name[16], unsigned index)
{
    snprintf(name, 16, "f%03u", index);
}

uint64_t tree_file_size(unsigned index)
{
    return 1000 + 3 * (uint64_t)index;
}

void tree_own_name(const struct lane *lane, char name[16], bool other)
{
    snprintf(name, 16, "%c%03u", other ? 'g' : 'f', lane->index);
}

bool tree_names_xattr(const uint8_t *names, uint32_t size)
{
    for (uint32_t at = 0; at < size;) {
        uint32_t length = (uint32_t)strnlen((const char *)names + at, size - at);

        if (length == sizeof(XATTR_NAME) - 1 && !memcmp(names + at, XATTR_NAME, length))
            return at + length < size;
        at += length + 1;
    }
    return false;
}

void tree_note_size(int at)
{
    struct statvfs found;

    must(fstatvfs(at, &found) == 0, "no size of", "the tree");
    file_system_size = found.f_frsize * found.f_blocks;
}

bool tree_size_right(uint64_t unit, uint64_t blocks)
{
    uint64_t size = unit * blocks;

    return unit && size <= file_system_size && file_system_size - size < unit;
}

/* ---- listings */

/* The entry that a name stands for, or -1. */
static int entry_number(const char *name, unsigned length)
{
    int value = 0;

    if (length != 6 || name[0] != 'e')
        return -1;
    for (unsigned i = 1; i < 6; i++) {
        if (name[i] < '0' || name[i] > '9')
            return -1;
        value = 10 * value + (name[i] - '0');
    }
    return value < ENTRIES ? value : -1;
}

void tree_listing_begin(struct lane *lane)
{
    memset(lane->seen, 0, ENTRIES);
    lane->entries = 0;
}

int tree_listing_note(struct lane *lane, const char *name, unsigned length)
{
    int number = entry_number(name, length);

    if (number < 0 && (length > 2 || memcmp(name, "..", length) != 0))
        wrong(lane, "there is no entry %.*s", (int)length, name);
    if (number >= 0 && lane->seen[number]++)
        wrong(lane, "entry %d comes twice", number);
    lane->entries += number >= 0;
    return number;
}

void tree_listing_check(const struct lane *lane)
{
    if (lane->entries != ENTRIES)
        wrong(lane, "%u entries instead of %d", lane->entries, ENTRIES);
}

/* ---- fresh directories */

void tree_fresh_name(char name[40])
{
    snprintf(name, 40, "fresh-%llx", (unsigned long long)run.serial);
}

uint32_t tree_fresh_count(enum workload workload)
{
    return workload == FRESH_STAT ? FRESH_FILES : FRESH_WAYS;
}

void tree_fresh_entry(char name[16], enum workload workload, unsigned index)
{
    snprintf(name, 16, "%c%05u", workload == FRESH_STAT ? 'f' : 'w', index);
}

unsigned tree_fresh_mode(unsigned index)
{
    return 0400 | (index & 077);
}

void tree_fresh_make(int at, enum workload workload)
{
    char name[40];
    int fd, below;

    tree_fresh_name(name);
    fd = make_directory(at, name);
    for (uint32_t i = 0; i < tree_fresh_count(workload); i++) {
        tree_fresh_entry(name, workload, i);
        if (workload == FRESH_STAT) {
            below = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, tree_fresh_mode(i));
            must(below >= 0, "cannot make", name);
        } else {
            below = make_directory(fd, name);
            make_levels(below, tree_fresh_levels, 1);
        }
        close(below);
    }
    close(fd);
}

void tree_fresh_remove(int at, enum workload workload)
{
    char name[40], path[64];
    int fd;

    tree_fresh_name(name);
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(fd >= 0, "cannot open", name);
    for (uint32_t i = 0; i < tree_fresh_count(workload); i++) {
        tree_fresh_entry(name, workload, i);
        if (workload == FRESH_STAT) {
            must(unlinkat(fd, name, 0) == 0, "cannot remove", name);
            continue;
        }
        snprintf(path, sizeof(path), "%s/a/b/c/d/e/f/g", name);
        for (unsigned level = 0; level < LEVELS; level++) {
            must(unlinkat(fd, path, AT_REMOVEDIR) == 0, "cannot remove", path);
            path[strlen(path) - (level + 1 < LEVELS ? 2 : 0)] = 0;
        }
    }
    close(fd);
    tree_fresh_name(name);
    must(unlinkat(at, name, AT_REMOVEDIR) == 0, "cannot remove", name);
}

/* ---- contents */

bool tree_data_right(const uint8_t *bytes, uint64_t offset, uint32_t size)
{
    /* All of a large read would take longer than reading it. */
    uint32_t stride = size > SMALL ? 512 : 8;

    for (uint32_t i = 0; i < size; i += stride)
        if (*(const uint64_t *)(bytes + i) != data_word(offset + i))
            return false;
    return *(const uint64_t *)(bytes + size - 8) == data_word(offset + size - 8);
}

static uint64_t block_word(unsigned lane, uint64_t i)
{
    return data_word(run.serial * MAX_LANES + lane) ^ (i << 40);
}

void tree_block_fill(struct lane *lane, uint32_t size)
{
    for (uint32_t i = 0; i < size / 8; i++)
        ((uint64_t *)lane->data)[i] = block_word(lane->index, i);
}

uint64_t tree_block_choose(struct lane *lane, uint32_t size)
{
    uint64_t blocks = DATA_SIZE / size / run.depth;

    return (draw(lane) % blocks * run.depth + lane->index) * size;
}

void tree_block_stamp(struct lane *lane)
{
    *(uint64_t *)lane->data = lane->offset;
}

void tree_written_begin(void)
{
    memset(written_blocks, 0, sizeof(written_blocks));
}

void tree_written_note(uint64_t offset)
{
    written_blocks[offset / SMALL] = 1;
}

void tree_written_check(int at, uint32_t size)
{
    static uint64_t words[PAYLOAD_MAX / 8];
    int fd = openat(at, "written", O_RDONLY | O_CLOEXEC);

    must(fd >= 0, "cannot open", "written");
    for (uint64_t offset = 0; offset < DATA_SIZE; offset += size) {
        unsigned lane = (unsigned)(offset / size % run.depth);

        if (!written_blocks[offset / SMALL])
            continue;
        must(pread(fd, words, size, (off_t)offset) == (ssize_t)size, "cannot read", "written");
        if (words[0] != offset)
            wrong(NULL, "the block written at %llu tells offset %llu", (unsigned long long)offset,
                  (unsigned long long)words[0]);
        for (uint32_t i = 1; i < size / 8; i++)
            if (words[i] != block_word(lane, i))
                wrong(NULL, "what was written at %llu is not there", (unsigned long long)offset);
    }
    close(fd);
}
