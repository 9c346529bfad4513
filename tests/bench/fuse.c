/*
 * The workloads over FUSE, as virtio-fs carries it.
 *
 * A lookup brings the attributes along, so that a stat is one; the forget that follows gives the
 * server's file back as Tclunk does (Linux sends it later and in batches, but sends it). With
 * entries that are not cached every name of a path is a lookup of its own.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fuse.h"
#include "tree.h"

enum { PROTOCOL_MINOR = 38 };

uint64_t fuse_made;

static uint64_t files_node, fresh_node;
static uint64_t file_inos[FILES], level_inos[LEVELS];

static void expect_file(struct lane *lane)
{
    const struct fuse_entry_out *found = fuse_entry(lane);

    fuse_expect_attr(lane, &found->attr, file_inos[lane->choice], 0100644,
                     tree_file_size(lane->choice));
    lane->node = found->nodeid;
}

/* ---- operations */

static bool step_getattr(struct lane *lane)
{
    const struct fuse_attr_out *out = fuse_body(lane);

    if (lane->step == 0) {
        fuse_start(lane, FUSE_GETATTR, lane->node, sizeof(struct fuse_attr_out));
        fuse_put(lane, &(struct fuse_getattr_in){0}, sizeof(struct fuse_getattr_in));
        return fuse_finish(lane);
    }
    fuse_expect_body(lane, sizeof(*out));
    fuse_expect_attr(lane, &out->attr, file_inos[lane->index], 0100644,
                     tree_file_size(lane->index));
    return false;
}

static bool lookup_any(struct lane *lane)
{
    char name[16];

    lane->choice = draw(lane) % FILES;
    tree_file_name(name, lane->choice);
    return fuse_lookup(lane, files_node, name);
}

static bool step_stat(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return lookup_any(lane);
    case 1:
        expect_file(lane);
        return fuse_forget(lane, 1, &lane->node);
    default:
        return false;
    }
}

/* Names looked up one below the other; `first` names the first, below `top`. */
static bool step_down(struct lane *lane, uint64_t top, const char *first, const char *const *names,
                      const uint64_t *inos)
{
    if (lane->step == 0)
        return fuse_lookup(lane, top, first);
    if (lane->step <= LEVELS) {
        const struct fuse_entry_out *found = fuse_entry(lane);

        if (!S_ISDIR(found->attr.mode) || (inos && found->attr.ino != inos[lane->step - 1]))
            wrong(lane, "inode %llu of mode %o", (unsigned long long)found->attr.ino,
                  found->attr.mode);
        lane->nodes[lane->step - 1] = found->nodeid;
    }
    if (lane->step < LEVELS)
        return fuse_lookup(lane, lane->nodes[lane->step - 1], names[lane->step]);
    return lane->step == LEVELS ? fuse_forget(lane, LEVELS, lane->nodes) : false;
}

static bool step_open(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return lookup_any(lane);
    case 1:
        expect_file(lane);
        return fuse_open_node(lane, FUSE_OPEN, lane->node, O_RDONLY);
    case 2:
        fuse_take_handle(lane);
        return fuse_release_handle(lane, FUSE_RELEASE);
    case 3:
        fuse_expect_body(lane, 0);
        return fuse_forget(lane, 1, &lane->node);
    default:
        return false;
    }
}

static bool step_read(struct lane *lane)
{
    const uint32_t size = io_size();

    if (lane->step == 0)
        return fuse_transfer(lane, FUSE_READ, draw(lane) % (DATA_SIZE / size) * size, size);
    fuse_expect_body(lane, size);
    if (!tree_data_right(lane->data, lane->offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)lane->offset);
    return false;
}

static bool step_write(struct lane *lane)
{
    const uint32_t size = io_size();

    if (lane->step == 0) {
        fuse_transfer(lane, FUSE_WRITE, tree_block_choose(lane, size), size);
        tree_block_stamp(lane);
        return true;
    }
    fuse_expect_body(lane, sizeof(struct fuse_write_out));
    if (((const struct fuse_write_out *)fuse_body(lane))->size != size)
        wrong(lane, "%u bytes written", ((const struct fuse_write_out *)fuse_body(lane))->size);
    tree_written_note(lane->offset);
    return false;
}

