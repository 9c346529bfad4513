/*
 * A fid table whose process dies at any instruction.
 *
 * A child process, which shares the table and the descriptors, makes one change, instruction by
 * instruction (ptrace(2)). After each one that has changed the table another process takes a
 * private copy of the table, recovers it as if the child had died there, and compares: the change
 * is either made or not, nothing is lost, and all memory is either in use or free. Sometimes the
 * recovery dies, too, and another one follows.
 */
#ifndef FID_DYING_TABLE_H
#define FID_DYING_TABLE_H

#include "fid/recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "check.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/renames.h"
#include "stepped.h"

enum { MAX = 24, DUMP = 1 << 14, AGAIN = 211 /* every so many points recovery dies, too */ };

static char top[] = "/tmp/v9-recover-XXXXXX";
static v9_export *export, *exports[V9_EXPORTS_MAX];
static v9_qidmap *qidmap;
static struct v9_fids *fids; /* shared with the child */
static size_t shared_size;
static int shared_fd, root_fd;

/* ---- files and fids -------------------------------------------------------------------------- */

static void path_to(const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", top, name);
}

static int enter(uint32_t number, const char *name, int flags, struct v9_fid *instead)
{
    const struct v9_route route = {0, 0, 0, (uint32_t)strlen(name), name, 0};
    struct v9_fid_new as = {number, 0, V9_FID_WALKED, -1, flags, &route, NULL};
    struct v9_found file = {-1, -1, 0, NULL};
    char path[PATH_MAX];
    struct v9_attr attr;

    path_to(name, path);
    file.path_fd = v9_sys_reach(AT_FDCWD, path, 0);
    v9_attr_read(export, file.path_fd, "", &attr);
    file.attr = &attr;
    if (flags >= 0)
        as.io_fd = v9_export_open(export, file.path_fd, flags);
    return v9_fids_enter(fids, &as, &file, instead);
}

static inline struct v9_fid *pin(uint32_t number)
{
    struct v9_fid *fid;
    return v9_fids_pin(fids, number, &fid) ? NULL : fid;
}

static void evict_all(void)
{
    for (int i = 0; i < 3; i++)
        while (v9_evict_ops.evict(&fids->shrinker, 16))
            ;
}

