/*
 * A small directory of the host to export, as it is at the beginning of every input; beside it, a
 * secret that no guest may read or change. Every input gets another secret: libFuzzer sees what is
 * compared, and would soon have the guest write the secret itself.
 */
#ifndef FUZZ_TREE_H
#define FUZZ_TREE_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

enum { SECRET_SIZE = 16 };

static int tree_fd = -1;            /* of the directory in which the export and the secret are */
static struct timespec tree_change; /* of that directory's last change */
static uint8_t secret[SECRET_SIZE];
static int secret_fd = -1;

static inline void tree_write(int dir_fd, const char *name, const char *text)
{
    const int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* Removes what is in a directory, whatever rights the guest has left. Closes the descriptor. */
static inline void tree_clear(int dir_fd)
{
    DIR *dir = fdopendir(dir_fd);
    const struct dirent *entry;

    CHECK(dir);
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        if (unlinkat(dir_fd, name, 0) == 0)
            continue;
        CHECK(fchmodat(dir_fd, name, 0700, 0) == 0);
        tree_clear(openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        CHECK(unlinkat(dir_fd, name, AT_REMOVEDIR) == 0);
    }
    closedir(dir);
}

/* In TMPDIR, where it stays: libFuzzer ends a process in its own way. */
static inline void tree_begins(void)
{
    char path[PATH_MAX];
    const char *folder = getenv("TMPDIR");

    snprintf(path, sizeof(path), "%s/v9-fuzz-XXXXXX", folder ? folder : "/tmp");
    CHECK(mkdtemp(path));
    tree_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(tree_fd >= 0);
    secret_fd = openat(tree_fd, "secret", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    CHECK(secret_fd >= 0);
}

/* Makes the export anew; an O_PATH descriptor of it. */
static inline int tree_export(void)
{
    struct stat st;
    int fd;

    if (mkdirat(tree_fd, "export", 0755) < 0) {
        CHECK(fchmodat(tree_fd, "export", 0755, 0) == 0);
        tree_clear(openat(tree_fd, "export", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        CHECK(unlinkat(tree_fd, "export", AT_REMOVEDIR) == 0);
        CHECK(mkdirat(tree_fd, "export", 0755) == 0);
    }
    fd = openat(tree_fd, "export", O_PATH | O_CLOEXEC);
    tree_write(fd, "a", "text of a\n");
    CHECK(mkdirat(fd, "d", 0755) == 0);
    tree_write(fd, "d/b", "text of b\n");
    CHECK(symlinkat("a", fd, "l") == 0 && symlinkat("../secret", fd, "s") == 0);
    CHECK(fstat(tree_fd, &st) == 0);
    tree_change = st.st_mtim;
    CHECK(getrandom(secret, SECRET_SIZE, 0) == SECRET_SIZE);
    CHECK(pwrite(secret_fd, secret, SECRET_SIZE, 0) == SECRET_SIZE);
    return fd;
}

/* Whether some bytes have the secret in them. It is compared byte by byte, since libFuzzer collects
 * what memmem(3) looks for; and out of its sight, since chance is no coverage. */
__attribute__((no_sanitize_coverage)) static bool tree_leaks(const uint8_t *bytes, uint32_t size)
{
    const uint8_t *const end = bytes + size;
    uint32_t same;

    for (; (bytes = memchr(bytes, secret[0], (size_t)(end - bytes))); bytes++) {
        for (same = 1; same < SECRET_SIZE && bytes + same < end; same++) {
            if (bytes[same] != secret[same])
                break;
        }
        if (same == SECRET_SIZE)
            return true;
    }
    return false;
}

/* Nothing outside of the export has changed. */
static inline void tree_check(void)
{
    struct stat st;
    uint8_t text[SECRET_SIZE];

    CHECK(fstat(tree_fd, &st) == 0);
    CHECK(!memcmp(&st.st_mtim, &tree_change, sizeof(tree_change)));
    CHECK(fstatat(tree_fd, "secret", &st, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(st.st_mode == (S_IFREG | 0644) && st.st_uid == geteuid() && st.st_nlink == 1);
    CHECK(st.st_size == SECRET_SIZE && pread(secret_fd, text, SECRET_SIZE, 0) == SECRET_SIZE);
    CHECK(!memcmp(text, secret, SECRET_SIZE));
}

/* How many files and directories are below one, with their names; a file with several counts once.
 * Closes the descriptor. */
static inline int64_t tree_count(int dir_fd)
{
    DIR *dir = fdopendir(dir_fd);
    const struct dirent *entry;
    int64_t names_of_files = 0; /* in 1/720720 of a file, which all small numbers divide */
    struct stat st;

    CHECK(dir);
    while ((entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        CHECK(fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0);
        names_of_files += S_ISDIR(st.st_mode) ? 720720 : 720720 / (int64_t)st.st_nlink;
        if (S_ISDIR(st.st_mode))
            names_of_files += tree_count(
                openat(dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    }
    closedir(dir);
    return names_of_files;
}

#endif
