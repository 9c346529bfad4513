/*
 * Changes of what the guest's kernel did not find: it had lost its name when its line was read, or
 * had not got it yet. If it has been renamed, or a directory above it, the line about that follows,
 * and says where it is now: then it is changed there, and whoever has it open sees that. Else it is
 * forgotten, so that the guest's kernel takes it for another one if it comes by another name.
 *
 * The newest are remembered, and for each a descriptor of the file, if the kernel had its name.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 32

static struct {
    char *path;
    int file; /* -1: none */
} missed[MOST];
static unsigned first, count;

/* Whether a path is that of a directory, or of what is below it. */
static bool is_at(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return !strncmp(path, directory, length) && (!path[length] || path[length] == '/');
}

static void add(char *path, int file)
{
    missed[(first + count) % MOST].path = path;
    missed[(first + count++) % MOST].file = file;
}

/* Takes the oldest out; its path is to be freed. */
static char *take(int *file)
{
    char *path = missed[first].path;
    *file = missed[first].file;
    first = (first + 1) % MOST;
    count--;
    return path;
}

static void end(const struct mount *mount, char *path, int file, bool forget)
{
    if (file >= 0 && forget)
        agent_fire_attributes(mount, file, true);
    if (file >= 0)
        close(file);
    free(path);
}

void agent_missed(const struct mount *mount, const char *path, int file)
{
    char *copy = strdup(path), *oldest;
    int its_file;
    if (count == MOST) {
        oldest = take(&its_file);
        end(mount, oldest, its_file, true);
    }
    if (copy)
        add(copy, file);
    else
        end(mount, NULL, file, true);
}

void agent_missed_removed(const struct mount *mount, const char *path)
{
    for (unsigned left = count; left; left--) {
        int file;
        char *each = take(&file);
        if (is_at(each, path))
            end(mount, each, file, true);
        else
            add(each, file);
    }
}

void agent_missed_renamed(const struct mount *mount, const char *from, const char *to,
                          void (*change)(const struct mount *mount, const char *path))
{
    char now[PATH_MAX];
    for (unsigned left = count; left; left--) {
        int file;
        char *each = take(&file);
        bool was = is_at(each, from);
        if (!was && !is_at(each, to)) { /* a line may already have the new name */
            add(each, file);
            continue;
        }
        if (snprintf(now, sizeof now, "%s%s", was ? to : "", was ? each + strlen(from) : each) <
            (int)sizeof now)
            change(mount, now);
        end(mount, each, file, false);
    }
}
