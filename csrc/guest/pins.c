/*
 * Directories that are held open, so that watches of them work.
 *
 * Without cache=loose the guest's kernel makes a new inode for a directory at each use, unless
 * something holds its name. A watch is one of an inode: if nothing held the directory when the
 * watch was set, it never fires, not even for what the guest does itself. So all directories are
 * held from the start, up to a limit, those near the root first: a descriptor each, which opens
 * nothing on the host (O_PATH), and a fid there.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pin {
    char *path; /* below the root */
    int directory;
};

static struct pin *pins;
static unsigned count, limit, room;
static bool full;

void agent_pin_limit(unsigned most)
{
    limit = most;
}

/* Whether a path is that of one of the oldest. */
static bool is_pinned(const char *path, unsigned oldest)
{
    for (unsigned i = 0; i < oldest; i++)
        if (!strcmp(pins[i].path, path))
            return true;
    return false;
}

/* Adds one; nothing happens if it is among the oldest, or no directory, or there is no room. */
static void add(const struct mount *mount, const char *path, unsigned oldest)
{
    if (is_pinned(path, oldest))
        return;
    if (count == limit) {
        if (!full)
            agent_say("%s: watches of directories may miss changes beyond the first %u (-p)",
                      mount->name, limit);
        full = true;
        return;
    }
    if (count == room) {
        unsigned more = room ? 2 * room : 256;
        struct pin *grown = realloc(pins, more * sizeof *pins);
        if (!grown)
            return;
        pins = grown;
        room = more;
    }
    int directory = agent_open(mount, path);
    char *copy = directory < 0 ? NULL : strdup(path);
    if (copy)
        pins[count++] = (struct pin){copy, directory};
    else if (directory >= 0)
        close(directory);
}

/* The directories in a directory, whose own path may be freed while they are added; but for those
 * that are among the oldest. */
static void add_children(const struct mount *mount, unsigned at, unsigned oldest)
{
    char prefix[4096], path[4096 + 256];
    const char *parent = pins[at].path;
    if (!strcmp(parent, "."))
        parent = "";
    if (snprintf(prefix, sizeof prefix, "%s%s", parent, *parent ? "/" : "") >= (int)sizeof prefix)
        return;
    int list = openat(pins[at].directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = list < 0 ? NULL : fdopendir(list);
    if (!stream && list >= 0)
        close(list);
    for (struct dirent *entry; stream && !full && (entry = readdir(stream));) {
        if (entry->d_type != DT_DIR || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s%s", prefix, entry->d_name);
        add(mount, path, oldest);
    }
    if (stream)
        closedir(stream);
}

void agent_pin(const struct mount *mount, const char *path)
{
    unsigned first = count;
    full = full && count == limit;
    add(mount, path, first);
    for (unsigned at = first; at < count; at++)
        add_children(mount, at, first); /* each is read once, so none comes twice */
}

static bool is_below(const char *path, const char *top)
{
    size_t length = strlen(top);
    return !strncmp(path, top, length) && (!path[length] || path[length] == '/');
}

void agent_unpin(const char *path)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < count; i++) {
        if (is_below(pins[i].path, path)) {
            free(pins[i].path);
            close(pins[i].directory);
        } else {
            pins[kept++] = pins[i];
        }
    }
    count = kept;
}

static void unpin_all(void)
{
    for (unsigned i = 0; i < count; i++) {
        free(pins[i].path);
        close(pins[i].directory);
    }
    count = 0;
}

void agent_each_directory(const struct mount *mount,
                          void (*visit)(const struct mount *mount, int directory))
{
    if (mount->caches_names) {
        agent_pin(mount, ".");
    } else {
        for (unsigned at = 0, all = count; at < all; at++)
            add_children(mount, at, all); /* directories that came unseen */
    }
    for (unsigned i = 0; i < count; i++)
        visit(mount, pins[i].directory);
    if (mount->caches_names)
        unpin_all();
}
