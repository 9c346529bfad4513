/*
 * What Python does for requests that C does not answer (vhost9p/p9), as far as tests of restart
 * send them: by the same calls, in the same order.
 */
#ifndef SERVER_PYTHON_H
#define SERVER_PYTHON_H

#include "base/sys.h"
#include "fs/api.h"
#include "server/requests.h"

enum { DMDIR = 1u << 31 }; /* of a Tcreate's perm */
/* A Twstat's n[2] size[2] type[2] dev[4] qid[13], and, after mode[4], atime[4] mtime[4] length[8].
 */
enum { STAT_BEFORE_MODE = 23, STAT_BEFORE_NAME = 16 };

static inline uint32_t begin_reply(uint8_t *reply, const uint8_t *data, uint32_t size)
{
    v9_put_header(reply, P9_HEADER_SIZE + size, (uint8_t)(data[4] + 1),
                  (uint16_t)(data[5] | data[6] << 8));
    return P9_HEADER_SIZE + size;
}

static inline int read_attr(int fd, const char *name, struct v9_attr *attr)
{
    int err = v9_attr_read(dev->exports[0], fd, name, attr);

    if (err != -V9_NO_DEVICE)
        return err;
    v9_qidmap_set_device(qidmap, attr->st_dev, attr->mnt_id, STAT_DEVICE, V9_DEV_IDENTITY);
    return v9_attr_read(dev->exports[0], fd, name, attr);
}

static inline void take_name(struct v9_in *in, char name[V9_NAME_SIZE])
{
    uint16_t size;
    const char *bytes = v9_in_string(in, &size);

    CHECK(!in->bad && size < V9_NAME_SIZE);
    memcpy(name, bytes, size);
    name[size] = 0;
}

static inline int32_t attach_root(struct v9_in *in, const uint8_t *data, uint8_t *reply)
{
    const uint32_t number = v9_in_u32(in);
    const int fd = v9_sys_dup(dev->exports[0]->conf.root_fd);
    struct v9_attr attr;
    uint64_t handle;
    int err = fd < 0 ? fd : read_attr(fd, "", &attr);

    if (!err)
        err = v9_fid_add(dev, number, fd, 0, geteuid(), &attr, &handle);
    if (err) {
        v9_budget_close(fd);
        return err;
    }
    v9_put_qid(reply + P9_HEADER_SIZE, &attr.qid);
    return (int32_t)begin_reply(reply, data, P9_QID_SIZE);
}

static inline int32_t remove_file(struct v9_in *in, const uint8_t *data, uint8_t *reply)
{
    const uint32_t number = v9_in_u32(in);
    struct v9_fid_info fid;
    uint64_t handle;
    int err = v9_fid_find(dev, number, &handle);

    if (err)
        return err;
    err = v9_fid_get(dev, number, &fid);
    if (!err) {
        err = v9_fid_unlink(dev, handle);
        v9_fid_put(dev, handle);
    }
    v9_fid_clunk(dev, handle);
    return err ? err : (int32_t)begin_reply(reply, data, 0);
}

/* A regular file or a directory. */
static inline int make(const struct v9_fid_info *dir, const char *name, uint32_t perm,
                       struct v9_created *made, struct v9_attr *attr)
{
    const bool directory = perm & DMDIR;
    const struct v9_new as = {.kind = directory ? V9_NEW_DIR : V9_NEW_FILE,
                              .mode = perm & 0777,
                              .uid = dir->uid,
                              .gid = V9_NO_ID,
                              .flags = O_RDWR | O_EXCL};
    int err = v9_create(dev->exports[0], dir->path_fd, name, &as, made);

    if (!err && directory)
        made->path_fd = v9_sys_reach(dir->path_fd, name, O_DIRECTORY);
    if (!err && directory)
        made->io_fd = v9_export_open(dev->exports[0], made->path_fd, O_RDONLY);
    if (made->meta_fd >= 0)
        v9_budget_close(made->meta_fd);
    made->meta_fd = -1;
    return err ? err : read_attr(made->path_fd, "", attr);
}

static inline int32_t create_file(struct v9_in *in, const uint8_t *data, uint8_t *reply)
{
    struct v9_created made = {.path_fd = -1, .meta_fd = -1, .io_fd = -1};
    char name[V9_NAME_SIZE];
    struct v9_fid_info dir;
    struct v9_attr attr;
    int err = v9_fid_get(dev, v9_in_u32(in), &dir);

    if (err)
        return err;
    take_name(in, name);
    err = make(&dir, name, v9_in_u32(in), &made, &attr);
    if (!err)
        err = v9_fid_become(dev, dir.handle, name, &made, &attr);
    v9_fid_put(dev, dir.handle);
    if (err)
        return err;
    v9_put(v9_put_qid(reply + P9_HEADER_SIZE, &attr.qid), 0, 4);
    return (int32_t)begin_reply(reply, data, P9_QID_SIZE + 4);
}

/* A mode and a name (fill_wstat), or nothing, which is fsync(2). */
static inline int32_t change_file(struct v9_in *in, const uint8_t *data, uint8_t *reply)
{
    struct v9_setattr to = {.valid = SET_MODE, .uid = V9_NO_ID, .gid = V9_NO_ID};
    char name[V9_NAME_SIZE];
    struct v9_fid_info fid;
    int err = v9_fid_get(dev, v9_in_u32(in), &fid);

    if (err)
        return err;
    if (in->at == in->end) {
        err = v9_fid_sync(dev, fid.handle);
        v9_fid_put(dev, fid.handle);
        return err ? err : (int32_t)begin_reply(reply, data, 0);
    }
    in->at += STAT_BEFORE_MODE;
    to.mode = v9_in_u32(in) & 0777;
    in->at += STAT_BEFORE_NAME;
    take_name(in, name);
    err = v9_fid_setattr(dev, fid.handle, &to);
    if (!err && *name)
        err = v9_fid_rename(dev, fid.handle, name);
    v9_fid_put(dev, fid.handle);
    return err ? err : (int32_t)begin_reply(reply, data, 0);
}

/* Answers a request as Python does. */
static inline int32_t answer_as_python(const uint8_t *data, uint32_t size, uint8_t *reply)
{
    struct v9_in in = {data + P9_HEADER_SIZE, data + size, false};

    switch (data[4]) {
    case P9_TATTACH:
        return attach_root(&in, data, reply);
    case P9_TREMOVE:
        return remove_file(&in, data, reply);
    case P9_TCREATE:
        return create_file(&in, data, reply);
    case P9_TWSTAT:
        return change_file(&in, data, reply);
    default:
        return (int32_t)begin_reply(reply, data, 0);
    }
}

#endif
