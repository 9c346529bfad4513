#define _GNU_SOURCE
#include "export/hidden_names.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/refusal.h"
#include "export/hidden_paths.h"
#include "export/notices.h"

static const char *const hidden[] = {
    [V9_META_DIR] = V9_META_DIR_NAME,
    [V9_META_ROOT] = V9_META_ROOT_NAME,
};
enum { HIDDEN = sizeof(hidden) / sizeof(hidden[0]) };

const char *v9_hidden_name(uint32_t which)
{
    return hidden[which == V9_META_DIR ? V9_META_DIR : V9_META_ROOT];
}

/* ---- metadata -------------------------------------------------------------------------------- */

/* Whether a name could be another spelling of a hidden one: where case, trailing dots or invisible
 * characters do not count, or files have short names beside their own (vfat, casefold). */
static bool may_be_alias(const char *name)
{
    if (!strncasecmp(name, V9_META_DIR_NAME, strlen(V9_META_DIR_NAME)))
        return true;
    while (*name && *name != '~' && (signed char)*name > 0)
        name++;
    return *name;
}

static bool is_metadata(v9_export *ex, int32_t dir_fd, const char *name)
{
    struct stat named, metadata;

    if (ex->conf.model != V9_MODEL_FILE)
        return false;
    for (int i = 0; i < HIDDEN; i++)
        if (!strcmp(name, hidden[i]))
            return true;
    if (!may_be_alias(name) || fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    for (int i = 0; i < HIDDEN; i++)
        if (fstatat(dir_fd, hidden[i], &metadata, AT_SYMLINK_NOFOLLOW) == 0 &&
            metadata.st_dev == named.st_dev && metadata.st_ino == named.st_ino)
            return true;
    return false;
}

/* ---- hidden paths ---------------------------------------------------------------------------- */

/* The state of a directory: V9_VISIBLE, V9_IS_HIDDEN, or -errno if its path is not known. */
static int state_of(v9_export *ex, int32_t dir_fd, struct v9_hidden_state *state)
{
    char path[PATH_MAX];
    const int size = v9_export_path(ex, dir_fd, "", path);

    if (size == -ENOENT) /* it is not inside the export */
        return V9_IS_HIDDEN;
    if (size < 0 && size != -EBUSY) /* EBUSY: the root */
        return size;
    path[size < 0 ? 0 : size] = 0;
    return v9_hidden_paths_follow(ex->hidden, path, state) ? V9_IS_HIDDEN : V9_VISIBLE;
}

static int is_hidden(v9_export *ex, int32_t dir_fd, const char *name)
{
    struct v9_hidden_state state;
    int err;

    if (!strcmp(name, ".") || !strcmp(name, ".."))
        return V9_VISIBLE;
    if (v9_hidden_paths_has_name(ex->hidden, name))
        return V9_IS_HIDDEN;
    if (!v9_hidden_paths_may_end(ex->hidden, name))
        return V9_VISIBLE;
    err = state_of(ex, dir_fd, &state);
    if (err)
        return err;
    return v9_hidden_paths_step(ex->hidden, &state, name, strlen(name)) ? V9_IS_HIDDEN : V9_VISIBLE;
}

int v9_export_hides(v9_export *ex, int32_t dir_fd, const char *name)
{
    if (is_metadata(ex, dir_fd, name))
        return V9_IS_METADATA;
    return ex->hidden ? is_hidden(ex, dir_fd, name) : V9_VISIBLE;
}

int v9_export_check_name(v9_export *ex, int32_t dir_fd, const char *name, int hidden)
{
    int is;

    if (v9_export_joined(ex, dir_fd, name))
        return v9_refuse(hidden == ENOENT ? EBUSY : EEXIST, V9_REFUSED_NOTICES, 0);
    is = v9_export_hides(ex, dir_fd, name);
    if (is <= 0)
        return is;
    return v9_refuse(is == V9_IS_METADATA ? EINVAL : hidden, V9_REFUSED_HIDDEN, 0);
}

int v9_export_hides_directory(v9_export *ex, int32_t fd)
{
    struct v9_hidden_state state;
    const int is = ex->hidden ? state_of(ex, fd, &state) : V9_VISIBLE;

    return is == V9_IS_HIDDEN ? v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0) : is;
}

/* The state of an entry, if it is a directory. */
static int state_of_entry(v9_export *ex, int32_t dir_fd, const char *name,
                          struct v9_hidden_state *state)
{
    const int is = state_of(ex, dir_fd, state);

    if (is)
        return is;
    return v9_hidden_paths_step(ex->hidden, state, name, strlen(name)) ? V9_IS_HIDDEN : V9_VISIBLE;
}

int v9_export_may_move(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir,
                       const char *new)
{
    struct v9_hidden_state before, after;
    struct stat st;
    int is;

    if (!ex->hidden || !v9_hidden_paths_have_places(ex->hidden))
        return 0;
    if (fstatat(old_dir, old, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno; /* a process that died may have renamed it */
    if (!S_ISDIR(st.st_mode))
        return 0;
    is = state_of_entry(ex, old_dir, old, &before);
    if (!is)
        is = state_of_entry(ex, new_dir, new, &after);
    if (is)
        return is == V9_IS_HIDDEN ? v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0) : is;
    if (v9_hidden_paths_are_same(ex->hidden, &before, &after))
        return 0;
    return v9_refuse(EACCES, V9_REFUSED_BELOW, 0);
}

/* ---- paths of requests ----------------------------------------------------------------------- */

bool v9_export_hides_path(const v9_export *ex, const char *path)
{
    if (ex->conf.model != V9_MODEL_FILE)
        return false;
    for (size_t size; *path; path += size + (path[size] == '/')) {
        size = strcspn(path, "/");
        for (int i = 0; i < HIDDEN; i++)
            if (size == strlen(hidden[i]) && !memcmp(path, hidden[i], size))
                return true;
    }
    return false;
}
