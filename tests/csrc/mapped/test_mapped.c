// sources: mapped/mapped.c mapped/text.c mapped/xattr.c fs/attributes.c fs/ mapped/ export/ quota/
// base/
/*
 * Metadata of the mapped security models: texts, whatever is in them; files found by name and by
 * descriptor; changes that a reader never sees half of.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/host_stat.h"
#include "check.h"
#include "export/hidden_names.h"
#include "fs/attributes.h"
#include "mapped/mapped.h"
#include "mapped/text.h"

static struct v9_mapped parsed(const char *text)
{
    struct v9_mapped mapped;
    v9_mapped_parse(text, strlen(text), &mapped);
    return mapped;
}

TEST(texts_are_read_as_qemu_writes_them_and_whatever_else_is_in_them)
{
    static const struct {
        const char *text;
        uint32_t has, uid;
    } cases[] = {
        {"", 0, 0},
        {"\n\n", 0, 0},
        {"virtfs.uid=5", V9_HAS_UID, 5},
        {"virtfs.uid=5\r\n", V9_HAS_UID, 5},
        {"\n\nvirtfs.uid= 7 \n\n", V9_HAS_UID, 7},
        {"virtfs.uid=1\nvirtfs.uid=2\n", V9_HAS_UID, 2},
        {"virtfs.uid=-294967296\n", V9_HAS_UID, 4000000000u},
        {"virtfs.uid=4000000000\n", V9_HAS_UID, 4000000000u},
        {"virtfs.uid=-2147483648\n", V9_HAS_UID, 1u << 31},
        {"virtfs.uid=4294967295\n", V9_HAS_UID, UINT32_MAX},
        {"virtfs.uid=4294967296\n", 0, 0},
        {"virtfs.uid=-2147483649\n", 0, 0},
        {"virtfs.uid=99999999999999999999999999\n", 0, 0},
        {"virtfs.uid=\n", 0, 0},
        {"virtfs.uid=-\n", 0, 0},
        {"virtfs.uid=0x10\n", 0, 0},
        {"virtfs.uid=7up\n", 0, 0},
        {" virtfs.uid=7\n", 0, 0},
        {"virtfs.uid =7\n", 0, 0},
        {"virtfs.uidx=7\n", 0, 0},
        {"virtfs.uid=3\nvirtfs.mode=", V9_HAS_UID, 3},
        {"virtfs.ui", 0, 0},
    };
    struct v9_mapped mapped;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        mapped = parsed(cases[i].text);
        if (!CHECK(mapped.has == cases[i].has && mapped.uid == cases[i].uid))
            fprintf(stderr, "  %s\n", cases[i].text);
    }
    v9_mapped_parse("virtfs.uid=7\0\0\nvirtfs.gid=8\n", 29, &mapped);
    CHECK(mapped.has == (V9_HAS_UID | V9_HAS_GID) && mapped.uid == 7 && mapped.gid == 8);
}

/* The very texts that QEMU writes. */
TEST(texts_are_written_as_qemu_writes_them)
{
    const struct v9_mapped device = {15, 0, 4000000000u, S_IFCHR | 0644, makedev(511, 1048575)};
    const struct v9_mapped mode = {.has = V9_HAS_MODE, .mode = S_IFREG | 0600};
    char text[V9_MAPPED_TEXT];

    CHECK(v9_mapped_format(&mode, text) == 18 && !strcmp(text, "virtfs.mode=33152\n"));
    v9_mapped_format(&device, text);
    CHECK(!strcmp(text, "virtfs.uid=0\nvirtfs.gid=-294967296\nvirtfs.mode=8612\n"
                        "virtfs.rdev=-917505\n"));
    CHECK(parsed(text).rdev == device.rdev && parsed(text).gid == device.gid);
    CHECK(v9_mapped_format(&(struct v9_mapped){0}, text) == 0);
}

