/*
 * What the kernel alone takes for FIDS_GETATTR, one statx on one of many descriptors, and for
 * ENTRIES_LIST, getdents64 of a whole directory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"
#include "tree.h"

static int *files, listed = -1;
static uint8_t listing[LISTING];

void host_prepare_scale(struct lane *lane)
{
    char name[32];

    (void)lane;
    tree_many_name(name);
    if (run.workload == FIDS_FILL) {
        files = malloc(run.size * sizeof(*files));
        if (!files)
            broken("out of memory");
    } else if (run.workload == ENTRIES_LIST) {
        listed = openat(host_directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (listed < 0)
            broken("%s: %s", name, strerror(errno));
    }
}

void host_release_scale(struct lane *lane)
{
    (void)lane;
    if (listed >= 0)
        close(listed);
    listed = -1;
}

bool host_entries(struct lane *lane)
{
    ssize_t bytes;

    lane->entries = 0;
    lseek(listed, 0, SEEK_SET);
    while ((bytes = getdents64(listed, listing, sizeof(listing))) > 0)
        for (ssize_t at = 0; at < bytes;) {
            const struct dirent64 *entry = (const struct dirent64 *)(listing + at);

            at += entry->d_reclen;
            lane->entries++;
        }
    if (bytes < 0 || lane->entries != run.entries + 2) /* `.` and `..` */
        wrong(lane, "%u entries, errno %d", lane->entries, errno);
    return false;
}

bool host_fill(struct lane *lane)
{
    char directory[32], path[64], name[16];

    (void)lane;
    tree_many_name(directory);
    tree_many_entry(name, run.fresh % run.files);
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    files[run.fresh] = openat(host_directory, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (files[run.fresh++] < 0)
        broken("%s: %s", path, strerror(errno));
    return false;
}

bool host_members_getattr(struct lane *lane)
{
    struct statx found;

    lane->choice = draw(lane) % run.size;
    if (statx(files[lane->choice], "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) < 0)
        broken("statx: %s", strerror(errno));
    if (found.stx_mode != (0100000 | tree_fresh_mode(lane->choice % run.files)))
        wrong(lane, "mode %o", found.stx_mode);
    return false;
}
