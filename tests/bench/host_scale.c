/*
 * What the kernel alone takes for FIDS_GETATTR: one statx on one of many descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tree.h"

static int *files;

void host_prepare_scale(enum workload workload)
{
    if (workload != FIDS_FILL && workload != FIDS_GETATTR)
        broken("%s is for 9P only", workload_names[workload]);
    if (workload != FIDS_FILL)
        return;
    files = malloc(run.size * sizeof(*files));
    if (!files)
        broken("out of memory");
}

void host_step_scale(enum workload workload, struct lane *lane)
{
    char directory[32], path[64], name[16];
    struct statx found;

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
