// sources: make.c make_mapped.c keep.c sys.c quota.c quota_change.c account.c attr.c reach.c
// way.c model.c model_text.c model_xattr.c caps.c idmap.c qidmap.c budget.c pressure.c recall.c
/*
 * Entries made and removed: what calls that fail, file systems that lack something, and a daemon
 * that ends half way leave behind. The calls below stand in the C library's place.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "attr.h"
#include "check.h"
#include "make.h"
#include "quota.h"

#define META ".virtfs_metadata"

/* ---- calls that fail ---------------------------------------------------------------------------
 */

static struct {
    bool no_tmpfile;   /* file systems that do not know O_TMPFILE */
    bool always_there; /* who creates comes too late, who opens too early */
    bool full;         /* nothing can be written */
    bool no_paths;     /* no descriptors for names, as where there are too many already */
    const char *bad;   /* an entry that comes last, and cannot be read */
    long left;         /* calls that change something, until the process ends; -1: it does not */
} host = {.left = -1};

static void change(void)
{
    if (!host.left)
        _exit(7);
    if (host.left > 0)
        host.left--;
}

static int failed(int err)
{
    errno = err;
    return -1;
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list rest;
    mode_t mode;

    va_start(rest, flags);
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if ((flags & O_TMPFILE) == O_TMPFILE && host.no_tmpfile)
        return failed(EOPNOTSUPP);
    if (flags & O_PATH && host.no_paths)
        return failed(EMFILE);
    if (flags & O_EXCL && host.always_there)
        return failed(EEXIST);
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
        change();
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (host.always_there)
        return failed(EEXIST);
    change();
    return (int)syscall(SYS_linkat, from, old, to, new, flags);
}

int unlinkat(int dir, const char *path, int flags)
{
    change();
    return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    change();
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    change();
    return host.full ? failed(ENOSPC) : syscall(SYS_pwrite64, fd, data, size, offset);
}

int fsetxattr(int fd, const char *key, const void *value, size_t size, int flags)
{
    change();
    return host.full ? failed(ENOSPC) : (int)syscall(SYS_fsetxattr, fd, key, value, size, flags);
}

struct dirent *readdir(DIR *all)
{
    static __typeof__(readdir) *next;
    struct dirent *entry;

    if (!next)
        next = (__typeof__(next))dlsym(RTLD_NEXT, "readdir");
    entry = next(all);
    if (!host.bad || (entry && strcmp(entry->d_name, host.bad)))
        return entry;
    if (entry && (entry = next(all)))
        return entry;
    host.bad = NULL;
    errno = EIO;
    return NULL;
}

/* ---- an export ---------------------------------------------------------------------------------
 */

static v9_qidmap *qids;
static char root_path[] = "/var/tmp/v9-make-XXXXXX";
static int top; /* a directory of its own for each check */

static v9_export *export_of(uint32_t model)
{
    const struct v9_export_conf conf = {
        .root_fd = top, .model = model, .owners_matter = 1, .fmode = 0600, .dmode = 0700};
    int err;
    v9_export *ex = v9_export_new(&conf, qids, &err);

    CHECK(ex && !err);
    return ex;
}

static void begin(void)
{
    static int number;
    char name[16];
    int root = open(root_path, O_PATH);

    snprintf(name, sizeof(name), "%d", number++);
    CHECK(mkdirat(root, name, 0755) == 0);
    top = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(top >= 0);
    close(root);
}

static void end(v9_export *ex)
{
    host.no_tmpfile = host.always_there = host.full = host.no_paths = false;
    v9_export_free(ex);
    close(top);
}

static const char *const kinds[] = {"file", "dir", "node", "link"};

/* Makes entry "n" of a kind: v9_make's result. */
static int make(v9_export *ex, uint32_t kind, uint32_t flags)
{
    const struct v9_new as = {
        .kind = kind,
        .mode = kind == V9_NEW_NODE ? S_IFIFO | 0640 : 0640,
        .uid = 1000,
        .gid = 2000,
        .flags = flags,
        .target = "to",
    };
    struct v9_made made;
    int err = v9_make(ex, top, "n", &as, &made);

    CHECK(err || (kind == V9_NEW_FILE) == (made.path_fd >= 0 && made.io_fd >= 0));
    CHECK(!err || (made.path_fd < 0 && made.io_fd < 0 && made.meta_fd < 0));
    v9_made_close(&made);
    return err;
}

