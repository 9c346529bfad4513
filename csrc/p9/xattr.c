/*
 * xattr: Txattrwalk to an attribute that is not there. Linux's client asks for attributes that
 * hardly any file has: security.capability before writes, ACLs and labels for each file that is
 * listed. So C answers that there is none; if there is one, or the request needs more, Python
 * answers it (vhost9p/p9/xattr.py).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/sys.h"
#include "export/xattr_names.h"
#include "p9/handler.h"
#include "p9/lookup.h"

/* The size of an attribute of the file `fd` by the guest's name. */
static int size_of(const v9_export *ex, int32_t fd, const char *name)
{
    char host[V9_XATTR_NAME], path[V9_PROC_PATH];
    int size = v9_export_xattr_name(ex, name, ENODATA, host);

    if (size < 0)
        return size;
    v9_sys_proc_path(fd, path);
    size = (int)getxattr(path, host, NULL, 0);
    return size < 0 ? -errno : size;
}

int v9_p9_xattrwalk(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                    struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in);
    char name[V9_XATTR_NAME];
    struct v9_inode *inode;
    struct v9_fid *fid;
    const char *bytes;
    uint16_t size;
    int err;

    v9_in_u32(in); /* newfid */
    bytes = v9_in_string(in, &size);
    if (!v9_in_is_done(in))
        return -EINVAL;
    err = v9_p9_file(dev, r, number, &fid, &inode);
    if (err)
        return err;
    err = -V9_NOT_OURS;
    if (size && size < sizeof(name) && !memchr(bytes, 0, size)) {
        memcpy(name, bytes, size);
        name[size] = 0;
        err = size_of(v9_inode_export(dev, inode), inode->path_fd, name);
    }
    v9_fids_unpin(&dev->fids, fid);
    return err < 0 ? err : -V9_NOT_OURS;
}
