/*
 * The workloads on a file of each lane's own, over FUSE: the counterparts of ninep_own.c. The
 * lane's node is the file, which its handle has open. What makes a name returns a node, which is
 * forgotten at the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fuse.h"
#include "tree.h"

/* The end of an operation whose last reply has no more than a header, or none at all. */
static bool ended(const struct lane *lane)
{
    if (!lane->silent)
        fuse_expect_body(lane, 0);
    return false;
}

/* Takes the node of what was made, of a type. */
static void made(struct lane *lane, uint32_t type)
{
    const struct fuse_entry_out *found = fuse_entry(lane);

    if ((found->attr.mode & S_IFMT) != type)
        wrong(lane, "what was made has mode %o", found->attr.mode);
    lane->nodes[0] = found->nodeid;
}

/* ---- FUSE_SETATTR */

static bool setattr(struct lane *lane, const struct fuse_setattr_in *in)
{
    fuse_start(lane, FUSE_SETATTR, lane->node, sizeof(struct fuse_attr_out));
    fuse_put(lane, in, sizeof(*in));
    return fuse_finish(lane);
}

/* The attributes of the lane's file, which are all that the reply has. */
static const struct fuse_attr *own_attr(const struct lane *lane, uint32_t mode, uint64_t size)
{
    const struct fuse_attr_out *out = fuse_body(lane);

    fuse_expect_body(lane, sizeof(*out));
    fuse_expect_attr(lane, &out->attr, lane->ino, mode, size);
    return &out->attr;
}

static uint32_t own_mode(const struct lane *lane)
{
    return run.workload == CHMOD && lane->choice ? 0100600 : 0100644;
}

static uint64_t own_size(const struct lane *lane)
{
    return run.workload == TRUNCATE && lane->choice ? SMALL : 0;
}

bool fuse_chmod(struct lane *lane)
{
    if (lane->step) {
        own_attr(lane, own_mode(lane), 0);
        return false;
    }
    lane->choice ^= 1;
    return setattr(lane, &(struct fuse_setattr_in){.valid = FATTR_MODE, .mode = own_mode(lane)});
}

bool fuse_utimens(struct lane *lane)
{
    if (lane->step) {
        if (own_attr(lane, 0100644, 0)->mtime != TIME_SET)
            wrong(lane, "another mtime than what was set");
        return false;
    }
    return setattr(lane, &(struct fuse_setattr_in){.valid = FATTR_ATIME | FATTR_MTIME,
                                                   .atime = TIME_SET,
                                                   .mtime = TIME_SET});
}

bool fuse_truncate(struct lane *lane)
{
    if (lane->step) {
        own_attr(lane, 0100644, own_size(lane));
        return false;
    }
    lane->choice ^= 1;
    return setattr(lane, &(struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_FH,
                                                   .fh = lane->handle,
                                                   .size = own_size(lane)});
}

/* ---- names */

bool fuse_rename(struct lane *lane)
{
    char from[16], to[16];

    if (lane->step)
        return ended(lane);
    tree_own_name(lane, from, lane->choice);
    lane->choice ^= 1;
    tree_own_name(lane, to, lane->choice);
    fuse_start(lane, FUSE_RENAME, fuse_made, 0);
    fuse_put(lane, &(struct fuse_rename_in){.newdir = fuse_made}, sizeof(struct fuse_rename_in));
    fuse_put_name(lane, from);
    fuse_put_name(lane, to);
    return fuse_finish(lane);
}

/* Begins a request that makes a name in `made`. */
static void start_making(struct lane *lane, unsigned opcode)
{
    fuse_start(lane, opcode, fuse_made, sizeof(struct fuse_entry_out));
}

