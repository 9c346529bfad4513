/*
 * 9P2000.L for the workloads: how requests are made and replies taken apart (ninep_wire.c), and
 * which workloads are where (ninep.c; ninep_own.c has those on a file of each lane's own,
 * ninep_scale.c those of which the size is given).
 *
 * Numbers go to the wire as they lie in memory: guests of this benchmark are little-endian.
 * Source of the layouts: the Plan 9 manual, section 5, and the diod server's protocol description.
 */
#ifndef NINEP_H
#define NINEP_H

#include "bench.h"

enum {
    T_STATFS = 8,
    T_LOPEN = 12,
    T_LCREATE = 14,
    T_SYMLINK = 16,
    T_READLINK = 22,
    T_GETATTR = 24,
    T_SETATTR = 26,
    T_XATTRWALK = 30,
    T_XATTRCREATE = 32,
    T_READDIR = 40,
    T_FSYNC = 50,
    T_LOCK = 52,
    T_GETLOCK = 54,
    T_LINK = 70,
    T_MKDIR = 72,
    T_RENAMEAT = 74,
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
    QID_SYMLINK = 0x02,
    GETATTR_BASIC = 0x7ff,
    MSIZE = PAYLOAD_MAX + 4096,
    FID_ROOT = 0,
    FID_FILES,
    FID_MADE,
    FID_FRESH,
    FID_LANES,                          /* from here on each lane has one */
    FID_SECOND = FID_LANES + MAX_LANES, /* and from here on a second one */
};

struct qid {
    uint8_t type;
    uint64_t path;
};

/* ---- ninep_wire.c: requests. Those that return a bool return true, for a step to return. */

void put(struct lane *lane, uint64_t value, unsigned bytes);
void put_string(struct lane *lane, const char *text);
/* Begins a request and, with what was put since, ends it. */
void start(struct lane *lane, unsigned type);
bool finish(struct lane *lane);
uint32_t own_fid(const struct lane *lane);
bool walk(struct lane *lane, uint32_t from, uint32_t to, unsigned count, const char *const *names);
bool walk_one(struct lane *lane, uint32_t from, const char *name);
bool clunk(struct lane *lane, uint32_t fid);
bool getattr(struct lane *lane, uint32_t fid);
bool lopen(struct lane *lane, uint32_t fid, uint32_t flags);
bool attach(struct lane *lane, uint32_t fid);
bool lcreate(struct lane *lane, uint32_t fid, const char *name);
bool unlink_in(struct lane *lane, uint32_t directory, const char *name, uint32_t flags);
/* Tread, Treaddir and Twrite: the payload lies in pages of its own. */
bool transfer(struct lane *lane, unsigned type, uint64_t offset, uint32_t count);

/* ---- ninep_wire.c: replies; what is not right ends the process */

uint64_t get(const uint8_t *at, unsigned bytes);
void check(const struct lane *lane);
void expect_size(const struct lane *lane, uint32_t size);
struct qid qid_at(const uint8_t *at);
void expect_qid(const struct lane *lane, const uint8_t *at, struct qid want);
/* The end of an operation whose last reply has no more than a header. */
bool ended(const struct lane *lane);
/* The qid that a walk of `count` names ended at. */
const uint8_t *walked(const struct lane *lane, unsigned count);
void expect_attr(const struct lane *lane, struct qid qid, uint32_t mode, uint64_t size);
/* The reply to Tread or Treaddir: `count` bytes of payload, or fewer where `atmost`. */
uint32_t received(const struct lane *lane, uint32_t count, bool atmost);
/* Walks the lane's fid (or `to`) to one name and waits for the reply; returns its qid. */
struct qid reach(struct lane *lane, uint32_t from, uint32_t to, const char *name);

/* Clunks a fid and waits for the reply. */
void give_back(struct lane *lane, uint32_t fid);

/* ---- ninep_own.c: the operations of the workloads for which has_own_file says so */

void prepare_own(struct lane *lane);
void release_own(struct lane *lane);
bool step_chmod(struct lane *lane);
bool step_utimens(struct lane *lane);
bool step_truncate(struct lane *lane);
bool step_rename(struct lane *lane);
bool step_link(struct lane *lane);
bool step_mkdir(struct lane *lane);
bool step_symlink(struct lane *lane);
bool step_readlink(struct lane *lane);
bool step_xattr_get(struct lane *lane);
bool step_xattr_none(struct lane *lane);
bool step_xattr_list(struct lane *lane);
bool step_xattr_set(struct lane *lane);
bool step_lock(struct lane *lane);
bool step_getlock(struct lane *lane);
bool step_fsync(struct lane *lane);
bool step_statfs(struct lane *lane);
bool step_attach(struct lane *lane);

/* ---- ninep_scale.c: those for which is_scale says so */

void prepare_scale(struct lane *lane);
void release_scale(struct lane *lane);
bool step_fill(struct lane *lane);
bool step_members_getattr(struct lane *lane);
bool step_members_clone(struct lane *lane);
bool step_members_walk(struct lane *lane);
bool step_devices(struct lane *lane);
bool step_entries(struct lane *lane);

#endif