TEST(a_stored_mode_never_makes_a_directory_or_special_file_regular)
{
    static const struct {
        uint32_t host, mapped, guest;
    } cases[] = {
        {S_IFREG | 0600, S_IFREG | 04755, S_IFREG | 04755},
        {S_IFREG | 0600, S_IFLNK | 0777, S_IFLNK | 0777},
        {S_IFREG | 0600, S_IFCHR | 0600, S_IFCHR | 0600},
        {S_IFREG | 0600, S_IFSOCK | 0600, S_IFSOCK | 0600},
        {S_IFREG | 0600, S_IFDIR | 0755, S_IFREG | 0755}, /* nobody makes it a directory */
        {S_IFREG | 0600, 0640, S_IFREG | 0640},
        {S_IFREG | 0600, 0170644, S_IFREG | 0644},
        {S_IFDIR | 0700, S_IFDIR | 01777, S_IFDIR | 01777},
        {S_IFDIR | 0700, S_IFLNK | 0777, S_IFDIR | 0777},
        {S_IFLNK | 0777, S_IFREG | 0644, S_IFLNK | 0644},
        {S_IFCHR | 0600, S_IFREG | 0644, S_IFCHR | 0644}, /* nobody makes it one to be opened */
        {S_IFIFO | 0600, S_IFREG | 0644, S_IFIFO | 0644},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct v9_mapped mapped = {.has = V9_HAS_MODE, .mode = cases[i].mapped};
        struct v9_attr attr = {.mode = cases[i].host, .uid = 3, .gid = 4};
        v9_mapped_apply(&mapped, &attr);
        if (!CHECK(attr.mode == cases[i].guest && attr.uid == 3 && attr.gid == 4))
            fprintf(stderr, "  %o, %o -> %o\n", cases[i].host, cases[i].mapped, attr.mode);
    }
}

/* ---- on a file system ------------------------------------------------------------------------ */

static char folder[] = "/var/tmp/v9-model-XXXXXX";
static v9_qidmap *qids;
static v9_export *files, *xattrs; /* two views of one folder */
static int root;

static v9_export *new_export(uint32_t model)
{
    struct v9_export_conf conf = {.root_fd = root, .model = model};
    int32_t err;
    v9_export *ex = v9_export_new(&conf, qids, &err);

    CHECK(ex && !err);
    v9_export_cache_metadata(ex);
    return ex;
}

SET_UP()
{
    qids = v9_qidmap_new();
    CHECK(mkdtemp(folder) != NULL);
    root = open(folder, O_RDONLY | O_DIRECTORY);
    CHECK(mkdirat(root, ".virtfs_metadata", 0700) == 0);
    files = new_export(V9_MODEL_FILE);
    xattrs = new_export(V9_MODEL_XATTR);
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(files);
    v9_export_free(xattrs);
    v9_qidmap_free(qids);
    close(root);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    CHECK(system(command) == 0);
}