static bool is_there(const char *path)
{
    struct stat st;
    return fstatat(top, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static unsigned descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

/* ---- checks ------------------------------------------------------------------------------------
 */

static void check_kinds(uint32_t model, bool no_tmpfile)
{
    static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFLNK};
    struct v9_attr attr;
    v9_export *ex;

    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++) {
        begin();
        ex = export_of(model);
        host.no_tmpfile = no_tmpfile;
        if (!CHECK(make(ex, kind, O_RDWR | O_EXCL) == 0))
            fprintf(stderr, "  %s, model %u\n", kinds[kind], model);
        CHECK(make(ex, kind, O_RDWR | 0200) == -EEXIST);
        v9_attr_read(ex, top, "n", &attr);
        CHECK((attr.mode & S_IFMT) == types[kind] && attr.uid == 1000 && attr.gid == 2000);
        CHECK(kind == V9_NEW_LINK || (attr.mode & 07777) == 0640);
        CHECK(v9_unmake(ex, top, "n", kind != V9_NEW_DIR) != 0);
        CHECK(v9_unmake(ex, top, "n", kind == V9_NEW_DIR) == 0);
        CHECK(!is_there("n") && !is_there(META "/n"));
        CHECK(v9_unmake(ex, top, "n", kind == V9_NEW_DIR) == -ENOENT);
        end(ex);
    }
}

static void check_full(uint32_t model, bool no_tmpfile)
{
    unsigned before;
    v9_export *ex;

    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_NODE; kind++) {
        begin();
        ex = export_of(model);
        host.no_tmpfile = no_tmpfile;
        host.full = true;
        before = descriptors();
        /* The directory's descriptor is O_PATH: its attributes are written by a path. */
        if (kind != V9_NEW_DIR || model == V9_MODEL_FILE)
            CHECK(make(ex, kind, O_RDWR) == -ENOSPC && !is_there("n") && !is_there(META "/n"));
        CHECK(descriptors() == before);
        end(ex);
    }
}

static void check_races(uint32_t model)
{
    unsigned before;
    v9_export *ex;

    begin();
    ex = export_of(model);
    CHECK(make(ex, V9_NEW_FILE, O_RDWR) == 0);
    CHECK(v9_unmake(ex, top, "n", false) == 0);
    before = descriptors();
    host.always_there = true;
    CHECK(make(ex, V9_NEW_FILE, O_RDWR | 0200) == -EEXIST);
    CHECK(make(ex, V9_NEW_FILE, O_RDWR) == -EAGAIN);
    CHECK(!is_there("n") && !is_there(META "/n") && descriptors() == before);
    end(ex);
}

