/*
 * notices: the directory through which a guest hears of changes that others make on the host.
 *
 * 9P has no message from the server by itself. So a device that notifies shows one directory more
 * in the root of the guest's mount. It is an export of its own, joined like any other, whose files
 * the daemon has made: `events` is a stream (fid/fid_table.h), whose reads wait; what a script
 * needs beside it are ordinary files. The whole directory is read-only, and has owners and qids of
 * its own: the file system that it is on has nothing to do with those of the exports.
 *
 * Linux caches by qid. A version of 0 makes a file uncached, whatever the mount says, and that is
 * what empty files of this directory have: the stream, and those that are there for their times.
 * Directories of all exports of such a device have one constant version. So a directory that the
 * guest has forgotten and looks up again is the same to it, and what watches it goes on.
 *
 * Some requests have the guest's kernel look again, and nothing else (p9/setattr.c, p9/io.c): they
 * are told by a time of modification, or by the user of the fid, that no other request has.
 */
#ifndef V9_EXPORT_NOTICES_H
#define V9_EXPORT_NOTICES_H

#include <string.h>

#include "export/export.h"

/* Whether an export is the directory of notices. */
static inline bool v9_notices_are(const struct v9_export *ex)
{
    return ex->stream_end != NULL;
}
/* Whether a file of an export, by its inode number, is the stream. */
static inline bool v9_notices_stream(const struct v9_export *ex, uint64_t st_ino)
{
    return v9_notices_are(ex) && st_ino == ex->stream_ino;
}
/* Whether a user's requests only refresh. */
static inline bool v9_notices_refreshes(const struct v9_export *ex, uint32_t uid)
{
    return ex->conf.notifies && uid == V9_REFRESH_UID;
}
/* Gives the attributes of a file in it, as the host has them, the owner and the qid.path that the
 * guest sees. */
void v9_notices_own(struct v9_attr *attr);
/* The qid.version of a file: `version` by its contents, save where it is a constant. */
uint32_t v9_notices_version(const struct v9_export *ex, const struct v9_attr *attr,
                            uint32_t version);
/* The export that is joined to another one by this name, if `fd` is the root of that; NULL. */
v9_export *v9_export_joined(const struct v9_export *ex, int32_t fd, const char *name);
/* Whether another export is joined by this name, so that no entry of `ex` is to be used by it. */
static inline bool v9_export_joins(const struct v9_export *ex, const char *name)
{
    const struct v9_export *joined = ex->below;

    while (joined && strcmp(joined->name, name))
        joined = joined->aside;
    return joined != NULL;
}

#endif
