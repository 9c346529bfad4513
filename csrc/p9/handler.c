#define _GNU_SOURCE
#include "p9/handler.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "export/hidden_names.h"
#include "mapped/mapped.h"

int32_t v9_inode_meta(v9_export *ex, struct v9_inode *inode)
{
    int32_t meta = __atomic_load_n(&inode->meta_fd, __ATOMIC_ACQUIRE), spare;

    if (meta >= 0 || ex->conf.model != V9_MODEL_FILE)
        return meta;
    meta = v9_mapped_find(ex, inode->path_fd);
    if (meta < 0)
        return -1;
    spare = v9_inode_adopt(inode, meta);
    if (spare >= 0)
        v9_budget_close(spare);
    return __atomic_load_n(&inode->meta_fd, __ATOMIC_ACQUIRE);
}

int v9_p9_check_place(struct v9_device *dev, const struct v9_fid *fid, const struct v9_inode *inode)
{
    v9_export *ex = v9_inode_export(dev, inode);
    const struct v9_dentry *dentry;

    if (!ex->hidden || !S_ISDIR(inode->mode) ||
        (inode->st_dev == ex->root_dev && inode->st_ino == ex->root_ino))
        return 0;
    dentry = v9_fid_is_by_name(fid) ? v9_dentry_at(&dev->fids.dentries, fid->dentry) : NULL;
    if (dentry && !__atomic_load_n(&dentry->fixed, __ATOMIC_RELAXED))
        return 0; /* its name was looked up */
    return v9_export_hides_directory(ex, inode->path_fd);
}

int v9_p9_take_name(struct v9_in *in, int dots, char name[V9_NAME_SIZE])
{
    uint16_t size;
    const char *bytes = v9_in_string(in, &size);
    const int err = v9_name_check(bytes, size);

    name[0] = 0;
    if (err)
        return err == V9_NAME_DOTS ? -dots : err;
    memcpy(name, bytes, size);
    name[size] = 0;
    return 0;
}

int v9_p9_question(struct v9_request *r, int fd, const struct v9_attr *attr, int err)
{
    if (err == -V9_NO_DEVICE) {
        r->question.a = attr->st_dev;
        r->question.b = attr->mnt_id;
        r->question.fd = v9_sys_dup(fd);
        if (r->question.fd < 0)
            return r->question.fd;
    } else if (err == -V9_NO_GROUP) {
        r->question.a = attr->device;
        r->question.b = attr->st_ino;
    }
    return err;
}

int v9_p9_attr(v9_export *ex, struct v9_request *r, int fd, int32_t meta_fd, struct v9_attr *attr)
{
    return v9_p9_question(r, fd, attr, v9_attr_read_held(ex, fd, "", meta_fd, attr));
}

int v9_p9_attr_of(v9_export *ex, struct v9_request *r, int dir_fd, const char *name,
                  struct v9_attr *attr)
{
    int err = v9_attr_read(ex, dir_fd, name, attr), fd;

    if (err != -V9_NO_DEVICE && err != -V9_NO_GROUP)
        return err;
    fd = v9_sys_reach(dir_fd, name, 0); /* the question to Python needs a descriptor of the file */
    if (fd < 0)
        return fd;
    err = v9_p9_attr(ex, r, fd, -1, attr);
    attr->stat_fd = -1;
    v9_budget_close(fd);
    return err;
}
