#define _GNU_SOURCE
#include "fid/lost_writes.h"

#include <errno.h>
#include <fcntl.h>

#include "fid/fid.h"

enum { NONE, EIO_LOST, ENOSPC_LOST, EDQUOT_LOST };

static uint8_t code_of(int err)
{
    switch (err) {
    case -EIO:
        return EIO_LOST;
    case -ENOSPC:
        return ENOSPC_LOST;
    case -EDQUOT:
        return EDQUOT_LOST;
    default:
        return NONE; /* nothing of write-back: the file system has no such call, for example */
    }
}

static int errno_of(uint8_t code)
{
    return code == EIO_LOST ? -EIO : code == ENOSPC_LOST ? -ENOSPC : code ? -EDQUOT : 0;
}

int v9_lost_writes_flush(const struct v9_fid *fid)
{
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;

    if ((fid->io_flags & O_ACCMODE) == O_RDONLY)
        return 0;
    return sync_file_range(fid->io_fd, 0, 0, all) < 0 ? -errno : 0;
}

void v9_lost_writes_note(struct v9_fid *fid, int err)
{
    const uint8_t code = code_of(err);

    if (code)
        fid->lost_writes = code;
}

/* The fids of the same file, among some entries, that have no descriptor now. The lock is held. */
static void note_among(struct v9_fids *fids, uint32_t from, uint32_t to, uint32_t inode, int err)
{
    for (uint32_t i = from; i < to; i++) {
        struct v9_fid *fid = &fids->entries[i];
        if (fid->refs && fid->inode == inode && fid->io_fd == V9_IO_EVICTED)
            v9_lost_writes_note(fid, err);
    }
}

int v9_lost_writes_found(struct v9_fids *fids, struct v9_fid *fid, int err)
{
    int lost;

    pthread_mutex_lock(&fids->lock);
    v9_lost_writes_note(fid, err);
    lost = errno_of(fid->lost_writes);
    if (code_of(err)) {
        note_among(fids, 0, fids->homes, fid->inode, err); /* what lies between was never used */
        note_among(fids, fids->unused, fids->max, fid->inode, err);
    }
    pthread_mutex_unlock(&fids->lock);
    return lost ? lost : err;
}

void v9_lost_writes_reported(struct v9_fids *fids, struct v9_fid *fid)
{
    pthread_mutex_lock(&fids->lock);
    if (fid->lost_writes) {
        v9_fids_will_change(fids, fid);
        fid->lost_writes = NONE;
    }
    pthread_mutex_unlock(&fids->lock);
}
