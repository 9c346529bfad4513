/*
 * quota: how much of the host an export's files take, kept true while they change, and its limits.
 *
 * Usage is the sum of st_blocks of every file and directory (a file with several names once), and
 * the number of inodes. It lies in a file that is mapped shared, so that nothing is lost when the
 * daemon is killed. `changing` there counts changes that are not settled yet; a daemon that finds
 * it at zero can rely on the numbers.
 *
 * A change is bracketed:
 *
 *     claim    sets aside the most that the change may take, or refuses it before it begins
 *     change
 *     settle   looks at the file, adds the difference to its account's number to the usage, and
 *              gives the claim back, in one step, so that nothing is counted twice
 *
 * What a file counts for is its *account*. Requests that write one file at the same time need no
 * lock around their system calls: each look takes a sequence number before it begins, and only the
 * newest look counts. It began after the changes of all earlier ones had ended, so it saw them. If
 * the host fails at a look, `changing` never becomes zero again.
 *
 * Inodes hold the accounts of their files. A file that has lost its last name keeps its blocks as
 * long as somebody holds it, and so does its account; the last holder gives them back. An account
 * that nobody holds is remembered for a while: file systems change st_blocks after the last change
 * (metadata at writeback, compression, preallocation that is trimmed), and the next look corrects
 * the usage. A new account would begin with what it finds.
 *
 * Near a limit, the most that a write may take is more than there is. Then the holes that it would
 * fill are counted (quota/fitting.h). The write waits for claims of others that may be given back.
 */
#ifndef V9_QUOTA_QUOTA_H
#define V9_QUOTA_QUOTA_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/statfs.h>

#include "quota/api.h"
#include "quota/fitting.h"

/* The usage now. */
void v9_quota_read(v9_quota *quota, struct v9_quota_usage *out);
/* The account of an inode's file, with one more reference; 0 where there is no room. `gone`
 * distinguishes a file without names from a later one with the same number. */
uint32_t v9_quota_hold(v9_quota *quota, uint64_t st_dev, uint64_t st_ino, bool gone);
/*
 * The same for the file `fd`, which stays open. Others may remove the file at any time: if they did
 * so before it had this account, its blocks were given back already, and count again until it is
 * released. -errno; -EMFILE where there is no room.
 */
int v9_quota_acquire(v9_quota *quota, int32_t fd);

/* Bytes that the file system allocates at once. */
uint32_t v9_quota_block(const v9_quota *quota);

/* The parts of a change (v9_quota_change_begin). What is held counts as it does, or as nothing if
 * it was `created` by the change, whose inode is then counted; its account, or -errno. */
int v9_quota_begin(v9_quota *quota, uint64_t bytes, uint64_t inodes);
void v9_quota_end(v9_quota *quota, uint64_t bytes, uint64_t inodes);
int v9_quota_hold_file(v9_quota *quota, int32_t fd, bool created);
void v9_quota_settle(v9_quota *quota, uint32_t account, int32_t fd, bool gone);
void v9_quota_release(v9_quota *quota, uint32_t account);

/*
 * Begins a write: how many bytes of it may be written (not 0), or -errno. On success *claim is for
 * v9_quota_settle_claim, which has to follow.
 */
int64_t v9_quota_admit(v9_quota *quota, uint32_t account, const struct v9_quota_write *write,
                       uint64_t *claim);
/* Ends what v9_quota_admit began. */
void v9_quota_settle_claim(v9_quota *quota, uint32_t account, int fd, uint64_t claim);
/* Looks at a file once more, if it was ever changed, before what holds it is closed. */
void v9_quota_close(v9_quota *quota, uint32_t account, int32_t fd);
/* Makes the answer of statfs(2) that of a file system of the quota's size. */
void v9_quota_statfs(v9_quota *quota, struct statfs *st);

#endif
