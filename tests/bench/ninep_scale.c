/*
 * The workloads of which the cost must not grow with what there is: live fids, devices, entries.
 *
 * `run.size` says how many fids or devices, `run.files` how many files the fids stand for, and
 * `run.entries` how many files the directory many-N holds that they are in. The fids, once made
 * (FIDS_FILL), live as long as the session.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ninep.h"
#include "tree.h"

enum {
    FID_MANY = FID_MADE,   /* the directory, while a run needs it */
    FID_POPULATION = 1024, /* from here on: numbered densely, as the kernel does */
    DEVICE_NAMES = 3,      /* devices/dNNNN/f */
};

/* The qid paths of the fids or devices; 0: not known yet. One session has either. */
static uint64_t *paths;
static uint32_t known;

static void make_room(uint32_t count)
{
    if (count <= known)
        return;
    paths = realloc(paths, count * sizeof(*paths));
    if (!paths)
        broken("out of memory");
    memset(paths + known, 0, (count - known) * sizeof(*paths));
    known = count;
}

/* ---- fids */

static uint32_t file_of(uint32_t member)
{
    return member % run.files;
}

static struct qid member_qid(const struct lane *lane)
{
    return (struct qid){0, paths[lane->choice]};
}

bool step_fill(struct lane *lane)
{
    struct qid qid;
    char name[16];
    const char *names[] = {name};

    if (lane->step == 0) {
        lane->choice = run.fresh++;
        tree_many_entry(name, file_of(lane->choice));
        return walk(lane, FID_MANY, FID_POPULATION + lane->choice, 1, names);
    }
    qid = qid_at(walked(lane, 1));
    if (qid.type)
        wrong(lane, "file %u has a qid of type %x", file_of(lane->choice), qid.type);
    paths[lane->choice] = qid.path;
    return false;
}

bool step_members_getattr(struct lane *lane)
{
    if (lane->step == 0) {
        lane->choice = draw(lane) % run.size;
        return getattr(lane, FID_POPULATION + lane->choice);
    }
    expect_attr(lane, member_qid(lane), 0100000 | tree_fresh_mode(file_of(lane->choice)), 0);
    return false;
}

bool step_members_clone(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        lane->choice = draw(lane) % run.size;
        return walk(lane, FID_POPULATION + lane->choice, own_fid(lane), 0, NULL);
    case 1:
        expect_size(lane, HEADER + 2);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

bool step_members_walk(struct lane *lane)
{
    char name[16];

    switch (lane->step) {
    case 0:
        lane->choice = draw(lane) % (run.files < run.size ? run.files : run.size);
        tree_many_entry(name, lane->choice);
        return walk_one(lane, FID_MANY, name);
    case 1:
        expect_qid(lane, walked(lane, 1), member_qid(lane));
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

/* ---- devices */

/* Each device's file has a path of its own, and keeps it. */
static void note_device(struct lane *lane, const uint8_t *at)
{
    struct qid qid = qid_at(at);

    for (uint32_t i = 0; !paths[lane->choice] && i < run.size; i++)
        if (paths[i] == qid.path)
            wrong(lane, "devices %u and %u show one qid", i, lane->choice);
    if (!paths[lane->choice])
        paths[lane->choice] = qid.path;
    expect_qid(lane, at, (struct qid){0, paths[lane->choice]});
}

bool step_devices(struct lane *lane)
{
    char name[16];
    const char *names[DEVICE_NAMES] = {"devices", name, "f"};

    switch (lane->step) {
    case 0:
        lane->choice = run.workload == DEVICES_FIRST ? run.fresh++ : draw(lane) % run.size;
        snprintf(name, sizeof(name), "d%04u", lane->choice);
        return walk(lane, FID_ROOT, own_fid(lane), DEVICE_NAMES, names);
    case 1:
        note_device(lane, walked(lane, DEVICE_NAMES));
        return getattr(lane, own_fid(lane));
    case 2:
        expect_attr(lane, member_qid(lane), 0100000 | tree_fresh_mode(lane->choice), 0);
        return clunk(lane, own_fid(lane));
    default:
        return ended(lane);
    }
}

/* ---- entries */

static void note_entry(struct lane *lane, const uint8_t *name, unsigned length)
{
    char text[16] = "", want[16];
    unsigned number;

    if (length <= 2 && !memcmp(name, "..", length))
        return;
    if (length < sizeof(text))
        memcpy(text, name, length);
    number = (unsigned)strtoul(text + 1, NULL, 10);
    tree_many_entry(want, number);
    if (strcmp(text, want) || number >= run.entries)
        wrong(lane, "there is no entry %.*s", (int)length, (const char *)name);
    if (lane->seen[number]++)
        wrong(lane, "entry %u comes twice", number);
    lane->entries++;
}

/* Notes the entries of a reply; returns the offset to go on from. */
static uint64_t note_entries(struct lane *lane, uint32_t bytes)
{
    uint64_t offset = lane->offset;
    uint32_t at = 0, length = 0;

    for (; at < bytes; at += QID + 11 + length) {
        const uint8_t *entry = lane->data + at;
        uint32_t left = bytes - at;

        if (left < QID + 11 || left < QID + 11 + (length = (uint32_t)get(entry + QID + 9, 2)))
            wrong(lane, "an entry is cut short");
        offset = get(entry + QID, 8);
        note_entry(lane, entry + QID + 11, length);
    }
    return offset;
}

bool step_entries(struct lane *lane)
{
    uint32_t bytes;

    if (lane->step == 0) {
        memset(lane->seen, 0, run.entries);
        lane->entries = 0;
        return transfer(lane, T_READDIR, 0, LISTING);
    }
    bytes = received(lane, LISTING, true);
    if (bytes)
        return transfer(lane, T_READDIR, note_entries(lane, bytes), LISTING);
    if (lane->entries != run.entries)
        wrong(lane, "%u entries instead of %u", lane->entries, run.entries);
    return false;
}

/* ---- around the runs */

static bool needs_directory(void)
{
    return run.workload == FIDS_FILL || run.workload == FIDS_WALK;
}

void prepare_scale(struct lane *lane)
{
    char name[32];

    if (run.workload != ENTRIES_LIST && !run.size)
        broken("%s of none", workload_names[run.workload]);
    make_room(run.size);
    tree_many_name(name);
    if (needs_directory() && lane->index == 0)
        reach(lane, FID_ROOT, FID_MANY, name);
    if (run.workload != ENTRIES_LIST)
        return;
    lane->seen = realloc(lane->seen, run.entries > ENTRIES ? run.entries : ENTRIES);
    if (!lane->seen)
        broken("out of memory");
    reach(lane, FID_ROOT, own_fid(lane), name);
    lopen(lane, own_fid(lane), O_RDONLY | O_DIRECTORY);
    engine_call(lane);
}

void release_scale(struct lane *lane)
{
    if (run.workload == ENTRIES_LIST)
        give_back(lane, own_fid(lane));
    else if (needs_directory() && lane->index == 0)
        give_back(lane, FID_MANY);
}
