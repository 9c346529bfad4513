#define _GNU_SOURCE
#include "fid/recipe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/shrinker.h"
#include "base/sys.h"
#include "export/containment.h"

_Static_assert(V9_HANDLE_MAX >= MAX_HANDLE_SZ, "name_to_handle_at(2)");

union handle {
    struct file_handle head;
    uint8_t bytes[sizeof(struct file_handle) + V9_HANDLE_MAX];
};

/* ---- handles --------------------------------------------------------------------------------- */

static int read_handle(int fd, union handle *handle)
{
    int mount_id;

    handle->head.handle_bytes = V9_HANDLE_MAX;
    return name_to_handle_at(fd, "", &handle->head, &mount_id, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int open_handle(int anchor, const struct v9_recipe *recipe)
{
    union handle handle;
    int fd;

    handle.head.handle_bytes = recipe->handle_size;
    handle.head.handle_type = recipe->handle_type;
    memcpy(handle.bytes + offsetof(struct file_handle, f_handle), recipe->handle,
           recipe->handle_size);
    V9_OPEN(fd, open_by_handle_at(anchor, &handle.head, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    return fd;
}

/* ---- making ---------------------------------------------------------------------------------- */

/* Whether every file that is created from now on gets another btime. The host's clock for them goes
 * in steps of some milliseconds; a file system may keep whole seconds, FAT two of them. */
bool v9_recipe_is_conclusive(uint64_t btime, uint64_t ago)
{
    const uint64_t second = 1000000000u, step = btime % second ? second / 10 : 2 * second;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return btime && btime + step + ago < (uint64_t)now.tv_sec * second + (uint64_t)now.tv_nsec;
}

static bool is_same(const struct v9_identity *a, const struct v9_identity *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->btime == b->btime &&
           a->mnt_id == b->mnt_id;
}

int v9_recipe_make(v9_export *ex, int32_t fd, const struct v9_identity *is,
                   struct v9_recipe *recipe, uint32_t *host_mode)
{
    struct v9_identity seen;
    union handle handle;
    uint64_t nlink;
    int size, err = v9_host_identify(fd, "", &seen, host_mode, &nlink);

    if (err)
        return err;
    if (seen.st_dev == ex->root_dev && seen.st_ino == ex->root_ino)
        return -EBUSY;
    if (!nlink || !is_same(&seen, is))
        return -ESTALE;
    size = v9_export_path(ex, fd, "", recipe->path);
    recipe->path_size = size < 0 ? 0 : (uint32_t)size;
    recipe->handle_size = 0;
    recipe->btime_conclusive = v9_recipe_is_conclusive(is->btime, 0);
    if (read_handle(fd, &handle) < 0)
        return recipe->btime_conclusive ? 0 : -EAGAIN;
    recipe->handle_type = handle.head.handle_type;
    recipe->handle_size = handle.head.handle_bytes;
    memcpy(recipe->handle, handle.bytes + offsetof(struct file_handle, f_handle),
           recipe->handle_size);
    return 0;
}

/* Opens the directory that the path is in. */
static int open_parent(v9_export *ex, const struct v9_recipe *recipe)
{
    char parent[PATH_MAX];
    char *slash;
    int dir, fd;

    if (!recipe->path_size)
        return -ENOENT;
    memcpy(parent, recipe->path, recipe->path_size + 1);
    slash = strrchr(parent, '/');
    if (slash)
        *slash = 0;
    dir = v9_sys_resolve(ex->conf.root_fd, slash ? parent : ".", O_DIRECTORY, RESOLVE_BENEATH);
    if (dir < 0)
        return dir;
    fd = v9_export_open(ex, dir, O_RDONLY);
    v9_budget_close(dir);
    return fd;
}

static bool is_on_mount(int fd, uint64_t mnt_id)
{
    struct v9_identity seen;
    uint64_t nlink;
    uint32_t mode;

    return !v9_host_identify(fd, "", &seen, &mode, &nlink) && seen.mnt_id == mnt_id;
}

/* Opens something on a mount for reading, which can be asked for files by handle: the export's
 * root, the file itself if it is a directory, the directory that it is in; the file at last. */
static int open_on_mount(v9_export *ex, int fd, uint64_t mnt_id, const struct v9_recipe *recipe,
                         uint32_t host_mode)
{
    int opened = -1;

    for (int i = 0; i < 3; i++) {
        if (i == 0)
            opened = v9_export_open(ex, ex->conf.root_fd, O_RDONLY);
        else if (i == 1)
            opened =
                S_ISDIR(host_mode) ? v9_export_open(ex, fd, O_RDONLY) : open_parent(ex, recipe);
        else if (S_ISREG(host_mode))
            opened = v9_export_open(ex, fd, O_RDONLY);
        if (opened >= 0 && is_on_mount(opened, mnt_id))
            return opened;
        if (opened >= 0)
            v9_budget_close(opened);
        opened = -1;
    }
    return -1;
}

int v9_recipe_anchor(v9_export *ex, int32_t fd, const struct v9_identity *is,
                     const struct v9_recipe *recipe, uint32_t host_mode, bool *by_handle)
{
    int anchor = open_on_mount(ex, fd, is->mnt_id, recipe, host_mode);
    int probe = anchor >= 0 && recipe->handle_size ? open_handle(anchor, recipe) : -1;

    *by_handle = probe >= 0;
    if (probe >= 0)
        v9_budget_close(probe);
    return anchor >= 0 ? anchor : v9_export_reopen(ex, fd);
}

int v9_recipe_open_anchor(v9_export *ex, uint64_t mnt_id)
{
    const int opened = v9_export_open(ex, ex->conf.root_fd, O_RDONLY);

    if (opened < 0 || is_on_mount(opened, mnt_id))
        return opened < 0 ? -1 : opened;
    v9_budget_close(opened);
    return -1;
}

/* ---- opening ------------------------------------------------------------------------------- */

static bool is_proven(int fd, const struct v9_identity *is, const struct v9_recipe *recipe)
{
    struct v9_identity seen;
    union handle handle;
    uint64_t nlink;
    uint32_t mode;

    if (v9_host_identify(fd, "", &seen, &mode, &nlink) || !is_same(&seen, is))
        return false;
    if (!recipe->handle_size)
        return true;
    return !read_handle(fd, &handle) && handle.head.handle_type == recipe->handle_type &&
           handle.head.handle_bytes == recipe->handle_size &&
           !memcmp(handle.bytes + offsetof(struct file_handle, f_handle), recipe->handle,
                   recipe->handle_size);
}

static int prove(int fd, const struct v9_identity *is, const struct v9_recipe *recipe)
{
    if (fd < 0 || is_proven(fd, is, recipe))
        return fd;
    v9_budget_close(fd);
    return -ESTALE;
}

/* Errors that say that the name stands for no file, or for none that may be reached by it. */
static bool is_gone(int err)
{
    return err == -ENOENT || err == -ENOTDIR || err == -ELOOP || err == -EXDEV || err == -ESTALE;
}

int v9_recipe_open(v9_export *ex, const struct v9_identity *is, const struct v9_recipe *recipe,
                   int32_t anchor)
{
    int fd = recipe->path_size ? v9_sys_resolve(ex->conf.root_fd, recipe->path, 0, RESOLVE_BENEATH)
                               : -ENOENT;
    int other;

    fd = prove(fd, is, recipe);
    if (fd >= 0)
        return fd;
    if (anchor >= 0 && recipe->handle_size) {
        other = prove(open_handle(anchor, recipe), is, recipe);
        if (other >= 0)
            return other;
    }
    return is_gone(fd) ? -ESTALE : fd;
}