SET_UP()
{
    static const char *const folders[] = {"d", "d/e", "d/e/f", "other"};
    static const char *const files[] = {"a", "b", "d/x", "d/e/f/y", "d/e/f/z"};
    struct v9_export_conf conf = {.root_fd = -1};
    char path[PATH_MAX];
    int32_t err;

    CHECK(mkdtemp(top) != NULL);
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
        path_to(folders[i], path);
        CHECK(mkdir(path, 0755) == 0);
    }
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        path_to(files[i], path);
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
    nanosleep(&(struct timespec){0, 150000000}, NULL); /* so that they may be evicted */
    qidmap = v9_qidmap_new();
    conf.root_fd = root_fd = open(top, O_PATH | O_CLOEXEC);
    export = exports[0] = v9_export_new(&conf, qidmap, &err);
    v9_budget_init();
    shared_size = (sizeof(*fids) + 4095) / 4096 * 4096;
    shared_fd = memfd_create("fids", MFD_CLOEXEC);
    CHECK(ftruncate(shared_fd, (off_t)shared_size) == 0);
    fids = mmap(NULL, shared_size, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    CHECK(export && v9_fids_init(fids, MAX, v9_fid_table_map(MAX), exports, &v9_evict_ops) == 0);
    v9_budget_charge(fids->inodes.account);
    CHECK(enter(1, "d", -1, NULL) == 0 && enter(2, "d/x", O_RDWR, NULL) == 0);
    CHECK(enter(900, "d/e/f/y", -1, NULL) == 0 && enter(4, "d/e/f/z", O_RDONLY, NULL) == 0);
    CHECK(enter(5, "d/e", O_RDONLY, NULL) == 0);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

TEAR_DOWN()
{
    v9_fids_destroy(fids);
    munmap(fids, shared_size);
    close(shared_fd);
    v9_export_free(export);
    v9_qidmap_free(qidmap);
    close(root_fd);
    nftw(top, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- what a table says ----------------------------------------------------------------------- */

/* Of a private copy: recovery is over. */
static int put_path(char *at, size_t room, uint32_t dentry)
{
    const struct v9_dentry *each = v9_dentry_at(&fids->dentries, dentry);
    int size = 0;

    if (each->parent)
        size = put_path(at, room, each->parent);
    return size + snprintf(at + size, room - (size_t)size, "/%s%s%s",
                           v9_dentry_text(&fids->dentries, each),
                           each->parent && each->fixed ? "!" : "", each->gone ? "gone" : "");
}

static int put_fid(char *at, size_t room, const struct v9_fid *fid)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    int size = snprintf(at, room, "\n%u ino %lu open %d flags %u walked %u ", fid->number,
                        inode ? inode->st_ino : 0, fid->io_fd != -1, fid->flags, fid->walked_fids);

    if (fid->flags & V9_FID_XATTR)
        size += snprintf(at + size, room - (size_t)size, "%s %.*s of %u ",
                         fid->value->name ? fid->value->name : "", (int)fid->value->written,
                         (const char *)fid->value->data, fid->value->size);
    if (fid->dentry)
        size += put_path(at + size, room - (size_t)size, fid->dentry);
    return size;
}

static void dump(char text[DUMP])
{
    int size = snprintf(text, DUMP, "%u fids", fids->count);

    for (uint32_t number = 0; number < 1000; number++) {
        const uint32_t index = v9_fid_table_find(fids, number);
        if (index)
            size += put_fid(text + size, DUMP - (size_t)size, &fids->entries[index - 1]);
    }
}

static uint64_t free_units(const struct v9_arena *arena)
{
    uint64_t units = arena->units - arena->used;

    for (uint32_t size = 1; size < V9_ARENA_SIZES; size++)
        for (uint32_t at = arena->free[size]; at; memcpy(&at, v9_arena_at(arena, at), sizeof(at)))
            units += size;
    return units;
}

static void check_descriptor(void *context, int32_t fd)
{
    uint64_t *seen = context;

    CHECK(fd >= 0 && fd < 1024 && fcntl(fd, F_GETFD) >= 0);
    CHECK(!(seen[fd / 64] >> fd % 64 & 1));
    seen[fd / 64] |= (uint64_t)1 << fd % 64;
}

/* Uses up a recovered table, and empties it: nothing is left. */
static void check_table(void)
{
    const uint32_t live = fids->live;
    uint64_t seen[16] = {0};
    uint32_t more = 0;

    v9_fids_list_descriptors(fids, check_descriptor, seen);
    CHECK(live == fids->count);
    while (enter(100 + more, "a", -1, NULL) == 0)
        more++;
    CHECK(more == MAX - live);
    v9_dentry_split_all(&fids->dentries);
    CHECK(v9_fids_clear(fids) == 0);
    CHECK(!fids->count && !fids->live && !fids->inodes.count && !fids->inodes.recipes.count);
    CHECK(!fids->open_io.count && !fids->inodes.open.count && !fids->strays.count);
    CHECK(!fids->values.count && !fids->values.bytes && !fids->inodes.files.count);
    CHECK(!fids->dentries.names.count && !fids->dentries.compounds.count);
    CHECK(fids->dentries.count == 1); /* the root */
    v9_recipes_clear_journal(&fids->inodes.recipes);
    CHECK(free_units(&fids->values.arena) == fids->values.arena.units - 1);
    v9_dentry_drop(&fids->dentries, fids->dentries.roots[0], NULL);
    CHECK(free_units(&fids->inodes.recipes.arena) == fids->inodes.recipes.arena.units - 1);
}

/* ---- dying ----------------------------------------------------------------------------------- */

/* The memory of a table in two parts. */
static struct part {
    void *at;
    size_t size, used; /* used: as far as it is looked at */
    uint8_t *last;     /* what was there at the last look */
} parts[2];

static void find_parts(void)
{
    parts[0] = (struct part){fids, shared_size, shared_size, malloc(shared_size)};
    parts[1] = (struct part){fids->map, fids->map_size, 0, NULL};
    parts[1].used = fids->map_size - V9_XATTR_VALUES_ROOM + (1 << 16);
    parts[1].last = malloc(parts[1].used);
}

static void map_part(const struct part *part, int how, int fd)
{
    CHECK(mmap(part->at, part->size, PROT_READ | PROT_WRITE, how | MAP_FIXED | MAP_NORESERVE, fd,
               0) == part->at);
}

/* This process goes on with a copy of the table of its own, which its children share. */
static void take_copy(void)
{
    for (int i = 0; i < 2; i++) {
        const int fd = memfd_create("copy", MFD_CLOEXEC);
        CHECK(ftruncate(fd, (off_t)parts[i].size) == 0);
        CHECK(write(fd, parts[i].at, parts[i].used) == (ssize_t)parts[i].used);
        map_part(&parts[i], MAP_SHARED, fd);
    }
}

static bool has_changed(void)
{
    bool changed = false;

    for (int i = 0; i < 2; i++) {
        if (!memcmp(parts[i].last, parts[i].at, parts[i].used))
            continue; /* as after nearly every instruction */
        memcpy(parts[i].last, parts[i].at, parts[i].used);
        changed = true;
    }
    return changed;
}

/* In a process of its own, with a copy: recovers the table after `work` (NULL: none), dumps it into
 * shared memory, and checks it. */
static bool recovers(void (*work)(void), char text[DUMP])
{
    const pid_t child = fork();
    int status = -1;

    if (child == 0) {
        alarm(20); /* a circle */
        checks_failed = 0;
        take_copy();
        if (work)
            work();
        CHECK(v9_fids_recover(fids) == 0);
        dump(text);
        check_table();
        _exit(checks_failed ? 1 : 0);
    }
    waitpid(child, &status, 0);
    return status == 0;
}

static char *shared_text(void)
{
    return mmap(NULL, DUMP, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static unsigned deaths(void (*work)(void), const char *before, const char *after, unsigned again);

static void recover(void)
{
    v9_fids_recover(fids);
}

/* In a process of its own: recovery itself dies at each of its points. How often that was wrong. */
static unsigned deaths_of_recovery(const char *before, const char *after)
{
    const pid_t child = fork();
    int status = -1;

    if (child == 0) {
        take_copy();
        _exit(deaths(recover, before, after, 0) ? 1 : 0);
    }
    waitpid(child, &status, 0);
    return status != 0;
}

/* At how many of its points the work is neither done nor undone after recovery; each time after
 * `again` points recovery dies, too. */
static unsigned deaths(void (*work)(void), const char *before, const char *after, unsigned again)
{
    const pid_t child = stepped_start(work);
    char *text = shared_text();
    unsigned points = 0, wrong = 0;

    has_changed();
    while (stepped_once(child)) {
        if (!has_changed())
            continue;
        points++;
        if (!recovers(NULL, text) || (strcmp(text, before) && strcmp(text, after))) {
            wrong++;
            fprintf(stderr, "at point %u: %s\nbefore: %s\nafter: %s\n", points, text, before,
                    after);
        }
        if (again && points % again == 0)
            wrong += deaths_of_recovery(before, after);
    }
    CHECK(points > 2);
    stepped_kill(child);
    munmap(text, DUMP);
    return wrong;
}

/* How often the work is neither done nor undone, and what it does, in words. */
static inline unsigned half_done(void (*work)(void))
{
    char *before = shared_text(), *after = shared_text();

    find_parts();
    CHECK(recovers(NULL, before) && recovers(work, after));
    CHECK(strstr(before, "/d/e/f/y") && strcmp(before, after));
    return deaths(work, before, after, AGAIN);
}

#endif
