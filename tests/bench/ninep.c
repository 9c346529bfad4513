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
        expect_size(lane, HEADER);
        return false;
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
        expect_size(lane, HEADER);
        return false;
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
        expect_size(lane, HEADER);
        return false;
    }
}

static bool step_read(struct lane *lane, uint32_t size)
{
    if (lane->step == 0)
        return transfer(lane, T_READ, draw(lane) % (DATA_SIZE / size) * size, size);
    received(lane, size, false);
    if (!tree_data_right(lane->data, lane->offset, size))
        wrong(lane, "other data at %llu", (unsigned long long)lane->offset);
    return false;
}

static bool step_write(struct lane *lane, uint32_t size)
{
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
        start(lane, T_LCREATE);
        put(lane, own_fid(lane), 4);
        put_string(lane, name);
        put(lane, O_RDWR | O_CREAT | O_EXCL, 4);
        put(lane, 0644, 4);
        put(lane, 0, 4);
        return finish(lane);
    case 2:
        expect_size(lane, HEADER + QID + 4);
        if (lane->in[HEADER])
            wrong(lane, "a new file has a qid of type %x", lane->in[HEADER]);
        return clunk(lane, own_fid(lane));
    case 3:
        expect_size(lane, HEADER);
        return unlink_in(lane, FID_MADE, name);
    default:
        expect_size(lane, HEADER);
        return false;
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
        expect_size(lane, HEADER);
        return false;
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
        expect_size(lane, HEADER);
        return false;
    }
}

static bool step(enum workload workload, struct lane *lane)
{
    if (is_upcall(workload))
        return step_upcall(workload, lane);
    if (is_scale(workload))
        return step_scale(workload, lane);
    switch (workload) {
    case GETATTR:
        return step_getattr(lane);
    case STAT:
        return step_stat(lane);
    case WALK:
        return step_walk(lane);
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

static void learn_files(struct lane *lane)
{
    char name[16];

    for (unsigned i = 0; i < FILES; i++) {
        tree_file_name(name, i);
        file_qids[i] = reach(lane, FID_FILES, own_fid(lane), name);
        for (unsigned other = 0; other < i; other++)
            if (file_qids[other].path == file_qids[i].path)
                wrong(lane, "files %u and %u have one qid", other, i);
        clunk(lane, own_fid(lane));
        engine_call(lane);
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
    clunk(lane, own_fid(lane));
    engine_call(lane);
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

static void prepare(enum workload workload, struct lane *lane)
{
    char name[40];

    if (is_upcall(workload)) {
        prepare_upcall(workload, lane);
        return;
    }
    if (is_scale(workload)) {
        prepare_scale(workload, lane);
        return;
    }
    switch (workload) {
    case GETATTR:
        tree_file_name(name, lane->index);
        reach(lane, FID_FILES, own_fid(lane), name);
        break;
    case READ_SMALL:
    case READ_LARGE:
        open_own(lane, "data", O_RDONLY);
        break;
    case WRITE_SMALL:
    case WRITE_LARGE:
        open_own(lane, "written", O_RDWR);
        break;
    case LIST:
        open_own(lane, "list", O_RDONLY | O_DIRECTORY);
        break;
    case CREATE:
        if (lane->index == 0)
            reach(lane, FID_ROOT, FID_MADE, "made");
        break;
    case FRESH_STAT:
    case FRESH_WALK:
        tree_fresh_name(name);
        if (lane->index == 0)
            reach(lane, FID_ROOT, FID_FRESH, name);
        break;
    default:
        break;
    }
}

static void release(enum workload workload, struct lane *lane)
{
    if (is_upcall(workload)) {
        release_upcall(workload, lane);
        return;
    }
    if (is_scale(workload)) {
        release_scale(workload, lane);
        return;
    }
    switch (workload) {
    case GETATTR:
    case READ_SMALL:
    case READ_LARGE:
    case WRITE_SMALL:
    case WRITE_LARGE:
    case LIST:
        clunk(lane, own_fid(lane));
        engine_call(lane);
        break;
    case CREATE:
    case FRESH_STAT:
    case FRESH_WALK:
        if (lane->index)
            break;
        clunk(lane, workload == CREATE ? FID_MADE : FID_FRESH);
        engine_call(lane);
        break;
    default:
        break;
    }
}

const struct protocol ninep = {begin, prepare, release, step, check, false};
