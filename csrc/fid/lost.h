/*
 * lost: the fids of a process that died, if its descriptors are gone as well.
 *
 * A worker's descriptors outlive it in the table that it shares with its keeper. If that dies, too,
 * only the fid table's memory is left. Then each inode and each open fid is what eviction makes of
 * it (fid/evict.h): it has no descriptor, and the next pin reopens its file. One that was evicted
 * before keeps its recipe. All others get one that has the name by which the guest has reached the
 * file, as the dentries know it. What is found there has to prove that it is the file: by device,
 * inode number, mount and birth time. The last must be old enough: from the death on the kernel may
 * give the inode's number to another file, which is born then. The root of an export proves itself.
 *
 * What is not to be had again:
 *  - files without a name, since the guest has unlinked them or the host has renamed them; files
 * too young for the proof, or on a file system that keeps no birth time. Their fids live on, and
 *    every use of them is answered with ESTALE;
 *  - locks, which were the descriptors';
 *  - errors of write-back that nobody has reported yet (fid/lost_writes.h).
 *
 * No number of a descriptor in this memory is believed: it may mean anything in another process.
 *
 * An export that the operator has taken away while the guest runs is lost in the same way, with its
 * descriptors, names and locks. Its index may come to mean another export later, so its inodes are
 * handed over to export 0, where nothing leads to their files.
 */
#ifndef V9_FID_LOST_H
#define V9_FID_LOST_H

#include "fid/fid_table.h"

/* Before recovery (fid/recover.h). Done again, it changes nothing. */
void v9_lost_forget_descriptors(struct v9_fids *fids);
/* Likewise, of all exports but those in `served`, by their index; and of what is hidden by now.
 * Export 0 is always served. Returns whether there was anything, which then has to be recovered. */
bool v9_lost_forget_exports(struct v9_fids *fids, const bool served[V9_EXPORTS_MAX]);
/* Before that: files of an export that the operator hides by now are of none. `root` is the
 * export's directory. What is evicted is looked at when it is restored (fid/restore.c). */
void v9_lost_forget_hidden(struct v9_fids *fids, uint32_t export, const char *root,
                           const v9_hidden_paths *paths);
/* The end of recovery: gives inodes recipes that need one, if there are such. */
void v9_lost_settle(struct v9_fids *fids);
/* How many fids stand for files that cannot be reopened. No other thread uses the table. */
uint32_t v9_lost_count(const struct v9_fids *fids);

#endif
