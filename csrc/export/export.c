#define _GNU_SOURCE
#include "export/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/ctime.h"
#include "base/proc.h"
#include "base/sys.h"
#include "export/hidden_paths.h"

static void init_recursive(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

v9_export *v9_export_new(const struct v9_export_conf *conf, v9_qidmap *qidmap, int32_t *err)
{
    struct v9_export *ex = calloc(1, sizeof(*ex));
    char fds[V9_PROC_PATH];
    struct stat st;

    *err = -ENOMEM;
    if (!ex)
        return NULL;
    ex->conf = *conf;
    ex->qidmap = qidmap;
    ex->proc_fd = -1;
    ex->conf.root_fd = fcntl(conf->root_fd, F_DUPFD_CLOEXEC, 3);
    if (ex->conf.root_fd < 0 || fstat(ex->conf.root_fd, &st) < 0) {
        *err = -errno;
        goto fail;
    }
    ex->root_dev = st.st_dev;
    ex->root_ino = st.st_ino;
    ex->ctime_is_reliable = v9_ctime_is_reliable(ex->conf.root_fd);
    ex->ctime_shows_renames = v9_ctime_shows_renames(ex->conf.root_fd);
    v9_proc_fds(fds);
    ex->proc_fd = open(fds, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ex->proc_fd < 0) {
        *err = -errno;
        goto fail;
    }
    *err = v9_self_read(&ex->self);
    if (*err)
        goto fail;
    pthread_mutex_init(&ex->override_lock, NULL);
    pthread_mutex_init(&ex->metadata_lock, NULL);
    pthread_mutex_init(&ex->xattr_lock, NULL);
    init_recursive(&ex->names_lock);
    *err = 0;
    return ex;
fail:
    if (ex->conf.root_fd >= 0)
        v9_budget_close(ex->conf.root_fd);
    if (ex->proc_fd >= 0)
        v9_budget_close(ex->proc_fd);
    free(ex);
    return NULL;
}

void v9_export_free(v9_export *ex)
{
    v9_budget_close(ex->conf.root_fd);
    v9_budget_close(ex->proc_fd);
    pthread_mutex_destroy(&ex->override_lock);
    pthread_mutex_destroy(&ex->metadata_lock);
    pthread_mutex_destroy(&ex->xattr_lock);
    pthread_mutex_destroy(&ex->names_lock);
    v9_self_free(&ex->self);
    free(ex->metadata_cache);
    free(ex->overrides);
    free(ex->rate_queues);
    free(ex->failures);
    v9_idmap_free(&ex->ids[V9_UID]);
    v9_idmap_free(&ex->ids[V9_GID]);
    free(ex);
}

int v9_export_join(v9_export *above, const char *name, v9_export *ex)
{
    if (strlen(name) >= sizeof(ex->name))
        return -ENAMETOOLONG;
    strcpy(ex->name, name);
    ex->above = above;
    ex->aside = above->below;
    above->below = ex;
    return 0;
}

uint32_t v9_export_index(const v9_export *ex)
{
    return ex->index;
}

void v9_export_lock_names(v9_export *ex)
{
    pthread_mutex_lock(&ex->names_lock);
}

void v9_export_unlock_names(v9_export *ex)
{
    pthread_mutex_unlock(&ex->names_lock);
}

static bool has_more_than_names(const v9_export *ex)
{
    return ex->quota || ex->conf.model == V9_MODEL_FILE ||
           (ex->hidden && v9_hidden_paths_have_places(ex->hidden));
}

void v9_export_names_begin(v9_export *ex)
{
    if (has_more_than_names(ex))
        v9_export_lock_names(ex);
}

void v9_export_names_end(v9_export *ex)
{
    if (has_more_than_names(ex))
        v9_export_unlock_names(ex);
}

int v9_export_set_ids(v9_export *ex, uint32_t kind, const struct v9_id_conf *conf)
{
    return kind > V9_GID ? -EINVAL : v9_idmap_set(&ex->ids[kind], conf);
}

int64_t v9_export_host_id(const v9_export *ex, uint32_t kind, uint32_t guest)
{
    uint32_t host;
    int err = v9_idmap_host(&ex->ids[kind == V9_GID], guest, &host);

    return err ? err : (int64_t)host;
}

uint32_t v9_export_guest_id(const v9_export *ex, uint32_t kind, uint32_t host)
{
    return v9_idmap_guest(&ex->ids[kind == V9_GID], host);
}

int v9_export_set_quota(v9_export *ex, v9_quota *quota)
{
    ex->quota = quota;
    return 0;
}

int v9_export_set_mounts(v9_export *ex, v9_mounts *mounts)
{
    ex->mounts = mounts;
    return 0;
}

void v9_export_hide(v9_export *ex, const v9_hidden_paths *paths)
{
    ex->hidden = paths;
}

int v9_export_watch_caps(v9_export *ex, const char *name)
{
    return v9_caps_watch(&ex->caps, name);
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* Appends "/name". */
static int append(char path[PATH_MAX], int size, const char *name)
{
    const size_t more = strlen(name), slash = size > 0;

    if ((size_t)size + slash + more >= PATH_MAX)
        return -ENAMETOOLONG;
    if (slash)
        path[size] = '/';
    memcpy(path + size + slash, name, more + 1);
    return size + (int)(slash + more);
}

int v9_export_path(v9_export *ex, int32_t fd, const char *name, char path[PATH_MAX])
{
    char root[PATH_MAX];
    int base = v9_sys_path(ex->proc_fd, ex->conf.root_fd, root), size;

    if (base < 0)
        return base;
    size = v9_sys_path(ex->proc_fd, fd, path);
    if (size < 0)
        return size;
    if (root[base - 1] == '/') /* "/" itself */
        base--;
    if (size < base || memcmp(path, root, (size_t)base) || (path[base] && path[base] != '/'))
        return -ENOENT;
    base += path[base] == '/';
    size -= base;
    memmove(path, path + base, (size_t)size + 1);
    if (*name)
        return append(path, size, name);
    return size ? size : -EBUSY;
}
