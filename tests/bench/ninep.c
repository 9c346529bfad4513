/*
 * The workloads over 9P2000.L, in the requests that Linux's client makes of them.
 */
#include "ninep.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "tree.h"

static struct qid file_qids[FILES], level_qids[LEVELS];

/* ---- operations */

static bool step_getattr(struct lane *lane)
{
    if (lane->step == 0)
        return getattr(lane, own_fid(lane));
    expect_attr(lane, file_qids[lane->index], 0100644, tree_file_size(lane->index));
    return false;
}

static bool step_stat(struct lane *lane)
{
    char name[16];

    switch (lane->step) {
    case 0:
        lane->choice = draw(lane) % FILES;
        tree_file_name(name, lane->choice);
        return walk_one(lane, FID_FILES, name);
    case 1:
        expect_qid(lane, walked(lane, 1), file_qids[lane->choice]);
        return getattr(lane, own_fid(lane));
    case 2:
        expect_attr(lane, file_qids[lane->choice], 0100644, tree_file_size(lane->choice));
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_walk(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return walk(lane, FID_ROOT, own_fid(lane), LEVELS, tree_levels);
    case 1:
        walked(lane, LEVELS);
        for (unsigned i = 0; i < LEVELS; i++)
            expect_qid(lane, lane->in + HEADER + 2 + i * QID, level_qids[i]);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_open(struct lane *lane)
{
    char name[16];

    switch (lane->step) {
    case 0:
        lane->choice = draw(lane) % FILES;
        tree_file_name(name, lane->choice);
        return walk_one(lane, FID_FILES, name);
    case 1:
        expect_qid(lane, walked(lane, 1), file_qids[lane->choice]);
        return lopen(lane, own_fid(lane), O_RDONLY);
    case 2:
        expect_size(lane, HEADER + QID + 4);
        expect_qid(lane, lane->in + HEADER, file_qids[lane->choice]);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_read(struct lane *lane)
{
    const uint32_t size = io_size();

    if (lane->step == 0)
        return transfer(lane, T_READ, draw(lane) % (DATA_SIZE / size) * size, size);
    received(lane, size, false);
    if (!tree_data_right(lane->data, lane->offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)lane->offset);
    return false;
}

static bool step_write(struct lane *lane)
{
    const uint32_t size = io_size();

    if (lane->step == 0) {
        transfer(lane, T_WRITE, tree_block_choose(lane, size), size);
        tree_block_stamp(lane);
        return true;
    }
    expect_size(lane, HEADER + 4);
    if (get(lane->in + HEADER, 4) != size)
        wrong(lane, "%u bytes written", (unsigned)get(lane->in + HEADER, 4));
    tree_written_note(lane->offset);
    return false;
}

/* Notes the entries of a reply; returns the offset to go on from. */
static uint64_t take_entries(struct lane *lane, uint32_t bytes)
{
    uint64_t offset = lane->offset;
    uint32_t at = 0;

    while (at < bytes) {
        const uint8_t *entry = lane->data + at;
        uint32_t length, left = bytes - at;
        int number;

        if (left < QID + 11 || left < QID + 11 + (length = (uint32_t)get(entry + QID + 9, 2)))
            wrong(lane, "an entry is cut short");
        offset = get(entry + QID, 8);
        number = tree_listing_note(lane, (const char *)entry + QID + 11, length);
        if (number >= 0 && (entry[0] != 0 || entry[QID + 8] != 8))
            wrong(lane, "entry %d is of type %x/%u", number, entry[0], entry[QID + 8]);
        at += QID + 11 + length;
    }
    return offset;
}

static bool step_list(struct lane *lane)
{
    uint32_t bytes;

    if (lane->step == 0) {
        tree_listing_begin(lane);
        return transfer(lane, T_READDIR, 0, LISTING);
    }
    bytes = received(lane, LISTING, true);
    if (bytes)
        return transfer(lane, T_READDIR, take_entries(lane, bytes), LISTING);
    tree_listing_check(lane);
    return false;
}

static bool step_create(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    switch (lane->step) {
    case 0:
        return walk(lane, FID_MADE, own_fid(lane), 0, NULL);
    case 1:
        expect_size(lane, HEADER + 2);
        return lcreate(lane, own_fid(lane), name);
    case 2:
        expect_size(lane, HEADER + QID + 4);
        if (lane->in[HEADER])
            wrong(lane, "a new file has a qid of type %x", lane->in[HEADER]);
        return clunk(lane, own_fid(lane));
    case 3:
        expect_size(lane, HEADER);
        return unlink_in(lane, FID_MADE, name, 0);
    default:
        return ended(lane);
    }
}

static bool step_fresh_stat(struct lane *lane)
{
    const uint8_t *qid;
    char name[16];

    switch (lane->step) {
    case 0:
        lane->choice = run.fresh++;
        tree_fresh_entry(name, FRESH_STAT, lane->choice);
        return walk_one(lane, FID_FRESH, name);
    case 1:
        qid = walked(lane, 1);
        lane->node = qid_at(qid).path;
        expect_qid(lane, qid, (struct qid){0, lane->node});
        return getattr(lane, own_fid(lane));
    case 2:
        expect_attr(lane, (struct qid){0, lane->node}, 0100000 | tree_fresh_mode(lane->choice), 0);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_fresh_walk(struct lane *lane)
{
    const char *names[LEVELS];
    char name[16];

    switch (lane->step) {
    case 0:
        memcpy(names, tree_fresh_levels, sizeof(names));
        tree_fresh_entry(name, FRESH_WALK, run.fresh++);
        names[0] = name;
        return walk(lane, FID_FRESH, own_fid(lane), LEVELS, names);
    case 1:
        walked(lane, LEVELS);
        for (unsigned i = 0; i < LEVELS; i++)
            if (lane->in[HEADER + 2 + i * QID] != QID_DIR)
                wrong(lane, "name %u is no directory", i);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

/* ---- around the runs */

static void learn_files(struct lane *lane)
{
    char name[16];

    for (unsigned i = 0; i < FILES; i++) {
        tree_file_name(name, i);
        file_qids[i] = reach(lane, FID_FILES, own_fid(lane), name);
        for (unsigned other = 0; other < i; other++)
            if (file_qids[other].path == file_qids[i].path)
                wrong(lane, "files %u and %u have one qid", other, i);
        give_back(lane, own_fid(lane));
    }
}

static void learn_levels(struct lane *lane)
{
    walk(lane, FID_ROOT, own_fid(lane), LEVELS, tree_levels);
    engine_call(lane);
    walked(lane, LEVELS);
    for (unsigned i = 0; i < LEVELS; i++) {
        level_qids[i] = qid_at(lane->in + HEADER + 2 + i * QID);
        if (level_qids[i].type != QID_DIR)
            wrong(lane, "level %u is no directory", i + 1);
    }
    give_back(lane, own_fid(lane));
}

static void begin(struct lane *lane)
{
    start(lane, T_VERSION);
    put(lane, MSIZE, 4);
    put_string(lane, "9P2000.L");
    finish(lane);
    engine_call(lane);
    if (get(lane->in + HEADER, 4) != MSIZE || memcmp(lane->in + HEADER + 6, "9P2000.L", 8))
        wrong(lane, "Rversion with msize %u", (unsigned)get(lane->in + HEADER, 4));
    attach(lane, FID_ROOT);
    engine_call(lane);
    reach(lane, FID_ROOT, FID_FILES, "files");
    learn_files(lane);
    learn_levels(lane);
}

static void open_own(struct lane *lane, const char *name, uint32_t flags)
{
    struct qid qid = reach(lane, FID_ROOT, own_fid(lane), name);

    lopen(lane, own_fid(lane), flags);
    engine_call(lane);
    expect_qid(lane, lane->in + HEADER, qid);
}

static void reach_own(struct lane *lane)
{
    char name[16];

    tree_file_name(name, lane->index);
    reach(lane, FID_FILES, own_fid(lane), name);
}

static void open_data(struct lane *lane)
{
    open_own(lane, "data", O_RDONLY);
}

static void open_written(struct lane *lane)
{
    open_own(lane, "written", O_RDWR);
}

static void open_list(struct lane *lane)
{
    open_own(lane, "list", O_RDONLY | O_DIRECTORY);
}

static void release_fid(struct lane *lane)
{
    give_back(lane, own_fid(lane));
}

static void reach_made(struct lane *lane)
{
    if (lane->index == 0)
        reach(lane, FID_ROOT, FID_MADE, "made");
}

static void release_made(struct lane *lane)
{
    if (lane->index == 0)
        give_back(lane, FID_MADE);
}

static void reach_fresh(struct lane *lane)
{
    char name[40];

    tree_fresh_name(name);
    if (lane->index == 0)
        reach(lane, FID_ROOT, FID_FRESH, name);
}

static void release_fresh(struct lane *lane)
{
    if (lane->index == 0)
        give_back(lane, FID_FRESH);
}

const struct protocol ninep = {
    .begin = begin,
    .check = check,
    .operations =
        {
            [GETATTR] = {reach_own, step_getattr, release_fid},
            [STAT] = {NULL, step_stat, NULL},
            [WALK] = {NULL, step_walk, NULL},
            [OPEN] = {NULL, step_open, NULL},
            [READ_SMALL] = {open_data, step_read, release_fid},
            [WRITE_SMALL] = {open_written, step_write, release_fid},
            [READ_LARGE] = {open_data, step_read, release_fid},
            [WRITE_LARGE] = {open_written, step_write, release_fid},
            [LIST] = {open_list, step_list, release_fid},
            [CREATE] = {reach_made, step_create, release_made},
            [CHMOD] = {prepare_own, step_chmod, release_own},
            [UTIMENS] = {prepare_own, step_utimens, release_own},
            [TRUNCATE] = {prepare_own, step_truncate, release_own},
            [RENAME] = {prepare_own, step_rename, release_own},
            [LINK] = {prepare_own, step_link, release_own},
            [MKDIR] = {prepare_own, step_mkdir, release_own},
            [SYMLINK] = {prepare_own, step_symlink, release_own},
            [READLINK] = {prepare_own, step_readlink, release_own},
            [XATTR_GET] = {prepare_own, step_xattr_get, release_own},
            [XATTR_NONE] = {prepare_own, step_xattr_none, release_own},
            [XATTR_LIST] = {prepare_own, step_xattr_list, release_own},
            [XATTR_SET] = {prepare_own, step_xattr_set, release_own},
            [LOCK] = {prepare_own, step_lock, release_own},
            [GETLOCK] = {prepare_own, step_getlock, release_own},
            [FSYNC] = {prepare_own, step_fsync, release_own},
            [STATFS] = {prepare_own, step_statfs, release_own},
            [ATTACH] = {prepare_own, step_attach, release_own},
            [FIDS_FILL] = {prepare_scale, step_fill, release_scale},
            [FIDS_GETATTR] = {prepare_scale, step_members_getattr, release_scale},
            [FIDS_CLONE] = {prepare_scale, step_members_clone, release_scale},
            [FIDS_WALK] = {prepare_scale, step_members_walk, release_scale},
            [DEVICES_FIRST] = {prepare_scale, step_devices, release_scale},
            [DEVICES_STAT] = {prepare_scale, step_devices, release_scale},
            [ENTRIES_LIST] = {prepare_scale, step_entries, release_scale},
            [FRESH_STAT] = {reach_fresh, step_fresh_stat, release_fresh},
            [FRESH_WALK] = {reach_fresh, step_fresh_walk, release_fresh},
        },
};