/* Notes the entries of a reply; returns the offset to go on from. */
static uint64_t take_entries(struct lane *lane, uint32_t bytes)
{
    uint64_t offset = lane->offset;
    uint32_t at = 0;

    while (at < bytes) {
        const struct fuse_dirent *one = (const struct fuse_dirent *)(lane->data + at);
        uint32_t left = bytes - at;

        if (left < FUSE_NAME_OFFSET || left < FUSE_DIRENT_SIZE(one))
            wrong(lane, "an entry is cut short");
        offset = one->off;
        if (tree_listing_note(lane, one->name, one->namelen) >= 0 && one->type != 8)
            wrong(lane, "an entry is of type %u", one->type);
        at += (uint32_t)FUSE_DIRENT_SIZE(one);
    }
    return offset;
}

static bool step_list(struct lane *lane)
{
    uint32_t bytes;

    if (lane->step == 0) {
        tree_listing_begin(lane);
        return fuse_transfer(lane, FUSE_READDIR, 0, LISTING);
    }
    bytes = lane->written - (uint32_t)sizeof(struct fuse_out_header);
    if (bytes)
        return fuse_transfer(lane, FUSE_READDIR, take_entries(lane, bytes), LISTING);
    tree_listing_check(lane);
    return false;
}

static bool step_create(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    switch (lane->step) {
    case 0:
        return fuse_create(lane, fuse_made, name);
    case 1:
        fuse_take_created(lane);
        return fuse_release_handle(lane, FUSE_RELEASE);
    case 2:
        fuse_expect_body(lane, 0);
        return fuse_remove(lane, FUSE_UNLINK, fuse_made, name);
    case 3:
        fuse_expect_body(lane, 0);
        return fuse_forget(lane, 1, &lane->node);
    default:
        return false;
    }
}

static bool step_fresh_stat(struct lane *lane)
{
    const struct fuse_entry_out *found;
    char name[16];

    switch (lane->step) {
    case 0:
        lane->choice = run.fresh++;
        tree_fresh_entry(name, FRESH_STAT, lane->choice);
        return fuse_lookup(lane, fresh_node, name);
    case 1:
        found = fuse_entry(lane);
        fuse_expect_attr(lane, &found->attr, found->attr.ino,
                         0100000 | tree_fresh_mode(lane->choice), 0);
        lane->node = found->nodeid;
        return fuse_forget(lane, 1, &lane->node);
    default:
        return false;
    }
}

static bool step_walk(struct lane *lane)
{
    return step_down(lane, FUSE_ROOT_ID, tree_levels[0], tree_levels, level_inos);
}

static bool step_fresh_walk(struct lane *lane)
{
    char name[16];

    if (lane->step == 0)
        tree_fresh_entry(name, FRESH_WALK, run.fresh++);
    return step_down(lane, fresh_node, name, tree_fresh_levels, NULL);
}

/* ---- around the runs */

static void learn_files(struct lane *lane)
{
    char name[16];

    for (unsigned i = 0; i < FILES; i++) {
        const struct fuse_entry_out *found;

        tree_file_name(name, i);
        found = fuse_reach(lane, files_node, name);
        file_inos[i] = found->attr.ino;
        for (unsigned other = 0; other < i; other++)
            if (file_inos[other] == file_inos[i])
                wrong(lane, "files %u and %u have one inode number", other, i);
        fuse_give_back(lane, found->nodeid);
    }
}

static void learn_levels(struct lane *lane)
{
    uint64_t nodes[LEVELS], parent = FUSE_ROOT_ID;

    for (unsigned i = 0; i < LEVELS; i++) {
        const struct fuse_entry_out *found = fuse_reach(lane, parent, tree_levels[i]);

        level_inos[i] = found->attr.ino;
        nodes[i] = parent = found->nodeid;
    }
    fuse_forget(lane, LEVELS, nodes);
    engine_call(lane);
}

static void begin(struct lane *lane)
{
    struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION,
                              .minor = PROTOCOL_MINOR,
                              .max_readahead = 128 * 1024,
                              .flags = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_BIG_WRITES |
                                       FUSE_PARALLEL_DIROPS | FUSE_ATOMIC_O_TRUNC | FUSE_MAX_PAGES};
    const struct fuse_init_out *out = fuse_body(lane);

    fuse_start(lane, FUSE_INIT, 0, sizeof(struct fuse_init_out));
    fuse_put(lane, &in, sizeof(in));
    fuse_finish(lane);
    engine_call(lane);
    fuse_expect_body(lane, sizeof(*out));
    if (out->major != FUSE_KERNEL_VERSION || out->max_write < PAYLOAD_MAX)
        wrong(lane, "version %u, writes of up to %u bytes", out->major, out->max_write);
    files_node = fuse_reach(lane, FUSE_ROOT_ID, "files")->nodeid;
    learn_files(lane);
    learn_levels(lane);
}

