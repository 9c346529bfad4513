/*
 * linger: inodes that outlive their last fid for a while.
 *
 * A stat is a walk, a request for attributes and a clunk, and the same files are asked for again.
 * A inode whose last fid goes keeps its descriptor; the next walk finds it by what a stat of the
 * name tells (v9_inodes_meet), which costs a third of opening and closing. A held descriptor keeps
 * the inode and the mount, so while it is held their numbers stand for nothing else.
 *
 * It also keeps what the host may want to be rid of. A mount below the export is never kept: only
 * inodes of the root's own linger, which the export keeps anyway. A file that the host deletes has
 * its blocks for as long as its inode lingers: a second at most. What the guest itself takes a name
 * of ends at once, or with its last fid (v9_cached_lose); all that lingers ends with the session.
 * Nodes with an account of a quota or a metadata file never linger: much hangs on when they end.
 *
 * Under pressure for descriptors these are the first to go; nothing lingers where half of the
 * device's share (base/budget.h) is in use. All of a fid table's is guarded by its lock; one thread
 * of the process ends what has lingered for long, and sleeps while nothing lingers anywhere.
 */
#ifndef V9_FID_CACHED_H
#define V9_FID_CACHED_H

#include <stdbool.h>
#include <stdint.h>

enum { V9_LINGER_MAX = 4096 }; /* inodes of one fid table */

struct v9_fids;

/* Whether inodes may linger at all: the thread that ends them runs, started if need be. */
bool v9_cached_start(void);
/* The time, in turns of that thread. */
uint32_t v9_cached_now(void);
/* To be called, without locks, after a inode began to linger: the thread looks again. */
void v9_cached_watch(void);
/* Ends up to `batch` inodes that linger, the oldest first; how many. Without locks. */
uint32_t v9_cached_end(struct v9_fids *fids, uint32_t batch);
/* Ends what has lingered for long; whether anything is left. Without locks. */
bool v9_cached_end_old(struct v9_fids *fids);
/* A file loses a name by the guest's will: its inodes do not linger. Without locks. */
void v9_cached_lose(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino);

#endif
