/*
 * Files that programs have open or mapped. The kernel drops no name that is in use, so what is
 * stale there stays so when all other names are dropped.
 *
 * They are found in /proc, as far as this process sees others: by descriptors and mappings, which
 * lead to the files themselves, whatever has their names. Each one is opened without being opened
 * (O_PATH), and looked at before anything is done to it.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LONGEST 320 /* "/proc/", two numbers or a range of addresses, and a name between them */

struct search {
    const struct mount *mount;
    void (*visit)(const struct mount *mount, int file);
    struct statx root;
    uint64_t *seen; /* inodes */
    size_t count, room;
};

/* True once for each inode; if there is no memory, more often. */
static bool is_new(struct search *search, uint64_t inode)
{
    for (size_t i = 0; i < search->count; i++)
        if (search->seen[i] == inode)
            return false;
    if (search->count == search->room) {
        size_t more = search->room ? 2 * search->room : 256;
        uint64_t *grown = realloc(search->seen, more * sizeof *grown);
        if (!grown)
            return true;
        search->seen = grown;
        search->room = more;
    }
    search->seen[search->count++] = inode;
    return true;
}

/* What the kernel knows, without a request to a server. */
static bool know(int file, struct statx *status)
{
    return !statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, status);
}

static void take(struct search *search, const char *link)
{
    struct statx status;
    int file = open(link, O_PATH | O_CLOEXEC);
    if (file < 0)
        return;
    if (know(file, &status) && S_ISREG(status.stx_mode) &&
        status.stx_dev_major == search->root.stx_dev_major &&
        status.stx_dev_minor == search->root.stx_dev_minor && is_new(search, status.stx_ino))
        search->visit(search->mount, file);
    close(file);
}

static void take_all(struct search *search, const char *process, const char *kind)
{
    char folder[LONGEST], link[2 * LONGEST];
    snprintf(folder, sizeof folder, "/proc/%s/%s", process, kind);
    DIR *stream = opendir(folder);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        snprintf(link, sizeof link, "%s/%s", folder, entry->d_name);
        if (*entry->d_name != '.')
            take(search, link);
    }
    if (stream)
        closedir(stream);
}

void agent_each_in_use(const struct mount *mount,
                       void (*visit)(const struct mount *mount, int file))
{
    struct search search = {.mount = mount, .visit = visit};
    struct statx events;
    if (know(mount->events, &events))
        is_new(&search, events.stx_ino); /* which nothing caches */
    DIR *stream = know(mount->root, &search.root) ? opendir("/proc") : NULL;
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (*entry->d_name < '1' || *entry->d_name > '9')
            continue;
        take_all(&search, entry->d_name, "fd");
        take_all(&search, entry->d_name, "map_files");
    }
    if (stream)
        closedir(stream);
    free(search.seen);
}
