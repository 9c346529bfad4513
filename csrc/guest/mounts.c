/*
 * Which mount a .vhost9p is in, and how that is mounted: from /proc/self/mountinfo (proc(5)).
 *
 * The number of the mount is that of a descriptor's mnt_id in /proc/self/fdinfo.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int mount_of(int file)
{
    char path[40], line[256];
    int id = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", file);
    FILE *info = fopen(path, "re");
    while (info && id < 0 && fgets(line, sizeof line, info))
        if (sscanf(line, "mnt_id: %d", &id) != 1)
            id = -1;
    if (info)
        fclose(info);
    return id;
}

/* Calls `take` with the options of a mount and of its superblock; false if it is not there. */
static bool find(int id, void (*take)(struct mount *, const char *, const char *),
                 struct mount *mount)
{
    FILE *table = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (table && !found && getline(&line, &size, table) > 0) {
        int number, options_at = 0;
        if (sscanf(line, "%d %*d %*s %*s %*s %n", &number, &options_at) != 1 || number != id)
            continue;
        found = true;
        char *options = line + options_at, *rest = strstr(options, " - ");
        if (take && rest) {
            char *superblock = strrchr(rest, ' ') + 1;
            options[strcspn(options, " ")] = '\0';
            superblock[strcspn(superblock, "\n")] = '\0';
            take(mount, options, superblock);
        }
    }
    free(line);
    if (table)
        fclose(table);
    return found;
}

/* The value of an option, up to the next comma; NULL if it is not there. */
static const char *option(const char *options, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = options; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (!strncmp(at, name, length) && strchr("=,", at[length]))
            return at + length + (at[length] == '=');
    return NULL;
}

/* The cache is a word of its own before Linux 6.4, and cache=BITS since: 1 data, 2 attributes and
 * names, 8 loose. */
static void take_options(struct mount *mount, const char *options, const char *superblock)
{
    const char *cache = option(superblock, "cache");
    unsigned long bits = cache ? strtoul(cache, NULL, 0) : 0;
    mount->read_only = option(options, "ro") || option(superblock, "ro");
    mount->caches_names =
        (bits & 10) || option(superblock, "loose") || option(superblock, "fscache");
    mount->caches_pages = mount->caches_names || (bits & 1) || option(superblock, "mmap");
}

bool agent_mounted(int id)
{
    return find(id, NULL, NULL);
}

static bool times_of(const char *directory, const char *name, struct timespec *time)
{
    char path[4096];
    struct stat status;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path ||
        lstat(path, &status))
        return false;
    *time = status.st_mtim;
    return true;
}

/* Nobody can write in a .vhost9p but V9_REFRESH_UID; in a directory like it, that somebody else has
 * made, nothing that an agent does would leave the host's files alone. That the file cannot be
 * opened proves nothing, unless this is the reason: it may be a FIFO, or the host may refuse it. */
static bool is_made_by_another(const char *directory)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/refresh", directory) >= sizeof path)
        return true;
    int file = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file >= 0)
        close(file);
    return file >= 0 || errno != EROFS;
}

/* Direct: before Linux 6.4, cache=loose caches this file, too, whose size is 0. */
static int open_events(const char *path)
{
    int file = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    return file < 0 && errno == EINVAL ? open(path, O_RDONLY | O_CLOEXEC) : file;
}

/* The same, by a path that leads to the directory whatever becomes of its name. */
static int find_out(struct mount *mount, const char *directory)
{
    char path[64];
    snprintf(path, sizeof path, "%s/events", directory);
    mount->events = open_events(path);
    snprintf(path, sizeof path, "%s/..", directory);
    mount->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (mount->events < 0 || mount->root < 0 || !times_of(directory, "refresh", &mount->refresh) ||
        !times_of(directory, "forget", &mount->forget)) {
        agent_say("%s: %s; it has to be the .vhost9p in the root of a mount, and is for root",
                  mount->name, strerror(errno));
        return -1;
    }
    if (is_made_by_another(directory)) {
        agent_say("%s can be changed: vhost9p has not made it", mount->name);
        return -1;
    }
    mount->id = mount_of(mount->root);
    if (!find(mount->id, take_options, mount)) {
        agent_say("%s: its mount is not in /proc/self/mountinfo", mount->name);
        return -1;
    }
    mount->pretence = agent_can_pretend(directory);
    if (mount->caches_names)
        agent_renew_names(directory);
    return 0;
}

int agent_mount(struct mount *mount, const char *directory)
{
    char path[40];
    *mount = (struct mount){.name = directory, .root = -1, .events = -1};
    int opened = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", opened);
    int result = find_out(mount, path);
    if (opened >= 0)
        close(opened);
    return result;
}