static void put(int dir, const char *path, const char *text)
{
    int fd = openat(dir, path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static uint32_t uid_of(v9_export *ex, int fd, const char *name, int meta)
{
    struct v9_mapped mapped;
    v9_mapped_read(ex, fd, name, meta, V9_HAS_UID, &mapped);
    return mapped.has & V9_HAS_UID ? mapped.uid : UINT32_MAX;
}

TEST(metadata_are_found_by_name_and_by_descriptor)
{
    const uint32_t seq = v9_mapped_read_begin(files);
    int sub, file, meta;

    mkdirat(root, "sub", 0700);
    mkdirat(root, "sub/.virtfs_metadata", 0700);
    put(root, "sub/f", "");
    put(root, "sub/.virtfs_metadata/f", "virtfs.uid=41\n");
    put(root, ".virtfs_metadata_root", "virtfs.uid=40\n");
    sub = openat(root, "sub", O_PATH);
    file = openat(sub, "f", O_PATH);
    CHECK(uid_of(files, sub, "f", -1) == 41);
    CHECK(uid_of(files, file, "", -1) == 41);
    CHECK(uid_of(files, root, "", -1) == 40);
    CHECK(v9_mapped_find(files, sub) == -ENOENT); /* none for the directory itself */
    meta = v9_mapped_stepped(files, sub, "f", file, seq);
    CHECK(meta >= 0 && uid_of(files, file, "", meta) == 41);
    /* The open file keeps its metadata under whatever name, and without any. */
    renameat(root, "sub/f", root, "g");
    CHECK(v9_mapped_find(files, file) == -ENOENT);
    renameat(root, "sub/.virtfs_metadata/f", root, ".virtfs_metadata/g");
    CHECK(uid_of(files, file, "", -1) == 41);
    unlinkat(root, "g", 0);
    unlinkat(root, ".virtfs_metadata/g", 0);
    CHECK(v9_mapped_find(files, file) == -ENOENT);
    CHECK(uid_of(files, file, "", meta) == 41);
    /* Another file of the same name is another file. */
    put(root, "g", "");
    put(root, ".virtfs_metadata/g", "virtfs.uid=42\n");
    CHECK(v9_mapped_find(files, file) == -ENOENT);
    close(meta);
    close(file);
    close(sub);
}

static bool changing;

/* Names change all the time. */
static void *change_names(void *unused)
{
    v9_export_names_begin(files);
    v9_mapped_changing(files, true);
    __atomic_store_n(&changing, true, __ATOMIC_RELEASE);
    usleep(100000);
    v9_mapped_changing(files, false);
    v9_export_names_end(files);
    return unused;
}

TEST(metadata_are_found_while_other_names_change)
{
    pthread_t thread;
    int file, meta;

    put(root, "calm", "");
    put(root, ".virtfs_metadata/calm", "virtfs.uid=42\n");
    file = openat(root, "calm", O_PATH);
    pthread_create(&thread, NULL, change_names, NULL);
    while (!__atomic_load_n(&changing, __ATOMIC_ACQUIRE))
        usleep(1000);
    meta = v9_mapped_find(files, file);
    pthread_join(thread, NULL);
    CHECK(meta >= 0 && uid_of(files, file, "", meta) == 42);
    close(meta);
    close(file);
    unlinkat(root, "calm", 0);
    unlinkat(root, ".virtfs_metadata/calm", 0);
}

/* What a host process may have put where metadata are expected. */
TEST(what_is_no_metadata_file_is_ignored)
{
    put(root, "odd", "");
    put(root, ".virtfs_metadata/g", "virtfs.uid=42\n");
    symlinkat("g", root, ".virtfs_metadata/odd");
    CHECK(uid_of(files, root, "odd", -1) == UINT32_MAX);
    unlinkat(root, ".virtfs_metadata/odd", 0);
    mkfifoat(root, ".virtfs_metadata/odd", 0600);
    CHECK(uid_of(files, root, "odd", -1) == UINT32_MAX);
    unlinkat(root, ".virtfs_metadata/odd", 0);
    mkdirat(root, ".virtfs_metadata/odd", 0700);
    CHECK(uid_of(files, root, "odd", -1) == UINT32_MAX);
    unlinkat(root, ".virtfs_metadata/odd", AT_REMOVEDIR);
    put(root, ".virtfs_metadata/odd", "virtfs.uid=9\n");
    {
        int fd = openat(root, ".virtfs_metadata/odd", O_RDWR);
        CHECK(ftruncate(fd, 1ll << 33) == 0); /* huge, and sparse */
        CHECK(uid_of(files, root, "odd", -1) == 9);
        close(fd);
    }
}

/* Types for a listing: a directory's metadata are opened once for many names. */
TEST(a_listing_shows_stored_types)
{
    int dir, meta;

    mkdirat(root, "types", 0700);
    dir = openat(root, "types", O_RDONLY | O_DIRECTORY);
    CHECK(v9_mapped_dir(files, dir) < 0);
    CHECK(v9_mapped_type(files, dir, -1, "link") == S_IFREG);
    mkdirat(dir, ".virtfs_metadata", 0700);
    put(dir, ".virtfs_metadata/link", "virtfs.mode=41471\n");
    put(dir, ".virtfs_metadata/plain", "virtfs.uid=1\n");
    symlinkat("link", dir, ".virtfs_metadata/astray");
    meta = v9_mapped_dir(files, dir);
    CHECK(meta >= 0);
    CHECK(v9_mapped_type(files, dir, meta, "link") == S_IFLNK);
    for (int i = 0; i < 3; i++)
        CHECK(v9_mapped_type(files, dir, meta, (const char *[]){"plain", "none", "astray"}[i]) ==
              S_IFREG);
    close(meta);
    close(dir);
    mkdirat(root, "types2", 0700);
    symlinkat("../types/.virtfs_metadata", root, "types2/.virtfs_metadata");
    dir = openat(root, "types2", O_RDONLY | O_DIRECTORY);
    CHECK(v9_mapped_dir(files, dir) < 0); /* not through symlinks */
    close(dir);
}

/* A change of names that goes on: what is found meanwhile is not trusted. */
TEST(nothing_found_during_a_change_of_names_is_trusted)
{
    uint32_t seq = v9_mapped_read_begin(files);

    CHECK(!v9_mapped_read_retry(files, seq));
    v9_mapped_changing(files, 1);
    CHECK(v9_mapped_read_retry(files, seq));
    CHECK(v9_mapped_read_retry(files, v9_mapped_read_begin(files)));
    v9_mapped_changing(files, 0);
    CHECK(v9_mapped_read_retry(files, seq));
    CHECK(!v9_mapped_read_retry(files, v9_mapped_read_begin(files)));
}

struct race {
    v9_export *ex;
    int fd, meta;
    int stop;
    unsigned long reads, torn;
};

static void *read_on(void *argument)
{
    struct race *race = argument;
    struct v9_mapped mapped;

    while (!__atomic_load_n(&race->stop, __ATOMIC_ACQUIRE)) {
        v9_mapped_read(race->ex, race->fd, "", race->meta, V9_HAS_ALL, &mapped);
        race->reads++;
        race->torn += mapped.has != 7 || mapped.uid != mapped.gid;
    }
    return NULL;
}

/* Long and short texts alternate while a reader reads: the inode stays, and a mixture is never
 * seen. */
TEST(a_reader_never_sees_half_a_change)
{
    struct v9_mapped change = {7, 1, 1, S_IFREG | 0640, 0};
    struct race race = {.ex = files};
    struct stat before, after;
    pthread_t reader;

    put(root, "g", "");
    put(root, ".virtfs_metadata/g", "virtfs.uid=42\n");
    race.fd = openat(root, "g", O_PATH);
    race.meta = v9_mapped_find(files, race.fd);
    CHECK(fstat(race.meta, &before) == 0);
    CHECK(v9_mapped_write(files, race.fd, race.meta, &change) == 0);
    pthread_create(&reader, NULL, read_on, &race);
    for (uint32_t i = 0; i < 3000; i++) {
        change.has = V9_HAS_UID | V9_HAS_GID;
        change.uid = change.gid = i % 2 ? 1 : 3000000000u + i;
        CHECK(v9_mapped_write(files, race.fd, race.meta, &change) == 0);
    }
    __atomic_store_n(&race.stop, 1, __ATOMIC_RELEASE);
    pthread_join(reader, NULL);
    CHECK(race.reads > 0 && race.torn == 0);
    CHECK(fstat(race.meta, &after) == 0 && before.st_ino == after.st_ino);
    CHECK(after.st_size == (off_t)strlen("virtfs.uid=1\nvirtfs.gid=1\nvirtfs.mode=33184\n"));
    /* The type stays where a change does not name one. */
    change = (struct v9_mapped){.has = V9_HAS_MODE, .mode = S_IFIFO | 0600};
    CHECK(v9_mapped_write(files, race.fd, race.meta, &change) == 0);
    change.mode = 0644;
    CHECK(v9_mapped_write(files, race.fd, race.meta, &change) == 0);
    v9_mapped_read(files, race.fd, "", race.meta, V9_HAS_MODE, &change);
    CHECK(change.mode == (S_IFIFO | 0644));
    CHECK(v9_mapped_write(files, race.fd, -1, &change) == -EINVAL);
    close(race.meta);
    close(race.fd);
}

/* A file that its xattrs make a block device; its descriptor. */
static int put_special(const char *name)
{
    const struct v9_mapped device = {15, 1, 2, S_IFBLK | 0600, makedev(259, 4097)};
    int fd;

    put(root, name, "123");
    fd = openat(root, name, O_PATH);
    CHECK(v9_mapped_write(xattrs, fd, -1, &device) == 0);
    return fd;
}

TEST(xattrs_are_written_as_qemu_writes_them)
{
    char stored[8], target[8];
    struct v9_attr attr;
    int fd;

    fd = put_special("x");
    fchdir(root);
    CHECK(getxattr("x", "user.virtfs.rdev", stored, 8) == 8 &&
          !memcmp(stored, "\1\3\1\1\0\0\0\0", 8));
    CHECK(getxattr("x", "user.virtfs.uid", stored, 8) == 4 && !memcmp(stored, "\1\0\0\0", 4));
    v9_attr_read(xattrs, fd, "", &attr);
    CHECK(attr.mode == (S_IFBLK | 0600) && attr.rdev == v9_host_rdev(259, 4097) && attr.uid == 1);
    CHECK(v9_mapped_type(xattrs, root, -1, "x") == S_IFBLK);
    put(root, "g", "");
    CHECK(v9_mapped_type(xattrs, root, -1, "g") == S_IFREG);
    setxattr("x", "user.virtfs.uid", "12", 2, 0); /* no number of QEMU's */
    CHECK(uid_of(xattrs, fd, "", -1) == UINT32_MAX);
    CHECK(v9_mapped_readlink(xattrs, fd, target, 8) == 3 && !memcmp(target, "123", 3));
    CHECK(v9_mapped_readlink(xattrs, fd, target, 3) == -ENAMETOOLONG);
    close(fd);
    symlinkat("to", root, "real");
    fd = openat(root, "real", O_PATH | O_NOFOLLOW);
    CHECK(v9_mapped_readlink(xattrs, fd, target, 8) == 2 && !memcmp(target, "to", 2));
    close(fd);
}

/* From now on getxattrat(2) fails, as where a filter of system calls does not know it. */
static void deny_getxattrat(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 464, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* An entry's attributes are the same in both ways of reading them. */
TEST(attributes_are_the_same_without_getxattrat)
{
    struct v9_attr attr;

    close(put_special("x"));
    put(root, "g", "");
    symlinkat("to", root, "real");
    for (int old = 0; old < 2; old++) {
        for (int i = 0; i < 2; i++) {
            v9_attr_read(xattrs, root, "x", &attr);
            CHECK(attr.mode == (S_IFBLK | 0600) && attr.rdev == v9_host_rdev(259, 4097));
            CHECK(attr.gid == 2);
            CHECK(v9_mapped_type(xattrs, root, -1, "x") == S_IFBLK);
            CHECK(v9_mapped_type(xattrs, root, -1, "g") == S_IFREG);
            v9_attr_read(xattrs, root, "real", &attr);
            CHECK(S_ISLNK(attr.mode));
        }
        if (!old)
            deny_getxattrat();
    }
}

/* Also under names that lead there on some file systems, which hard links play here. */
TEST(metadata_are_hidden_under_every_alias)
{
    static const char *const aliases[] = {".VIRTFS_Metadata_Root", ".virtfs_metadata_root.", "V~1",
                                          "\xe2\x80\x8b.virtfs_metadata_root"};
    int fd = openat(root, ".virtfs_metadata_root", O_CREAT | O_WRONLY, 0600);

    CHECK(fd >= 0);
    close(fd);
    CHECK(v9_export_hides(files, root, ".virtfs_metadata") &&
          v9_export_hides(files, root, ".virtfs_metadata_root"));
    CHECK(!v9_export_hides(files, root, "virtfs"));
    CHECK(!v9_export_hides(xattrs, root, ".virtfs_metadata"));
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        fd = openat(root, aliases[i], O_CREAT | O_WRONLY, 0600);
        CHECK(fd >= 0 && !v9_export_hides(files, root, aliases[i])); /* a file of its own */
        close(fd);
        CHECK(unlinkat(root, aliases[i], 0) == 0);
        CHECK(linkat(root, ".virtfs_metadata_root", root, aliases[i], 0) == 0);
        CHECK(v9_export_hides(files, root, aliases[i]));
        CHECK(v9_export_step(&files, V9_NO_ID, root, aliases[i]) == -ENOENT);
        CHECK(unlinkat(root, aliases[i], 0) == 0);
    }
    CHECK(unlinkat(root, ".virtfs_metadata_root", 0) == 0);
    CHECK(v9_export_step(&files, V9_NO_ID, root, ".virtfs_metadata") == -ENOENT);
}
