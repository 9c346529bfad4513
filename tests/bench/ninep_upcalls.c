/*
 * The requests that vhost9p answers in Python, over 9P2000.L. Each lane works on a file of its own
 * in `made`, which its fid has open, and undoes what it does; so runs may be of any length.
 */
#include "ninep.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "tree.h"

enum {
    SETATTR_MODE = 0x1,
    SETATTR_SIZE = 0x8,
    SETATTR_ATIME = 0x10,
    SETATTR_MTIME = 0x20,
    SETATTR_ATIME_SET = 0x80,
    SETATTR_MTIME_SET = 0x100,
    TYPE_WRLCK = 1,
    TYPE_UNLCK = 2,
    WHEN = 1000000000, /* a time to set, in seconds */
    ATTR_MTIME = HEADER + 8 + QID + 12 + 7 * 8,
};

static uint32_t second_fid(const struct lane *lane)
{
    return FID_SECOND + lane->index;
}

/* The lane's file, or the one that it is renamed to or linked as. */
static void name_of(const struct lane *lane, char name[16], bool other)
{
    snprintf(name, 16, "%c%03u", other ? 'g' : 'f', lane->index);
}

/* ---- requests */

static bool setattr(struct lane *lane, uint32_t valid, uint32_t mode, uint64_t size)
{
    start(lane, T_SETATTR);
    put(lane, own_fid(lane), 4);
    put(lane, valid, 4);
    put(lane, mode, 4);
    put(lane, 0, 8); /* owner and group */
    put(lane, size, 8);
    for (unsigned i = 0; i < 2; i++) {
        put(lane, WHEN, 8);
        put(lane, 0, 8);
    }
    return finish(lane);
}

static bool lock(struct lane *lane, unsigned type, unsigned kind)
{
    start(lane, type);
    put(lane, own_fid(lane), 4);
    put(lane, kind, 1);
    if (type == T_LOCK)
        put(lane, 0, 4);
    put(lane, 0, 8);
    put(lane, 1, 8);
    put(lane, 7, 4);
    put_string(lane, "guest");
    return finish(lane);
}

/* Tread and Twrite of a value, which is short: it lies with the rest of the message. */
static bool value(struct lane *lane, unsigned type, uint32_t count, const char *bytes)
{
    start(lane, type);
    put(lane, second_fid(lane), 4);
    put(lane, 0, 8);
    put(lane, count, 4);
    if (type == T_WRITE) {
        memcpy(lane->out + lane->head, bytes, count);
        lane->head += count;
    }
    return finish(lane);
}

/* ---- operations */

static bool ended(const struct lane *lane)
{
    expect_size(lane, HEADER);
    return false;
}

static bool step_setattr(enum workload workload, struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    lane->choice ^= 1;
    switch (workload) {
    case CHMOD:
        return setattr(lane, SETATTR_MODE, lane->choice ? 0600 : 0644, 0);
    case TRUNCATE:
        return setattr(lane, SETATTR_SIZE, 0, lane->choice ? SMALL : 0);
    default:
        return setattr(lane, SETATTR_ATIME | SETATTR_MTIME | SETATTR_ATIME_SET | SETATTR_MTIME_SET,
                       0, 0);
    }
}

static bool step_rename(struct lane *lane)
{
    char from[16], to[16];

    if (lane->step)
        return ended(lane);
    name_of(lane, from, lane->choice);
    lane->choice ^= 1;
    name_of(lane, to, lane->choice);
    start(lane, T_RENAMEAT);
    put(lane, FID_MADE, 4);
    put_string(lane, from);
    put(lane, FID_MADE, 4);
    put_string(lane, to);
    return finish(lane);
}

static bool step_link(struct lane *lane)
{
    char name[16];

    name_of(lane, name, true);
    if (lane->step)
        expect_size(lane, HEADER);
    switch (lane->step) {
    case 0:
        start(lane, T_LINK);
        put(lane, FID_MADE, 4);
        put(lane, own_fid(lane), 4);
        put_string(lane, name);
        return finish(lane);
    case 1:
        return unlink_in(lane, FID_MADE, name);
    default:
        return false;
    }
}

