/*
 * forget: fids by which the guest knows a file, and should look it up again.
 *
 * Linux's client drops a name (a dentry) when Tgetattr on the fid that it has for the name finds no
 * such file; with cache=loose nothing else makes it walk there again. So a fid can be *forgotten*:
 * the next Tgetattr on it gets ENOENT, and after that it is a fid like any other. The client ends
 * it and walks to the name.
 */
#ifndef V9_FID_FORGET_H
#define V9_FID_FORGET_H

#include "fid/fid_table.h"

/* Forgets the fids that a walk of names has made, and that are not open: of the file of a pinned
 * fid, and of its name. Takes no longer than a look at all fids, if the file has another one. */
void v9_fids_forget(struct v9_fids *fids, const struct v9_fid *fid);
/* Whether the fid of this number is forgotten; it is no more. */
bool v9_fids_take_forgotten(struct v9_fids *fids, uint32_t number);

#endif
