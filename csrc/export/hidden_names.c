#define _GNU_SOURCE
#include "export/hidden_names.h"

#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char *const hidden[] = {
    [V9_META_DIR] = V9_META_DIR_NAME,
    [V9_META_ROOT] = V9_META_ROOT_NAME,
};
enum { HIDDEN = sizeof(hidden) / sizeof(hidden[0]) };

const char *v9_hidden_name(uint32_t which)
{
    return hidden[which == V9_META_DIR ? V9_META_DIR : V9_META_ROOT];
}

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

bool v9_export_hides(v9_export *ex, int32_t dir_fd, const char *name)
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