/* A directory that cannot be read to its end may have more than metadata in it. */
static void check_unreadable(void)
{
    const struct v9_new file = {.kind = V9_NEW_FILE, .mode = 0600, .flags = O_RDWR};
    v9_export *ex;
    struct v9_made made;
    int dir;

    begin();
    ex = export_of(V9_MODEL_FILE);
    CHECK(make(ex, V9_NEW_DIR, 0) == 0);
    dir = openat(top, "n", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(v9_make(ex, dir, "kept", &file, &made) == 0);
    v9_made_close(&made);
    close(dir);
    host.bad = "kept";
    CHECK(v9_unmake(ex, top, "n", true) == -EIO);
    CHECK(is_there("n/kept") && is_there("n/" META "/kept"));
    CHECK(v9_unmake(ex, top, "n", true) == -ENOTEMPTY);
    CHECK(is_there("n/" META "/kept"));
    end(ex);
}

/* What may be at "n" after an end half way: nothing, or the whole of what was there or is new. */
static void check_whole(v9_export *ex, uint32_t kind)
{
    struct v9_attr attr;

    if (!is_there("n"))
        return;
    v9_attr_read(ex, top, "n", &attr);
    if (!CHECK(attr.uid == 1000 && attr.gid == 2000))
        fprintf(stderr, "  %s, model %u\n", kinds[kind], ex->conf.model);
    CHECK(v9_unmake(ex, top, "n", S_ISDIR(attr.mode)) == 0);
}

static int end_after(long calls, v9_export *ex, uint32_t kind, bool removed)
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        host.left = calls;
        if (removed)
            v9_unmake(ex, top, "n", kind == V9_NEW_DIR);
        else
            make(ex, kind, O_RDWR);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_half_way(uint32_t model, uint32_t kind, bool removed)
{
    const struct v9_new other = {
        .kind = V9_NEW_FILE, .mode = 0600, .uid = 1, .flags = O_RDWR | 0200};
    struct v9_made made;
    struct v9_attr attr;
    long calls = 0;
    int status;
    v9_export *ex;

    do {
        begin();
        ex = export_of(model);
        if (removed)
            CHECK(make(ex, kind, O_RDWR) == 0);
        status = end_after(calls, ex, kind, removed);
        CHECK(status == 0 || status == 7);
        check_whole(ex, kind);
        /* And what is left lying about stands in nobody's way. */
        CHECK(v9_make(ex, top, "n", &other, &made) == 0);
        v9_made_close(&made);
        v9_attr_read(ex, top, "n", &attr);
        CHECK(attr.uid == 1 && attr.mode == (S_IFREG | 0600));
        end(ex);
    } while (status == 7 && ++calls < 40);
    CHECK(calls > 0 && status == 0);
}

/* ---- the quota ---------------------------------------------------------------------------------
 */

static v9_quota *quota_of(uint64_t inodes, int *fd)
{
    struct v9_quota_conf conf = {
        .bytes = UINT64_MAX, .inodes = inodes, .error = EDQUOT, .block = 4096, .max_accounts = 64};
    v9_quota *quota;
    int err;

    *fd = conf.fd = memfd_create("usage", 0);
    CHECK(ftruncate(conf.fd, V9_QUOTA_FILE) == 0);
    quota = v9_quota_new(&conf, &err);
    CHECK(quota && !err);
    return quota;
}

static int64_t inodes(v9_quota *quota)
{
    struct v9_quota_usage usage;
    v9_quota_read(quota, &usage);
    CHECK(usage.changing == 0);
    return usage.inodes;
}

static void check_quota(uint32_t model)
{
    int fd;
    v9_quota *quota = quota_of(1, &fd);
    v9_export *ex;

    begin();
    ex = export_of(model);
    v9_export_set_quota(ex, quota);
    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++) {
        CHECK(make(ex, kind, O_RDWR) == 0 && inodes(quota) == 1);
        CHECK(make(ex, kind, O_RDWR) == (kind == V9_NEW_FILE ? 0 : -EEXIST) && inodes(quota) == 1);
        CHECK(mkdirat(top, "d", 0755) == 0); /* a host process's */
        CHECK(v9_unmake(ex, top, "missing", false) == -ENOENT && inodes(quota) == 1);
        CHECK(unlinkat(top, "d", AT_REMOVEDIR) == 0);
        CHECK(v9_unmake(ex, top, "n", kind == V9_NEW_DIR) == 0 && inodes(quota) == 0);
    }
    host.no_paths = true; /* what cannot be counted is not made */
    CHECK(make(ex, V9_NEW_DIR, 0) == -EMFILE && !is_there("n") && inodes(quota) == 0);
    host.no_paths = false;
    CHECK(make(ex, V9_NEW_DIR, 0) == 0);
    {
        const struct v9_new more = {.kind = V9_NEW_DIR, .mode = 0755};
        struct v9_made made;
        CHECK(v9_make(ex, top, "more", &more, &made) == -EDQUOT && !is_there("more"));
    }
    end(ex);
    v9_quota_free(quota);
    close(fd);
}

/* Threads that make and remove one name: every call has one of the results that it may have, and
 * the count is right in the end. */
static v9_export *shared;

static void *fight(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        const uint32_t kind = i % 3 ? V9_NEW_FILE : V9_NEW_DIR;
        int err = make(shared, kind, O_RDWR);
        CHECK(!err || err == -EEXIST || err == -EISDIR || err == -EAGAIN);
        err = v9_unmake(shared, top, "n", kind == V9_NEW_DIR);
        CHECK(!err || err == -ENOENT || err == -EISDIR || err == -ENOTDIR || err == -EPERM);
    }
    return NULL;
}