static bool step_xattr_get(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        start(lane, T_XATTRWALK);
        put(lane, own_fid(lane), 4);
        put(lane, second_fid(lane), 4);
        put_string(lane, XATTR_NAME);
        return finish(lane);
    case 1:
        expect_size(lane, HEADER + 8);
        if (get(lane->in + HEADER, 8) != XATTR_SIZE)
            wrong(lane, "an attribute of %u bytes", (unsigned)get(lane->in + HEADER, 8));
        return value(lane, T_READ, XATTR_SIZE, NULL);
    case 2:
        received(lane, XATTR_SIZE, false);
        if (memcmp(lane->in + HEADER + 4, XATTR_VALUE, XATTR_SIZE) != 0)
            wrong(lane, "an attribute with another value");
        return clunk(lane, second_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_xattr_set(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return walk(lane, own_fid(lane), second_fid(lane), 0, NULL);
    case 1:
        walked(lane, 0);
        start(lane, T_XATTRCREATE);
        put(lane, second_fid(lane), 4);
        put_string(lane, XATTR_NAME);
        put(lane, XATTR_SIZE, 8);
        put(lane, 0, 4);
        return finish(lane);
    case 2:
        expect_size(lane, HEADER);
        return value(lane, T_WRITE, XATTR_SIZE, XATTR_VALUE);
    case 3:
        expect_size(lane, HEADER + 4);
        return clunk(lane, second_fid(lane));
    default:
        return ended(lane);
    }
}

static bool step_lock(struct lane *lane)
{
    if (lane->step) {
        expect_size(lane, HEADER + 1);
        if (lane->in[HEADER])
            wrong(lane, "lock status %u", lane->in[HEADER]);
    }
    return lane->step < 2 && lock(lane, T_LOCK, lane->step ? TYPE_UNLCK : TYPE_WRLCK);
}

static bool step_getlock(struct lane *lane)
{
    if (!lane->step)
        return lock(lane, T_GETLOCK, TYPE_WRLCK);
    if (lane->in[HEADER] != TYPE_UNLCK)
        wrong(lane, "a lock of kind %u is in the way", lane->in[HEADER]);
    return false;
}

static bool step_fsync(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    start(lane, T_FSYNC);
    put(lane, own_fid(lane), 4);
    put(lane, 0, 4);
    return finish(lane);
}

static bool step_attach(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return attach(lane, second_fid(lane));
    case 1:
        expect_size(lane, HEADER + QID);
        if (lane->in[HEADER] != QID_DIR)
            wrong(lane, "the root has a qid of type %x", lane->in[HEADER]);
        return clunk(lane, second_fid(lane));
    default:
        return ended(lane);
    }
}

bool step_upcall(enum workload workload, struct lane *lane)
{
    switch (workload) {
    case RENAME:
        return step_rename(lane);
    case LINK:
        return step_link(lane);
    case XATTR_GET:
        return step_xattr_get(lane);
    case XATTR_SET:
        return step_xattr_set(lane);
    case LOCK:
        return step_lock(lane);
    case GETLOCK:
        return step_getlock(lane);
    case FSYNC:
        return step_fsync(lane);
    case ATTACH:
        return step_attach(lane);
    default:
        return step_setattr(workload, lane);
    }
}

/* ---- around the runs */

static void set_value(struct lane *lane)
{
    lane->step = 0;
    while (step_xattr_set(lane))
        engine_call(lane); /* counts the steps */
    lane->step = 0;
}

void prepare_upcall(enum workload workload, struct lane *lane)
{
    char name[16];

    if (lane->index == 0)
        reach(lane, FID_ROOT, FID_MADE, "made");
    name_of(lane, name, false);
    walk(lane, FID_MADE, own_fid(lane), 0, NULL);
    engine_call(lane);
    start(lane, T_LCREATE);
    put(lane, own_fid(lane), 4);
    put_string(lane, name);
    put(lane, O_RDWR | O_CREAT | O_EXCL, 4);
    put(lane, 0644, 4);
    put(lane, 0, 4);
    finish(lane);
    engine_call(lane);
    lane->choice = 0;
    if (workload == XATTR_GET)
        set_value(lane);
}

/* Looks at what the last operation left, and removes it. */
void release_upcall(enum workload workload, struct lane *lane)
{
    uint32_t mode = workload == CHMOD && lane->choice ? 0100600 : 0100644;
    struct qid qid;
    char name[16];

    name_of(lane, name, workload == RENAME && lane->choice);
    qid = reach(lane, FID_MADE, second_fid(lane), name);
    clunk(lane, second_fid(lane));
    engine_call(lane);
    getattr(lane, own_fid(lane));
    engine_call(lane);
    expect_attr(lane, qid, mode, workload == TRUNCATE && lane->choice ? SMALL : 0);
    if (workload == UTIMENS && get(lane->in + ATTR_MTIME, 8) != WHEN)
        wrong(lane, "mtime is %llu", (unsigned long long)get(lane->in + ATTR_MTIME, 8));
    clunk(lane, own_fid(lane));
    engine_call(lane);
    unlink_in(lane, FID_MADE, name);
    engine_call(lane);
    if (lane->index + 1 < run.depth)
        return;
    clunk(lane, FID_MADE);
    engine_call(lane);
}