static void open_own(struct lane *lane, unsigned opcode, const char *name, uint32_t flags)
{
    lane->node = fuse_reach(lane, FUSE_ROOT_ID, name)->nodeid;
    fuse_open_node(lane, opcode, lane->node, flags);
    engine_call(lane);
    fuse_take_handle(lane);
}

static void close_own(struct lane *lane, unsigned opcode)
{
    fuse_release_handle(lane, opcode);
    engine_call(lane);
    fuse_expect_body(lane, 0);
    fuse_give_back(lane, lane->node);
}

static void reach_own(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    lane->node = fuse_reach(lane, files_node, name)->nodeid;
}

static void release_node(struct lane *lane)
{
    fuse_give_back(lane, lane->node);
}

static void open_data(struct lane *lane)
{
    open_own(lane, FUSE_OPEN, "data", O_RDONLY);
}

static void open_written(struct lane *lane)
{
    open_own(lane, FUSE_OPEN, "written", O_RDWR);
}

static void close_file(struct lane *lane)
{
    close_own(lane, FUSE_RELEASE);
}

static void open_list(struct lane *lane)
{
    open_own(lane, FUSE_OPENDIR, "list", O_RDONLY | O_DIRECTORY);
}

static void close_list(struct lane *lane)
{
    close_own(lane, FUSE_RELEASEDIR);
}

void fuse_reach_made(struct lane *lane)
{
    if (lane->index == 0)
        fuse_made = fuse_reach(lane, FUSE_ROOT_ID, "made")->nodeid;
}

void fuse_release_made(struct lane *lane)
{
    if (lane->index + 1 == run.depth)
        fuse_give_back(lane, fuse_made);
}

static void reach_fresh(struct lane *lane)
{
    char name[40];

    tree_fresh_name(name);
    if (lane->index == 0)
        fresh_node = fuse_reach(lane, FUSE_ROOT_ID, name)->nodeid;
}

static void release_fresh(struct lane *lane)
{
    if (lane->index == 0)
        fuse_give_back(lane, fresh_node);
}

const struct protocol fuse = {
    .begin = begin,
    .check = fuse_check,
    .operations =
        {
            [GETATTR] = {reach_own, step_getattr, release_node},
            [STAT] = {NULL, step_stat, NULL},
            [WALK] = {NULL, step_walk, NULL},
            [OPEN] = {NULL, step_open, NULL},
            [READ_SMALL] = {open_data, step_read, close_file},
            [WRITE_SMALL] = {open_written, step_write, close_file},
            [READ_LARGE] = {open_data, step_read, close_file},
            [WRITE_LARGE] = {open_written, step_write, close_file},
            [LIST] = {open_list, step_list, close_list},
            [CREATE] = {fuse_reach_made, step_create, fuse_release_made},
            [CHMOD] = {fuse_prepare_own, fuse_chmod, fuse_release_own},
            [UTIMENS] = {fuse_prepare_own, fuse_utimens, fuse_release_own},
            [TRUNCATE] = {fuse_prepare_own, fuse_truncate, fuse_release_own},
            [RENAME] = {fuse_prepare_own, fuse_rename, fuse_release_own},
            [LINK] = {fuse_prepare_own, fuse_link, fuse_release_own},
            [MKDIR] = {fuse_prepare_own, fuse_mkdir, fuse_release_own},
            [SYMLINK] = {fuse_prepare_own, fuse_symlink, fuse_release_own},
            [READLINK] = {fuse_prepare_own, fuse_readlink, fuse_release_own},
            [XATTR_GET] = {fuse_prepare_own, fuse_xattr_get, fuse_release_own},
            [XATTR_NONE] = {fuse_prepare_own, fuse_xattr_none, fuse_release_own},
            [XATTR_LIST] = {fuse_prepare_own, fuse_xattr_list, fuse_release_own},
            [XATTR_SET] = {fuse_prepare_own, fuse_xattr_set, fuse_release_own},
            [LOCK] = {fuse_prepare_own, fuse_lock, fuse_release_own},
            [GETLOCK] = {fuse_prepare_own, fuse_getlock, fuse_release_own},
            [FSYNC] = {fuse_prepare_own, fuse_fsync, fuse_release_own},
            [STATFS] = {fuse_prepare_own, fuse_statfs, fuse_release_own},
            [FRESH_STAT] = {reach_fresh, step_fresh_stat, release_fresh},
            [FRESH_WALK] = {reach_fresh, step_fresh_walk, release_fresh},
        },
};