static void check_threads(uint32_t model)
{
    pthread_t threads[4];
    int fd;
    v9_quota *quota = quota_of(UINT64_MAX, &fd);

    begin();
    shared = export_of(model);
    v9_export_set_quota(shared, quota);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, fight, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    if (v9_unmake(shared, top, "n", true))
        v9_unmake(shared, top, "n", false);
    CHECK(inodes(quota) == 0 && !is_there("n") && !is_there(META "/n"));
    end(shared);
    v9_quota_free(quota);
    close(fd);
}

/* ---- ids ---------------------------------------------------------------------------------------
 */

static void check_creators(void)
{
    const struct v9_id_range ranges[] = {{20, 50, 2}, {0, 1000, 5}}, forbidden[] = {{21, 0, 1}};
    const struct v9_id_range root[] = {{0, 0, 1}};
    const struct v9_id_conf conf = {ranges, forbidden, 2, 1, 1, 7};
    const struct v9_id_conf no_root = {ranges, NULL, 1, 0, 1, 7};
    const struct v9_id_conf denied = {ranges, root, 2, 1, 1, 7};
    static const uint32_t cases[][2] = {{50, 50}, {1004, 1004}, {1005, 1000}, {0, 1000}};
    struct v9_idmap map = {0};
    uint32_t id;

    CHECK(v9_idmap_creator(&map, V9_NO_ID, 5, &id) == 0 && id == V9_NO_ID);
    CHECK(v9_idmap_set(&map, &conf) == 0);
    for (size_t i = 0; i < 4; i++)
        CHECK(v9_idmap_creator(&map, V9_NO_ID, cases[i][0], &id) == 0 && id == cases[i][1]);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 51, &id) == -EPERM);
    CHECK(v9_idmap_creator(&map, 3, 0, &id) == 0 && id == 1003);
    CHECK(v9_idmap_creator(&map, 9, 0, &id) == 0 && id == 7);
    v9_idmap_free(&map);
    CHECK(v9_idmap_set(&map, &no_root) == 0);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 0, &id) == 0 && id == 7);
    v9_idmap_free(&map);
    CHECK(v9_idmap_set(&map, &denied) == 0);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 0, &id) == -EPERM);
    v9_idmap_free(&map);
}

static void check_no_id(void)
{
    const struct v9_cred nobody = {UINT32_MAX, 0, true, true};
    const struct v9_cred nogroup = {0, UINT32_MAX, true, true};
    const struct v9_cred if_possible = {UINT32_MAX, UINT32_MAX, true, false};

    begin();
    CHECK(v9_sys_mkdir(&nobody, top, "n", 0755) == -EPERM && !is_there("n"));
    CHECK(v9_sys_mkdir(&nogroup, top, "n", 0755) == -EPERM && !is_there("n"));
    CHECK(v9_sys_mkdir(&if_possible, top, "n", 0755) == 0 && is_there("n"));
    close(top);
}

int main(void)
{
    char command[64];
    const bool root = geteuid() == 0;

    umask(0);
    qids = v9_qidmap_new();
    if (!CHECK(mkdtemp(root_path)))
        return check_report();
    check_creators();
    if (root) {
        check_no_id();
        check_kinds(V9_MODEL_HOST, false);
        check_races(V9_MODEL_HOST);
        check_quota(V9_MODEL_HOST);
        check_threads(V9_MODEL_HOST);
    }
    for (uint32_t model = V9_MODEL_XATTR; model <= V9_MODEL_FILE; model++) {
        for (int no_tmpfile = 0; no_tmpfile < 2; no_tmpfile++) {
            check_kinds(model, no_tmpfile);
            check_full(model, no_tmpfile);
        }
        check_races(model);
        check_quota(model);
        check_threads(model);
        for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++) {
            if (kind != V9_NEW_DIR || model == V9_MODEL_FILE)
                check_half_way(model, kind, false);
            check_half_way(model, kind, true);
        }
    }
    check_unreadable();
    v9_qidmap_free(qids);
    snprintf(command, sizeof(command), "rm -rf %s", root_path);
    CHECK(system(command) == 0);
    return check_report();
}
