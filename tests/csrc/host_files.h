/*
 * A new directory of the host, for a test that exports it, and what the host does there by itself.
 */
#ifndef HOST_FILES_H
#define HOST_FILES_H

#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"

static char top[] = "/tmp/v9-host-XXXXXX";

static inline void host_begins(void)
{
    CHECK(mkdtemp(top) != NULL);
}

static inline int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    return remove(path);
}

static inline void host_ends(void)
{
    nftw(top, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The path of a file below the directory, until the fourth call from now. */
static inline const char *host(const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    snprintf(path, PATH_MAX, "%s/%s", top, name);
    return path;
}

static inline void host_writes(const char *name, const char *text)
{
    FILE *file = fopen(host(name), "w");

    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static inline void host_makes_directory(const char *name)
{
    CHECK(mkdir(host(name), 0755) == 0);
}

static inline uint64_t host_ino(const char *name)
{
    struct stat st = {0};

    CHECK(lstat(host(name), &st) == 0);
    return st.st_ino;
}

static inline bool host_has(const char *name, const char *text)
{
    char found[64] = {0};
    FILE *file = fopen(host(name), "r");
    size_t size;

    if (!file)
        return false;
    size = fread(found, 1, sizeof(found) - 1, file);
    fclose(file);
    return size == strlen(text) && !strcmp(found, text);
}

/* How many descriptors this process has open. */
static inline unsigned descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

#endif
