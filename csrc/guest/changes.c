/*
 * What each kind of change takes, in an order in which nobody who is woken finds something stale.
 *
 * A name that the host has and the guest has not is one that the guest's kernel remembers as
 * missing (Linux 7.3 and later, cache=loose): its directory is forgotten. That costs the kernel all
 * names below, and what is missing is mostly gone by now. So the lines that were read at once have
 * a directory forgotten once: they are older, and what the kernel misses afterwards is missing. A
 * directory that has got or lost names is refreshed itself, once for all its lines that follow each
 * other.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MOST_LEVELS 256 /* of directories, each of which takes some kilobytes of the stack */

#define TRIES 4

static char changed_directory[PATH_MAX];
/* That is to be refreshed. */
static struct {
    char path[PATH_MAX]; /* empty: none */
    ino_t inode;
} forgotten; /* The directory that was forgotten last since lines were read. */

static void parent_of(const char *path, char parent[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    snprintf(parent, PATH_MAX, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
}

static void refresh_changed(const struct mount *mount)
{
    if (!*changed_directory)
        return;
    int directory = agent_open(mount, changed_directory);
    if (directory >= 0) {
        agent_fire_attributes(mount, directory, false);
        close(directory);
        if (mount->caches_names)
            agent_look(mount, changed_directory);
    }
    *changed_directory = '\0';
}

void agent_changes_end(const struct mount *mount)
{
    refresh_changed(mount);
    *forgotten.path = '\0';
}

static void note_parent(const struct mount *mount, const char *path)
{
    char parent[PATH_MAX];
    parent_of(path, parent);
    if (strcmp(parent, changed_directory))
        refresh_changed(mount);
    strcpy(changed_directory, parent);
}

/* 0: there is none. */
static ino_t inode_of(const struct mount *mount, const char *path)
{
    struct stat status = {.st_ino = 0};
    int file = agent_open(mount, path);
    if (file < 0)
        return 0;
    fstat(file, &status);
    close(file);
    return status.st_ino;
}

/* Has the kernel look up anew what it has found missing in a directory; false if it has done so
 * already since the lines were read. */
static bool forget_missing(const struct mount *mount, const char *directory)
{
    if (!strcmp(directory, forgotten.path) && inode_of(mount, directory) == forgotten.inode)
        return false;
    agent_forget_directory(mount, directory);
    strcpy(forgotten.path, directory);
    forgotten.inode = inode_of(mount, directory);
    return true;
}

/* Opens what the host has; -1 if that is not there. */
static int open_known(const struct mount *mount, const char *path)
{
    char parent[PATH_MAX];
    int file = agent_open(mount, path);
    if (file >= 0 || errno != ENOENT || !mount->caches_names)
        return file;
    parent_of(path, parent);
    return forget_missing(mount, parent) ? agent_open(mount, path) : -1;
}

/* Where names are cached: until the name leads to the file whose contents have been renewed. */
static void change_cached(const struct mount *mount, const char *path, off_t size)
{
    int file = -1;
    enum written written = FAILED;
    for (int tries = 0; tries < TRIES && written == FAILED; tries++) {
        int before = file;
        file = open_known(mount, path);
        if (file < 0) {
            agent_missed(mount, path, before);
            return;
        }
        if (before >= 0)
            close(before);
        written = agent_fire_written(mount, file, size);
        if (!agent_leads_to(mount, path, file))
            written = FAILED;
    }
    if (written == FAILED)
        agent_forget(mount, file, path);
    close(file);
    agent_look(mount, path);
}

static void change_contents(const struct mount *mount, const char *path, off_t size)
{
    if (mount->caches_names) {
        change_cached(mount, path, size);
        return;
    }
    int file = agent_open(mount, path);
    if (file < 0)
        return;
    agent_fire_written(mount, file, size);
    close(file);
}

static void change_attributes(const struct mount *mount, const char *path)
{
    int file = open_known(mount, path);
    if (file < 0)
        return;
    agent_ask(mount, file, path);
    close(file);
}

static void create(const struct mount *mount, const char *path, bool directory)
{
    if (directory && !mount->caches_names)
        agent_pin(mount, path);
    change_attributes(mount, path);
    if (!directory)
        change_contents(mount, path, -1); /* of another inode, perhaps */
    note_parent(mount, path);
}

/* What is open below a directory has come along with it, or is what had these names before: the
 * fids that the guest's kernel has of it have other names, and the pages are another file's. By a
 * directory's old fid it may have found nothing meanwhile, and remember that. */
static void renew_below(const struct mount *mount, const char *path, int levels)
{
    char below[PATH_MAX];
    if (mount->caches_names)
        agent_forget_directory(mount, path);
    int directory = agent_open(mount, path);
    int list = directory < 0 ? -1 : openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = list < 0 ? NULL : fdopendir(list);
    if (!stream && list >= 0)
        close(list);
    if (directory >= 0)
        close(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
            snprintf(below, sizeof below, "%s/%s", path, entry->d_name) >= (int)sizeof below)
            continue;
        int file = agent_open(mount, below);
        if (file >= 0 && mount->caches_names)
            agent_ask(mount, file, below);
        else if (file >= 0)
            agent_renew(mount, file);
        if (file >= 0)
            close(file);
        if (entry->d_type == DT_DIR && levels)
            renew_below(mount, below, levels - 1);
    }
    if (stream)
        closedir(stream);
}

/* Whether the guest's kernel has a name; it need not be true. */
static bool has_name(const struct mount *mount, const char *path)
{
    int file = agent_open(mount, path);
    if (file >= 0)
        close(file);
    return file >= 0;
}

/* A line may have the name that a directory above has got, before the line about that: what the
 * kernel has open of it will come along with the directory. */
static void remove_name(const struct mount *mount, const char *path, bool directory)
{
    char parent[PATH_MAX];
    int file = agent_open(mount, path);
    if (file >= 0) {
        agent_ask(mount, file, path);
        close(file);
    } else if (mount->caches_names) {
        parent_of(path, parent);
        if (!has_name(mount, parent))
            agent_missed(mount, path, -1);
    }
    if (directory)
        agent_unpin(path);
    note_parent(mount, path);
}

static void change_missed(const struct mount *mount, const char *path)
{
    change_attributes(mount, path);
    change_contents(mount, path, -1);
}

static void refresh_directory(const struct mount *mount, int directory)
{
    agent_fire_attributes(mount, directory, false);
}

/* What was forgotten is not looked at: only who looks its name up may hear of that. */
static void renew_in_use(const struct mount *mount, int file)
{
    enum written written = FAILED;
    for (int tries = 0; tries < TRIES && written == FAILED; tries++)
        written = agent_fire_written(mount, file, -1);
    if (written == FAILED)
        agent_fire_attributes(mount, file, true);
    if (written == TOLD)
        agent_look_at(file);
}

/* Lines were lost: drops what is cached, renews what is in use, and has whoever watches a directory
 * look at it. */
static void look_everywhere(const struct mount *mount)
{
    agent_say("%s: changes were lost; all directories are refreshed", mount->name);
    sleep(1); /* more may follow, and they come together then */
    if (mount->caches_names)
        agent_forget_directory(mount, ".");
    if (mount->caches_pages)
        agent_each_in_use(mount, renew_in_use);
    agent_each_directory(mount, refresh_directory);
}

void agent_change(const struct mount *mount, const struct line *line)
{
    switch (line->kind) {
    case CHANGED:
        change_contents(mount, line->path, line->size);
        break;
    case ATTRIBUTES:
        change_attributes(mount, line->path);
        break;
    case CREATED:
        create(mount, line->path, line->directory);
        break;
    case REMOVED:
        agent_missed_removed(mount, line->path);
        remove_name(mount, line->path, line->directory);
        break;
    case RENAMED:
        remove_name(mount, line->path, line->directory);
        create(mount, line->to, line->directory);
        if (line->directory)
            renew_below(mount, line->to, MOST_LEVELS);
        agent_missed_renamed(mount, line->path, line->to, change_missed);
        break;
    case OVERFLOW:
        look_everywhere(mount);
        break;
    case KINDS:
        break;
    }
}
