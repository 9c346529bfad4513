/*
 * The workloads on a file of each lane's own, over 9P2000.L. It lies in `made`, and the lane's fid
 * has it open. An operation undoes what it does, or does the opposite of what the one before did;
 * so runs may be of any length.
 */
#include "ninep.h"

#include <errno.h>
#include <fcntl.h>
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
    REMOVE_DIRECTORY = 0x200, /* flag of Tunlinkat */
    ATTR_MTIME = HEADER + 8 + QID + 12 + 7 * 8,
    STATFS_SIZE = 4 + 4 + 6 * 8 + 4,
};

static uint32_t second_fid(const struct lane *lane)
{
    return FID_SECOND + lane->index;
}

/* Expects a qid of a type as the whole reply. */
static void made(const struct lane *lane, unsigned type)
{
    expect_size(lane, HEADER + QID);
    if (lane->in[HEADER] != type)
        wrong(lane, "what was made has a qid of type %x", lane->in[HEADER]);
}

/* ---- Tsetattr */

static bool setattr(struct lane *lane, uint32_t valid, uint32_t mode, uint64_t size)
{
    start(lane, T_SETATTR);
    put(lane, own_fid(lane), 4);
    put(lane, valid, 4);
    put(lane, mode, 4);
    put(lane, 0, 8); /* owner and group */
    put(lane, size, 8);
    for (unsigned i = 0; i < 2; i++) {
        put(lane, TIME_SET, 8);
        put(lane, 0, 8);
    }
    return finish(lane);
}

bool step_chmod(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    lane->choice ^= 1;
    return setattr(lane, SETATTR_MODE, lane->choice ? 0600 : 0644, 0);
}

bool step_utimens(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    lane->choice = 1;
    return setattr(lane, SETATTR_ATIME | SETATTR_MTIME | SETATTR_ATIME_SET | SETATTR_MTIME_SET, 0,
                   0);
}

bool step_truncate(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    lane->choice ^= 1;
    return setattr(lane, SETATTR_SIZE, 0, lane->choice ? SMALL : 0);
}

/* ---- names */

bool step_rename(struct lane *lane)
{
    char from[16], to[16];

    if (lane->step)
        return ended(lane);
    tree_own_name(lane, from, lane->choice);
    lane->choice ^= 1;
    tree_own_name(lane, to, lane->choice);
    start(lane, T_RENAMEAT);
    put(lane, FID_MADE, 4);
    put_string(lane, from);
    put(lane, FID_MADE, 4);
    put_string(lane, to);
    return finish(lane);
}

bool step_link(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    switch (lane->step) {
    case 0:
        start(lane, T_LINK);
        put(lane, FID_MADE, 4);
        put(lane, own_fid(lane), 4);
        put_string(lane, name);
        return finish(lane);
    case 1:
        expect_size(lane, HEADER);
        return unlink_in(lane, FID_MADE, name, 0);
    default:
        return ended(lane);
    }
}

bool step_mkdir(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    switch (lane->step) {
    case 0:
        start(lane, T_MKDIR);
        put(lane, FID_MADE, 4);
        put_string(lane, name);
        put(lane, 0755, 4);
        put(lane, 0, 4);
        return finish(lane);
    case 1:
        made(lane, QID_DIR);
        return unlink_in(lane, FID_MADE, name, REMOVE_DIRECTORY);
    default:
        return ended(lane);
    }
}

static bool symlink_in_made(struct lane *lane, const char *name)
{
    start(lane, T_SYMLINK);
    put(lane, FID_MADE, 4);
    put_string(lane, name);
    put_string(lane, LINK_TARGET);
    put(lane, 0, 4);
    return finish(lane);
}

bool step_symlink(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    switch (lane->step) {
    case 0:
        return symlink_in_made(lane, name);
    case 1:
        made(lane, QID_SYMLINK);
        return unlink_in(lane, FID_MADE, name, 0);
    default:
        return ended(lane);
    }
}

bool step_readlink(struct lane *lane)
{
    if (lane->step == 0) {
        start(lane, T_READLINK);
        put(lane, second_fid(lane), 4);
        return finish(lane);
    }
    expect_size(lane, HEADER + 2 + TARGET_SIZE);
    if (get(lane->in + HEADER, 2) != TARGET_SIZE ||
        memcmp(lane->in + HEADER + 2, LINK_TARGET, TARGET_SIZE) != 0)
        wrong(lane, "a symbolic link with another target");
    return false;
}

/* ---- extended attributes */

