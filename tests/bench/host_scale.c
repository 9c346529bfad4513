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

#include "tree.h"

static int *files, listed = -1;
static uint8_t listing[LISTING];

void host_prepare_scale(enum workload workload)
{
    char name[32];

    tree_many_name(name);
    if (workload == FIDS_FILL) {
        files = malloc(run.size * sizeof(*files));
        if (!files)
            broken("out of memory");
    } else if (workload == ENTRIES_LIST) {
        listed = openat(host_directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (listed < 0)
            broken("%s: %s", name, strerror(errno));
    } else if (workload != FIDS_GETATTR) {
        broken("%s is for 9P only", workload_names[workload]);
    }
}

void host_release_scale(void)
{
    if (listed >= 0)
        close(listed);
    listed = -1;
}

static void list_all(struct lane *lane)
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
}

void host_step_scale(enum workload workload, struct lane *lane)
{
    char directory[32], path[64], name[16];
    struct statx found;

    if (workload == ENTRIES_LIST) {
        list_all(lane);
        return;
    }
    if (workload == FIDS_FILL) {
        tree_many_name(directory);
        tree_many_entry(name, run.fresh % run.files);
        snprintf(path, sizeof(path), "%s/%s", directory, name);
        files[run.fresh] = openat(host_directory, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (files[run.fresh++] < 0)
            broken("%s: %s", path, strerror(errno));
        return;
    }
    lane->choice = draw(lane) % run.size;
    if (statx(files[lane->choice], "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) < 0)
        broken("statx: %s", strerror(errno));
    if (found.stx_mode != (0100000 | tree_fresh_mode(lane->choice % run.files)))
        wrong(lane, "mode %o", found.stx_mode);
}
