/*
 * The workloads over 9P2000.L, in the requests that Linux's client makes of them.
 *
 * Numbers go to the wire as they lie in memory: guests of this benchmark are little-endian.
 * Source of the layouts: the Plan 9 manual, section 5, and the diod server's protocol description.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "tree.h"

enum {
    T_LOPEN = 12,
    T_LCREATE = 14,
    T_GETATTR = 24,
    T_READDIR = 40,
    T_UNLINKAT = 76,
    T_VERSION = 100,
    T_ATTACH = 104,
    T_WALK = 110,
    T_READ = 116,
    T_WRITE = 118,
    T_CLUNK = 120,
    R_LERROR = 7,
};

enum {
    HEADER = 7,
    QID = 13,
    QID_DIR = 0x80,
    GETATTR_BASIC = 0x7ff,
    MSIZE = PAYLOAD_MAX + 4096,
    FID_ROOT = 0,
    FID_FILES,
    FID_MADE,
    FID_FRESH,
    FID_LANES, /* from here on each lane has one */
};

struct qid {
    uint8_t type;
    uint64_t path;
};

static struct qid file_qids[FILES], level_qids[LEVELS];

/* ---- requests */

static void put(struct lane *lane, uint64_t value, unsigned bytes)
{
    memcpy(lane->out + lane->head, &value, bytes);
    lane->head += bytes;
}

static void put_string(struct lane *lane, const char *text)
{
    size_t length = strlen(text);

    put(lane, length, 2);
    memcpy(lane->out + lane->head, text, length);
    lane->head += (uint32_t)length;
}

static void start(struct lane *lane, unsigned type)
{
    lane->head = 4;
    lane->payload = 0;
    lane->way = NO_PAYLOAD;
    lane->in_size = HEADER_MAX;
    put(lane, type, 1);
    put(lane, type == T_VERSION ? 0xffff : lane->index, 2);
}

/* Ends a request: its size, with the payload that follows. Always true, for a step to return. */
static bool finish(struct lane *lane)
{
    uint32_t size = lane->head + (lane->way == PAYLOAD_OUT ? lane->payload : 0);

    memcpy(lane->out, &size, 4);
    return true;
}

static uint32_t own_fid(const struct lane *lane)
{
    return FID_LANES + lane->index;
}

static bool walk(struct lane *lane, uint32_t from, uint32_t to, unsigned count,
                 const char *const *names)
{
    start(lane, T_WALK);
    put(lane, from, 4);
    put(lane, to, 4);
    put(lane, count, 2);
    for (unsigned i = 0; i < count; i++)
        put_string(lane, names[i]);
    return finish(lane);
}

static bool walk_one(struct lane *lane, uint32_t from, const char *name)
{
    return walk(lane, from, own_fid(lane), 1, &name);
}

static bool clunk(struct lane *lane, uint32_t fid)
{
    start(lane, T_CLUNK);
    put(lane, fid, 4);
    return finish(lane);
}

static bool getattr(struct lane *lane, uint32_t fid)
{
    start(lane, T_GETATTR);
    put(lane, fid, 4);
    put(lane, GETATTR_BASIC, 8);
    return finish(lane);
}

static bool lopen(struct lane *lane, uint32_t fid, uint32_t flags)
{
    start(lane, T_LOPEN);
    put(lane, fid, 4);
    put(lane, flags, 4);
    return finish(lane);
}

/* Tread, Treaddir and Twrite: the payload lies in pages of its own. */
static bool transfer(struct lane *lane, unsigned type, uint64_t offset, uint32_t count)
{
    lane->offset = offset;
    start(lane, type);
    put(lane, own_fid(lane), 4);
    put(lane, offset, 8);
    put(lane, count, 4);
    lane->payload = count;
    lane->way = type == T_WRITE ? PAYLOAD_OUT : PAYLOAD_IN;
    if (type != T_WRITE)
        lane->in_size = HEADER + 4;
    return finish(lane);
}

