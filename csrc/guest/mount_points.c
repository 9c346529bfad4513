/*
 * What has another mount on it, in any mount namespace: a container has its own.
 *
 * When the kernel finds that a cached name is not right any more, it takes away all mounts on what
 * had the name, and below that (d_invalidate), and what is written there afterwards is written to
 * the host. So no name is forgotten that leads to a mount point. A mount is on another one's file
 * system if that is its parent (proc_pid_mountinfo(5)).
 *
 * Namespaces are found by their processes, as far as this one sees them.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MOST_SEEN 256
#define KNOWN_MS 50

struct line_of_table {
    int id, parent;
    char root[PATH_MAX], point[PATH_MAX]; /* encoded; root: of the mount, in its file system */
    unsigned device_major, device_minor;
};

struct seen {
    uint64_t namespaces[MOST_SEEN], roots[MOST_SEEN];
    size_t count;
};

struct list {
    void **items;
    size_t count, room;
};

static struct list points; /* paths from the mount's root, each after a '/' */
static bool lacks_memory;

static void append(struct list *list, void *item)
{
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        void **grown = item ? realloc(list->items, room * sizeof *grown) : NULL;
        if (!grown) {
            lacks_memory = true;
            free(item);
            return;
        }
        list->items = grown;
        list->room = room;
    }
    list->items[list->count++] = item;
    lacks_memory = lacks_memory || !item;
}

static void clear(struct list *list)
{
    while (list->count)
        free(list->items[--list->count]);
}

static FILE *open_table(const char *process)
{
    char path[40 + NAME_MAX];
    snprintf(path, sizeof path, "/proc/%s/mountinfo", process);
    return fopen(path, "re");
}

static bool read_line(FILE *table, struct line_of_table *line)
{
    static char *text;
    static size_t size;
    while (getline(&text, &size, table) > 0)
        if (sscanf(text, "%d %d %u:%u %4095s %4095s", &line->id, &line->parent, &line->device_major,
                   &line->device_minor, line->root, line->point) == 6)
            return true;
    return false;
}

/* What follows a directory's path in that of something below it, with a '/' before it; empty if it
 * is the directory; NULL if it is elsewhere. */
static const char *below(const char *path, const char *directory)
{
    size_t length = directory[1] ? strlen(directory) : 0;
    bool is_below = !strncmp(path, directory, length) && (!path[length] || path[length] == '/');
    return is_below ? path + length : NULL;
}

/* Takes the backslashes and three digits out that stand for some bytes. */
static void decode(char *path)
{
    char *to = path;
    for (const char *from = path; *from; to++) {
        unsigned code;
        bool is_code = from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1;
        *to = is_code ? (char)code : *from;
        from += is_code ? 4 : 1;
    }
    *to = '\0';
}

/* Adds what a mount lies on, of which `parent` is the parent; `root` is the root of the mount that
 * is followed, in its file system. */
static void add_point(const struct line_of_table *line, const struct line_of_table *parent,
                      const char *root)
{
    static char path[2 * PATH_MAX];
    const char *rest = below(line->point, parent->point);
    if (!rest)
        return;
    snprintf(path, sizeof path, "%s%s", parent->root[1] ? parent->root : "", rest);
    const char *from_root = below(path, root);
    if (!from_root)
        return;
    char *copy = strdup(from_root);
    if (copy)
        decode(copy);
    append(&points, copy);
}

static bool is_ours(const struct line_of_table *line, const struct stat *root)
{
    return line->device_major == major(root->st_dev) && line->device_minor == minor(root->st_dev);
}

/* Adds all mount points of a process's namespace. */
static void add_points(const char *process, const struct stat *status, const char *root)
{
    static struct line_of_table line;
    struct list ours = {NULL, 0, 0};
    FILE *table = open_table(process);
    while (table && read_line(table, &line))
        if (is_ours(&line, status)) {
            struct line_of_table *copy = malloc(sizeof line);
            if (copy)
                *copy = line;
            append(&ours, copy);
        }
    if (table && ours.count)
        rewind(table);
    while (table && ours.count && read_line(table, &line))
        for (size_t i = 0; i < ours.count; i++) {
            const struct line_of_table *parent = ours.items[i];
            if (parent->id == line.parent)
                add_point(&line, parent, root);
        }
    if (table)
        fclose(table);
    clear(&ours);
    free(ours.items);
}

/* As the kernel knows it: the server of a process's root may hang, and be that process's own. */
static uint64_t inode_of(const char *process, const char *name)
{
    char path[48 + NAME_MAX];
    struct statx status;
    snprintf(path, sizeof path, "/proc/%s/%s", process, name);
    return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &status) ? 0 : status.stx_ino;
}

/* Whether no table was read yet that says the same: it has what is below the process's root. */
static bool is_new(struct seen *seen, const char *process)
{
    const uint64_t namespace = inode_of(process, "ns/mnt"), root = inode_of(process, "root");
    for (size_t i = 0; i < seen->count; i++)
        if (seen->namespaces[i] == namespace && seen->roots[i] == root)
            return false;
    if (seen->count < MOST_SEEN) { /* else it is read more often */
        seen->namespaces[seen->count] = namespace;
        seen->roots[seen->count++] = root;
    }
    return namespace;
}

static void find_points(const struct mount *mount)
{
    static struct seen seen;
    static struct line_of_table own;
    struct stat status;
    seen.count = 0;
    clear(&points);
    lacks_memory = fstat(mount->root, &status);
    FILE *table = open_table("self");
    bool found = false;
    while (table && !found && read_line(table, &own))
        found = own.id == mount->id;
    if (table)
        fclose(table);
    DIR *processes = opendir("/proc");
    for (struct dirent *each; found && processes && (each = readdir(processes));)
        if (each->d_name[0] > '0' && each->d_name[0] <= '9' && is_new(&seen, each->d_name))
            add_points(each->d_name, &status, own.root);
    if (processes)
        closedir(processes);
}

/* No event tells of mounts in another namespace. */
static void find_points_anew(const struct mount *mount)
{
    static struct timespec found;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (found.tv_sec &&
        (now.tv_sec - found.tv_sec) * 1000 + (now.tv_nsec - found.tv_nsec) / 1000000 < KNOWN_MS)
        return;
    find_points(mount);
    found = now;
}

static bool path_of(int file, char path[PATH_MAX])
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length > 0)
        path[length] = '\0';
    return length > 0;
}

bool agent_holds_mounts(const struct mount *mount, int file)
{
    static char path[PATH_MAX], root[PATH_MAX];
    find_points_anew(mount);
    if (lacks_memory)
        return true;
    if (!points.count)
        return false;
    const char *name = path_of(file, path) && path_of(mount->root, root) ? below(path, root) : NULL;
    for (size_t i = 0; name && i < points.count; i++)
        if (*name && below(points.items[i], name))
            return true;
    return !name;
}
