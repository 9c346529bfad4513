/*
 * lost writes: what a fid's next Tfsync has to report since the host reports it no more.
 *
 * The kernel writes data back when it likes, and reports an error of that once to each descriptor
 * that was open at the time, at its next fsync(2). A fid whose descriptor is evicted gets another
 * one later, which knows nothing of errors before. So before the descriptor of a fid that can write
 * is closed, its file is written out, and what the host reports is noted in the fid. And if a fid
 * learns of an error while others of the file are evicted, it is noted in these.
 *
 * A fid has no room for an errno: it notes which of the few it was that write-back has. A note
 * stays until the reply that reports it is written, and outlives the process. But what the kernel
 * reports to a call in which the process is killed nobody has heard.
 */
#ifndef V9_FID_LOST_WRITES_H
#define V9_FID_LOST_WRITES_H

#include "fid/fid_table.h"

/* Before a descriptor is closed that can write: writes its file out. -errno of what was lost, or 0.
 * No lock is held. */
int v9_lost_writes_flush(const struct v9_fid *fid);
/* Notes that in the fid. The lock is held. */
void v9_lost_writes_note(struct v9_fid *fid, int err);
/* The end of a sync of a pinned fid, with the host's result, which is noted. Returns what is to be
 * reported: what was noted, or that result. */
int v9_lost_writes_found(struct v9_fids *fids, struct v9_fid *fid, int err);
/* The request that reports it has promised that error (request/reply.h): forgets the note. */
void v9_lost_writes_reported(struct v9_fids *fids, struct v9_fid *fid);

#endif