/* ---- replies */

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, at, bytes);
    return value;
}

static void check(const struct lane *lane)
{
    unsigned asked = lane->out[4], type = lane->in[4];
    uint16_t tag = asked == T_VERSION ? 0xffff : (uint16_t)lane->index;

    if (lane->written < HEADER || get(lane->in, 4) != lane->written)
        wrong(lane, "size %u in a reply of %u bytes", (unsigned)get(lane->in, 4), lane->written);
    if (get(lane->in + 5, 2) != tag)
        wrong(lane, "tag %u instead of %u", (unsigned)get(lane->in + 5, 2), tag);
    if (type == R_LERROR)
        wrong(lane, "request %u got error %u", asked, (unsigned)get(lane->in + HEADER, 4));
    if (type != asked + 1)
        wrong(lane, "request %u got reply %u", asked, type);
}

static void expect_size(const struct lane *lane, uint32_t size)
{
    if (lane->written != size)
        wrong(lane, "%u bytes instead of %u", lane->written, size);
}

static struct qid qid_at(const uint8_t *at)
{
    return (struct qid){at[0], get(at + 5, 8)};
}

static void expect_qid(const struct lane *lane, const uint8_t *at, struct qid want)
{
    struct qid got = qid_at(at);

    if (got.type != want.type || got.path != want.path)
        wrong(lane, "qid %x/%llx instead of %x/%llx", got.type, (unsigned long long)got.path,
              want.type, (unsigned long long)want.path);
}

/* The qid that a walk of `count` names ended at. */
static const uint8_t *walked(const struct lane *lane, unsigned count)
{
    expect_size(lane, HEADER + 2 + count * QID);
    if (get(lane->in + HEADER, 2) != count)
        wrong(lane, "%u qids instead of %u", (unsigned)get(lane->in + HEADER, 2), count);
    return lane->in + lane->written - QID;
}

static void expect_attr(const struct lane *lane, struct qid qid, uint32_t mode, uint64_t size)
{
    const uint8_t *at = lane->in + HEADER;

    expect_size(lane, HEADER + 8 + QID + 12 + 15 * 8);
    if ((get(at, 8) & GETATTR_BASIC) != GETATTR_BASIC)
        wrong(lane, "valid is %llx", (unsigned long long)get(at, 8));
    expect_qid(lane, at + 8, qid);
    if (get(at + 8 + QID, 4) != mode || get(at + 8 + QID + 12 + 16, 8) != size)
        wrong(lane, "mode %o, size %llu instead of %o, %llu", (unsigned)get(at + 8 + QID, 4),
              (unsigned long long)get(at + 8 + QID + 28, 8), mode, (unsigned long long)size);
}

/* The reply to Tread or Treaddir: `count` bytes of payload, or fewer where `atmost`. */
static uint32_t received(const struct lane *lane, uint32_t count, bool atmost)
{
    uint32_t got = (uint32_t)get(lane->in + HEADER, 4);

    expect_size(lane, HEADER + 4 + got);
    if (got > count || (!atmost && got != count))
        wrong(lane, "%u bytes read instead of %u", got, count);
    return got;
}

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
        start(lane, T_UNLINKAT);
        put(lane, FID_MADE, 4);
        put_string(lane, name);
        put(lane, 0, 4);
        return finish(lane);
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

/* Walks lane's fid (or `to`) to one name; returns its qid. */
static struct qid reach(struct lane *lane, uint32_t from, uint32_t to, const char *name)
{
    walk(lane, from, to, 1, &name);
    engine_call(lane);
    return qid_at(walked(lane, 1));
}

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
    start(lane, T_ATTACH);
    put(lane, FID_ROOT, 4);
    put(lane, 0xffffffff, 4);
    put_string(lane, "root");
    put_string(lane, "");
    put(lane, 0, 4);
    finish(lane);
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

const struct protocol ninep = {begin, prepare, release, step, check};