/* What comes after the request that makes a name: its removal, and that the node is forgotten. */
static bool unmake(struct lane *lane, uint32_t type, unsigned opcode, const char *name)
{
    switch (lane->step) {
    case 1:
        made(lane, type);
        return fuse_remove(lane, opcode, fuse_made, name);
    case 2:
        fuse_expect_body(lane, 0);
        return fuse_forget(lane, 1, lane->nodes);
    default:
        return ended(lane);
    }
}

bool fuse_link(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    if (lane->step)
        return unmake(lane, S_IFREG, FUSE_UNLINK, name);
    start_making(lane, FUSE_LINK);
    fuse_put(lane, &(struct fuse_link_in){.oldnodeid = lane->node}, sizeof(struct fuse_link_in));
    fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_mkdir(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    if (lane->step)
        return unmake(lane, S_IFDIR, FUSE_RMDIR, name);
    start_making(lane, FUSE_MKDIR);
    fuse_put(lane, &(struct fuse_mkdir_in){.mode = 0755}, sizeof(struct fuse_mkdir_in));
    fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_symlink(struct lane *lane)
{
    char name[16];

    tree_own_name(lane, name, true);
    if (lane->step)
        return unmake(lane, S_IFLNK, FUSE_UNLINK, name);
    start_making(lane, FUSE_SYMLINK);
    fuse_put_name(lane, name);
    fuse_put_name(lane, LINK_TARGET);
    return fuse_finish(lane);
}

bool fuse_readlink(struct lane *lane)
{
    if (!lane->step) {
        fuse_start(lane, FUSE_READLINK, lane->nodes[0], TARGET_SIZE + 1);
        return fuse_finish(lane);
    }
    fuse_expect_body(lane, TARGET_SIZE);
    if (memcmp(fuse_body(lane), LINK_TARGET, TARGET_SIZE) != 0)
        wrong(lane, "a symbolic link with another target");
    return false;
}

/* ---- extended attributes */

/* FUSE_GETXATTR of a name, or FUSE_LISTXATTR without one, into `size` bytes. */
static bool ask_xattr(struct lane *lane, unsigned opcode, const char *name, uint32_t size)
{
    fuse_start(lane, opcode, lane->node, size);
    fuse_put(lane, &(struct fuse_getxattr_in){.size = size}, sizeof(struct fuse_getxattr_in));
    if (name)
        fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_xattr_get(struct lane *lane)
{
    if (!lane->step)
        return ask_xattr(lane, FUSE_GETXATTR, XATTR_NAME, XATTR_SIZE);
    fuse_expect_body(lane, XATTR_SIZE);
    if (memcmp(fuse_body(lane), XATTR_VALUE, XATTR_SIZE) != 0)
        wrong(lane, "an attribute with another value");
    return false;
}

bool fuse_xattr_none(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    ask_xattr(lane, FUSE_GETXATTR, XATTR_MISSING, XATTR_SIZE);
    lane->error = ENODATA;
    return true;
}

bool fuse_xattr_list(struct lane *lane)
{
    if (!lane->step)
        return ask_xattr(lane, FUSE_LISTXATTR, NULL, XATTR_NAMES_MAX);
    if (!tree_names_xattr(fuse_body(lane),
                          lane->written - (uint32_t)sizeof(struct fuse_out_header)))
        wrong(lane, "%s is not among the names", XATTR_NAME);
    return false;
}

bool fuse_xattr_set(struct lane *lane)
{
    struct fuse_setxattr_in in = {.size = XATTR_SIZE};

    if (lane->step)
        return ended(lane);
    fuse_start(lane, FUSE_SETXATTR, lane->node, 0);
    fuse_put(lane, &in, FUSE_COMPAT_SETXATTR_IN_SIZE); /* FUSE_SETXATTR_EXT is not negotiated */
    fuse_put_name(lane, XATTR_NAME);
    fuse_put(lane, XATTR_VALUE, XATTR_SIZE);
    return fuse_finish(lane);
}

/* ---- locks, and the rest */

static bool lock(struct lane *lane, unsigned opcode, uint32_t type)
{
    struct fuse_lk_in in = {
        .fh = lane->handle, .owner = lane->index + 1, .lk = {.type = type, .pid = 7}};

    fuse_start(lane, opcode, lane->node, opcode == FUSE_GETLK ? sizeof(struct fuse_lk_out) : 0);
    fuse_put(lane, &in, sizeof(in));
    return fuse_finish(lane);
}

bool fuse_lock(struct lane *lane)
{
    if (lane->step)
        ended(lane);
    return lane->step < 2 && lock(lane, FUSE_SETLK, lane->step ? F_UNLCK : F_WRLCK);
}

bool fuse_getlock(struct lane *lane)
{
    const struct fuse_lk_out *out = fuse_body(lane);

    if (!lane->step)
        return lock(lane, FUSE_GETLK, F_WRLCK);
    fuse_expect_body(lane, sizeof(*out));
    if (out->lk.type != F_UNLCK)
        wrong(lane, "a lock of type %u is in the way", out->lk.type);
    return false;
}

bool fuse_fsync(struct lane *lane)
{
    if (lane->step)
        return ended(lane);
    fuse_start(lane, FUSE_FSYNC, lane->node, 0);
    fuse_put(lane, &(struct fuse_fsync_in){.fh = lane->handle}, sizeof(struct fuse_fsync_in));
    return fuse_finish(lane);
}

bool fuse_statfs(struct lane *lane)
{
    const struct fuse_statfs_out *out = fuse_body(lane);

    if (!lane->step) {
        fuse_start(lane, FUSE_STATFS, FUSE_ROOT_ID, sizeof(*out));
        return fuse_finish(lane);
    }
    fuse_expect_body(lane, sizeof(*out));
    if (!tree_size_right(out->st.frsize, out->st.blocks))
        wrong(lane, "%llu blocks of %u bytes", (unsigned long long)out->st.blocks, out->st.frsize);
    return false;
}

/* ---- around the runs */

static void make_symlink(struct lane *lane)
{
    lane->step = 0;
    fuse_symlink(lane);
    engine_call(lane);
    made(lane, S_IFLNK);
}

static void remove_symlink(struct lane *lane)
{
    char name[16];

    fuse_give_back(lane, lane->nodes[0]);
    tree_own_name(lane, name, true);
    fuse_remove(lane, FUSE_UNLINK, fuse_made, name);
    engine_call(lane);
}

void fuse_prepare_own(struct lane *lane)
{
    char name[16];

    fuse_reach_made(lane);
    tree_own_name(lane, name, false);
    fuse_create(lane, fuse_made, name);
    engine_call(lane);
    fuse_take_created(lane);
    lane->choice = 0;
    if (run.workload == XATTR_GET || run.workload == XATTR_LIST)
        engine_try(lane, fuse_xattr_set);
    if (run.workload == READLINK)
        make_symlink(lane);
}

/* Looks at what the last operation left, and removes it. */
void fuse_release_own(struct lane *lane)
{
    char name[16];

    if (run.workload == READLINK)
        remove_symlink(lane);
    tree_own_name(lane, name, run.workload == RENAME && lane->choice);
    if (fuse_reach(lane, fuse_made, name)->nodeid != lane->node)
        wrong(lane, "%s is another file", name);
    fuse_give_back(lane, lane->node);
    fuse_start(lane, FUSE_GETATTR, lane->node, sizeof(struct fuse_attr_out));
    fuse_put(lane, &(struct fuse_getattr_in){0}, sizeof(struct fuse_getattr_in));
    fuse_finish(lane);
    engine_call(lane);
    own_attr(lane, own_mode(lane), own_size(lane));
    fuse_release_handle(lane, FUSE_RELEASE);
    engine_call(lane);
    fuse_remove(lane, FUSE_UNLINK, fuse_made, name);
    engine_call(lane);
    fuse_give_back(lane, lane->node);
    fuse_release_made(lane);
}
