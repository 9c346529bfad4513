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

static uint64_t files_node, made_node, fresh_node;
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

static bool step_read(struct lane *lane, uint32_t size)
{
    if (lane->step == 0)
        return fuse_transfer(lane, FUSE_READ, draw(lane) % (DATA_SIZE / size) * size, size);
    fuse_expect_body(lane, size);
    if (!tree_data_right(lane->data, lane->offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)lane->offset);
    return false;
}

static bool step_write(struct lane *lane, uint32_t size)
{
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

static bool create(struct lane *lane, const char *name)
{
    struct fuse_create_in in = {.flags = O_RDWR | O_CREAT | O_EXCL, .mode = 0100644};

    fuse_start(lane, FUSE_CREATE, made_node,
               sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
    fuse_put(lane, &in, sizeof(in));
    fuse_put(lane, name, strlen(name) + 1);
    return fuse_finish(lane);
}

static void take_created(struct lane *lane)
{
    const struct fuse_entry_out *made = fuse_body(lane);

    fuse_expect_body(lane, sizeof(*made) + sizeof(struct fuse_open_out));
    if (!made->nodeid || made->attr.mode != 0100644 || made->attr.size)
        wrong(lane, "a new file has mode %o", made->attr.mode);
    lane->node = made->nodeid;
    lane->handle = ((const struct fuse_open_out *)(made + 1))->fh;
}

static bool step_create(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    switch (lane->step) {
    case 0:
        return create(lane, name);
    case 1:
        take_created(lane);
        return fuse_release_handle(lane, FUSE_RELEASE);
    case 2:
        fuse_expect_body(lane, 0);
        fuse_start(lane, FUSE_UNLINK, made_node, 0);
        fuse_put(lane, name, strlen(name) + 1);
        return fuse_finish(lane);
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

static bool step_fresh_walk(struct lane *lane)
{
    char name[16];

    if (lane->step == 0)
        tree_fresh_entry(name, FRESH_WALK, run.fresh++);
    return step_down(lane, fresh_node, name, tree_fresh_levels, NULL);
}

static bool step(enum workload workload, struct lane *lane)
{
    switch (workload) {
    case GETATTR:
        return step_getattr(lane);
    case STAT:
        return step_stat(lane);
    case WALK:
        return step_down(lane, FUSE_ROOT_ID, tree_levels[0], tree_levels, level_inos);
    case OPEN:
        return step_open(lane);
    case READ_SMALL:
    case READ_LARGE:
        return step_read(lane, workload == READ_SMALL ? SMALL : PAYLOAD_MAX);
    case WRITE_SMALL:
    case WRITE_LARGE:
        return step_write(lane, workload == WRITE_SMALL ? SMALL : PAYLOAD_MAX);
    case LIST:
        return step_list(lane);
    case CREATE:
        return step_create(lane);
    case FRESH_STAT:
        return step_fresh_stat(lane);
    default:
        return step_fresh_walk(lane);
    }
}

/* ---- around the runs */

static const struct fuse_entry_out *reach(struct lane *lane, uint64_t parent, const char *name)
{
    fuse_lookup(lane, parent, name);
    engine_call(lane);
    return fuse_entry(lane);
}

static void give_back(struct lane *lane, uint64_t node)
{
    fuse_forget(lane, 1, &node);
    engine_call(lane);
}

static void learn_files(struct lane *lane)
{
    char name[16];

    for (unsigned i = 0; i < FILES; i++) {
        const struct fuse_entry_out *found;

        tree_file_name(name, i);
        found = reach(lane, files_node, name);
        file_inos[i] = found->attr.ino;
        for (unsigned other = 0; other < i; other++)
            if (file_inos[other] == file_inos[i])
                wrong(lane, "files %u and %u have one inode number", other, i);
        give_back(lane, found->nodeid);
    }
}

static void learn_levels(struct lane *lane)
{
    uint64_t nodes[LEVELS], parent = FUSE_ROOT_ID;

    for (unsigned i = 0; i < LEVELS; i++) {
        const struct fuse_entry_out *found = reach(lane, parent, tree_levels[i]);

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
                              .flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS |
                                       FUSE_ATOMIC_O_TRUNC | FUSE_MAX_PAGES};
    const struct fuse_init_out *out = fuse_body(lane);

    fuse_start(lane, FUSE_INIT, 0, sizeof(struct fuse_init_out));
    fuse_put(lane, &in, sizeof(in));
    fuse_finish(lane);
    engine_call(lane);
    fuse_expect_body(lane, sizeof(*out));
    if (out->major != FUSE_KERNEL_VERSION || out->max_write < PAYLOAD_MAX)
        wrong(lane, "version %u, writes of up to %u bytes", out->major, out->max_write);
    files_node = reach(lane, FUSE_ROOT_ID, "files")->nodeid;
    learn_files(lane);
    learn_levels(lane);
}

static void open_own(struct lane *lane, unsigned opcode, const char *name, uint32_t flags)
{
    lane->node = reach(lane, FUSE_ROOT_ID, name)->nodeid;
    fuse_open_node(lane, opcode, lane->node, flags);
    engine_call(lane);
    fuse_take_handle(lane);
}

static void close_own(struct lane *lane, unsigned opcode)
{
    fuse_release_handle(lane, opcode);
    engine_call(lane);
    fuse_expect_body(lane, 0);
    give_back(lane, lane->node);
}

static void prepare(enum workload workload, struct lane *lane)
{
    char name[40];

    switch (workload) {
    case GETATTR:
        tree_file_name(name, lane->index);
        lane->node = reach(lane, files_node, name)->nodeid;
        break;
    case READ_SMALL:
    case READ_LARGE:
        open_own(lane, FUSE_OPEN, "data", O_RDONLY);
        break;
    case WRITE_SMALL:
    case WRITE_LARGE:
        open_own(lane, FUSE_OPEN, "written", O_RDWR);
        break;
    case LIST:
        open_own(lane, FUSE_OPENDIR, "list", O_RDONLY | O_DIRECTORY);
        break;
    case CREATE:
        if (lane->index == 0)
            made_node = reach(lane, FUSE_ROOT_ID, "made")->nodeid;
        break;
    case FRESH_STAT:
    case FRESH_WALK:
        tree_fresh_name(name);
        if (lane->index == 0)
            fresh_node = reach(lane, FUSE_ROOT_ID, name)->nodeid;
        break;
    default:
        break;
    }
}

static void release(enum workload workload, struct lane *lane)
{
    switch (workload) {
    case GETATTR:
        give_back(lane, lane->node);
        break;
    case READ_SMALL:
    case READ_LARGE:
    case WRITE_SMALL:
    case WRITE_LARGE:
        close_own(lane, FUSE_RELEASE);
        break;
    case LIST:
        close_own(lane, FUSE_RELEASEDIR);
        break;
    case CREATE:
        if (lane->index == 0)
            give_back(lane, made_node);
        break;
    case FRESH_STAT:
    case FRESH_WALK:
        if (lane->index == 0)
            give_back(lane, fresh_node);
        break;
    default:
        break;
    }
}

const struct protocol fuse = {begin, prepare, release, step, fuse_check, true};
