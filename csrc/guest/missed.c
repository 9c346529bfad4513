/*
 * Changes of contents that came too late: the file had lost its name when its line was read. If it
 * has been renamed, or a directory above it, the line about that follows, and says where it is now.
 *
 * The newest are remembered: the others are those of files that were removed.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 256

static char *missed[MOST];
static unsigned first, count;

bool agent_is_below(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return !strcmp(directory, ".") ||
           (!strncmp(path, directory, length) && (!path[length] || path[length] == '/'));
}

/* Takes the oldest out; who calls it frees it. */
static char *take(void)
{
    char *path = missed[first];
    first = (first + 1) % MOST;
    count--;
    return path;
}

static void add(char *path)
{
    if (count == MOST)
        free(take());
    missed[(first + count++) % MOST] = path;
}

void agent_missed(const char *path)
{
    char *copy = strdup(path);
    if (copy)
        add(copy);
}

void agent_not_missed(const char *path)
{
    for (unsigned left = count; left; left--) {
        char *each = take();
        if (agent_is_below(each, path))
            free(each);
        else
            add(each);
    }
}

void agent_missed_renamed(const struct mount *mount, const char *from, const char *to,
                          void (*change)(const struct mount *mount, const char *path))
{
    char now[PATH_MAX];
    for (unsigned left = count; left; left--) {
        char *each = take();
        if (!agent_is_below(each, from)) {
            add(each);
            continue;
        }
        if (snprintf(now, sizeof now, "%s%s", to, each + strlen(from)) < (int)sizeof now)
            change(mount, now);
        free(each);
    }
}
