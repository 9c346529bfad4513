/*
 * recover: makes a fid table good again whose process was killed.
 *
 * The table's memory is shared and outlives the process. Nothing in it is repaired; all but the
 * truth is made anew. The truth are the entries that are entered: a fid is entered last, once what
 * it stands for is complete, and loses its number first. From the entered fids everything is
 * reached that is needed: names, inodes, recipes. What is not reached is free, and so is memory
 * that nothing occupies. References and pins are counted anew; lists and hash tables are filled
 * anew; locks are initialised, since one may have been held. A change that takes several stores is
 * either invisible until its last one, or noted as a whole before (v9_dentry_change).
 *
 * What is not whole is left out: its fid is gone, and nothing else is harmed.
 *
 * Descriptors that nothing owns afterwards were opened by a request that had not come so far as to
 * enter them, or were to be closed: the caller closes them.
 */
#ifndef V9_FID_RECOVER_H
#define V9_FID_RECOVER_H

#include "fid/fid_table.h"

/* 0; -ENOMEM: the table is as it was. No other thread uses the table. */
int v9_fids_recover(struct v9_fids *fids);
/* Begins to serve a recovered table, as v9_fids_init does an empty one. */
int v9_fids_resume(struct v9_fids *fids, v9_export *const *exports,
                   const struct v9_shrinker_ops *ops);
/* Calls `owns` for each descriptor that the table has. */
void v9_fids_list_descriptors(const struct v9_fids *fids, void (*owns)(void *context, int32_t fd),
                              void *context);

#endif