static bool xattrwalk(struct lane *lane, const char *name)
{
    start(lane, T_XATTRWALK);
    put(lane, own_fid(lane), 4);
    put(lane, second_fid(lane), 4);
    put_string(lane, name);
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

bool step_xattr_get(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return xattrwalk(lane, XATTR_NAME);
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

bool step_xattr_none(struct lane *lane)
{
    if (lane->step)
        return false; /* the reply was an error: `check` has seen to it that it was the right one */
    xattrwalk(lane, XATTR_MISSING);
    lane->error = ENODATA;
    return true;
}

bool step_xattr_list(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return xattrwalk(lane, "");
    case 1:
        expect_size(lane, HEADER + 8);
        lane->offset = get(lane->in + HEADER, 8);
        if (lane->offset > XATTR_NAMES_MAX)
            wrong(lane, "names of %llu bytes", (unsigned long long)lane->offset);
        return value(lane, T_READ, (uint32_t)lane->offset, NULL);
    case 2:
        received(lane, (uint32_t)lane->offset, false);
        if (!tree_names_xattr(lane->in + HEADER + 4, (uint32_t)lane->offset))
            wrong(lane, "%s is not among the names", XATTR_NAME);
        return clunk(lane, second_fid(lane));
    default:
        return ended(lane);
    }
}

bool step_xattr_set(struct lane *lane)
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

/* ---- locks, and the rest */

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

bool step_lock(struct lane *lane)
{
    if (lane->step) {
        expect_size(lane, HEADER + 1);
        if (lane->in[HEADER])
            wrong(lane, "lock status %u", lane->in[HEADER]);
    }
    return lane->step < 2 && lock(lane, T_LOCK, lane->step ? TYPE_UNLCK : TYPE_WRLCK);
}

bool step_getlock(struct lane *lane)
{
    if (!lane->step)
        return lock(lane, T_GETLOCK, TYPE_WRLCK);
    if (lane->in[HEADER] != TYPE_UNLCK)
        wrong(lane, "a lock of kind %u is in the way", lane->in[HEADER]);
    return false;
}

bool step_fsync(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    start(lane, T_FSYNC);
    put(lane, own_fid(lane), 4);
    put(lane, 0, 4);
    return finish(lane);
}

bool step_statfs(struct lane *lane)
{
    const uint8_t *at = lane->in + HEADER + 4; /* behind the file system's type */

    if (!lane->step) {
        start(lane, T_STATFS);
        put(lane, FID_ROOT, 4);
        return finish(lane);
    }
    expect_size(lane, HEADER + STATFS_SIZE);
    if (!tree_size_right(get(at, 4), get(at + 4, 8)))
        wrong(lane, "%llu blocks of %u bytes", (unsigned long long)get(at + 4, 8),
              (unsigned)get(at, 4));
    return false;
}

bool step_attach(struct lane *lane)
{
    switch (lane->step) {
    case 0:
        return attach(lane, second_fid(lane));
    case 1:
        made(lane, QID_DIR);
        return clunk(lane, second_fid(lane));
    default:
        return ended(lane);
    }
}

/* ---- around the runs */

static void make_symlink(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    symlink_in_made(lane, name);
    engine_call(lane);
    made(lane, QID_SYMLINK);
    reach(lane, FID_MADE, second_fid(lane), name);
}

static void remove_symlink(struct lane *lane)
{
    char name[16];

    give_back(lane, second_fid(lane));
    tree_own_name(lane, name, true);
    unlink_in(lane, FID_MADE, name, 0);
    engine_call(lane);
}

void prepare_own(struct lane *lane)
{
    char name[16];

    if (lane->index == 0)
        reach(lane, FID_ROOT, FID_MADE, "made");
    tree_own_name(lane, name, false);
    walk(lane, FID_MADE, own_fid(lane), 0, NULL);
    engine_call(lane);
    lcreate(lane, own_fid(lane), name);
    engine_call(lane);
    lane->choice = 0;
    if (run.workload == XATTR_GET || run.workload == XATTR_LIST)
        engine_try(lane, step_xattr_set);
    if (run.workload == READLINK)
        make_symlink(lane);
}

/* Looks at what the last operation left, and removes it. */
void release_own(struct lane *lane)
{
    uint32_t mode = run.workload == CHMOD && lane->choice ? 0100600 : 0100644;
    struct qid qid;
    char name[16];

    if (run.workload == READLINK)
        remove_symlink(lane);
    tree_own_name(lane, name, run.workload == RENAME && lane->choice);
    qid = reach(lane, FID_MADE, second_fid(lane), name);
    give_back(lane, second_fid(lane));
    getattr(lane, own_fid(lane));
    engine_call(lane);
    expect_attr(lane, qid, mode, run.workload == TRUNCATE && lane->choice ? SMALL : 0);
    if (run.workload == UTIMENS && lane->choice && get(lane->in + ATTR_MTIME, 8) != TIME_SET)
        wrong(lane, "mtime is %llu", (unsigned long long)get(lane->in + ATTR_MTIME, 8));
    give_back(lane, own_fid(lane));
    unlink_in(lane, FID_MADE, name, 0);
    engine_call(lane);
    if (lane->index + 1 == run.depth)
        give_back(lane, FID_MADE);
}
