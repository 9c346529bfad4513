/*
 * What each operation does to the times of a node, of its directory and of a second directory:
 * the marked ones advance, all others stay as they were. A failed operation advances none.
 *
 * The node is d/n, a file opened as `fd` or another type. All but a directory have a second name,
 * "keep", by which it is looked at when the first one is gone. Times are compared with the
 * server's resolution: tick() lets the server's clock advance before the operation.
 */
#include "posix.h"

#include <sys/xattr.h>

enum {
    DIR_MC = 1,    /* st_mtim and st_ctim of d */
    OTHER_MC = 2,  /* of e */
    DIR_C = 4,     /* st_ctim alone of d */
    SELF_C = 8,    /* st_ctim of the node */
    SELF_M = 16,   /* st_mtim of the node */
    ANY_TYPE = 32, /* the operation works on every type */
    NO_LINK = 64,  /* ... except a symlink */
    NO_DIR = 128,  /* ... except a directory */
    AS_BOB = 256,  /* done by another user; it fails */
    WITH_XATTR = 512
};

static int fd;

static int do_write(void)
{
    return (int)write(fd, "x", 1);
}

static int do_write_same(void)
{
    return (int)pwrite(fd, "data", 4, 0);
}

static int do_write_nothing(void)
{
    return (int)write(fd, "", 0);
}

static int do_append(void)
{
    return (int)write((int)OK(open("d/n", O_WRONLY | O_APPEND)), "x", 1);
}

static int do_read(void)
{
    char got[4];
    return (int)read(fd, got, 4);
}

static int do_truncate(void)
{
    return truncate("d/n", 1);
}

static int do_truncate_same(void)
{
    return truncate("d/n", 4);
}

static int do_ftruncate(void)
{
    return ftruncate(fd, 100);
}

static int do_open(void)
{
    return open("d/n", O_RDWR);
}

static int do_open_truncate(void)
{
    return open("d/n", O_WRONLY | O_TRUNC);
}

static int do_open_creat(void)
{
    return open("d/n", O_WRONLY | O_CREAT, 0600);
}

static int do_create(void)
{
    return open("d/new", O_WRONLY | O_CREAT, 0600);
}

static int do_create_excl(void)
{
    return open("d/n", O_WRONLY | O_CREAT | O_EXCL, 0600);
}

static int do_fsync(void)
{
    return fsync(fd);
}

static int do_stat(void)
{
    struct stat st;
    return stat("d/n", &st);
}

static int do_access(void)
{
    return access("d/n", R_OK);
}

static int do_list(void)
{
    return (int)entries("d");
}

static int do_chmod(void)
{
    return chmod("d/n", 0711);
}

static int do_fchmod(void)
{
    return fchmod(fd, 0711);
}

static int do_chmod_directory(void)
{
    return chmod("d", 0711);
}

static int do_lchown(void)
{
    return lchown("d/n", geteuid(), getegid());
}

static int do_fchown(void)
{
    return fchown(fd, geteuid(), getegid());
}

static int do_utimens_now(void)
{
    return utimensat(AT_FDCWD, "d/n", NULL, AT_SYMLINK_NOFOLLOW);
}

static int do_utimens_explicit(void)
{
    struct timespec times[2] = {{0, UTIME_OMIT}, look("d/n").st_mtim};
    times[1].tv_sec++;
    return utimensat(AT_FDCWD, "d/n", times, AT_SYMLINK_NOFOLLOW);
}

static int do_utimens_none(void)
{
    struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    return utimensat(AT_FDCWD, "d/n", times, AT_SYMLINK_NOFOLLOW);
}

static int do_setxattr(void)
{
    return setxattr("d/n", "user.new", "x", 1, 0);
}

static int do_removexattr(void)
{
    return removexattr("d/n", "user.old");
}

static int do_getxattr(void)
{
    char got[8];
    return (int)getxattr("d/n", "user.old", got, sizeof(got));
}

static int do_link(void)
{
    return link("d/n", "d/m");
}

static int do_link_other(void)
{
    return link("d/n", "e/m");
}

static int do_link_existing(void)
{
    return link("keep", "d/n");
}

static int do_unlink(void)
{
    return unlink("d/n");
}

static int do_unlink_missing(void)
{
    return unlink("d/none");
}

static int do_rename(void)
{
    return rename("d/n", "d/m");
}

static int do_rename_other(void)
{
    return rename("d/n", "e/m");
}

static int do_rename_over(void)
{
    return rename("e/victim", "d/n");
}

static int do_rename_missing(void)
{
    return rename("d/none", "e/m");
}

static int do_rename_full(void)
{
    return rename("e", "d");
}

static int do_mkdir(void)
{
    return mkdir("d/new", 0755);
}

static int do_mkdir_existing(void)
{
    return mkdir("d/n", 0755);
}

static int do_mkfifo(void)
{
    return mkfifo("d/new", 0644);
}

static int do_mknod(void)
{
    return mknod("d/new", S_IFREG | 0644, 0);
}

static int do_symlink(void)
{
    return symlink("nowhere", "d/new");
}

static int do_rmdir(void)
{
    return rmdir("d/sub");
}

static int do_rmdir_full(void)
{
    return rmdir("d");
}

static const struct touch {
    const char *name;
    int (*call)(void);
    unsigned flags;
    const char *after; /* the node's name afterwards, if not d/n */
    int error;
} touches[] = {
    {"write", do_write, SELF_C | SELF_M, NULL, 0},
    {"write-same", do_write_same, SELF_C | SELF_M, NULL, 0},
    {"write-nothing", do_write_nothing, 0, NULL, 0},
    {"append", do_append, SELF_C | SELF_M, NULL, 0},
    {"read", do_read, 0, NULL, 0},
    {"truncate", do_truncate, SELF_C | SELF_M, NULL, 0},
    {"truncate-same", do_truncate_same, SELF_C | SELF_M, NULL, 0},
    {"ftruncate", do_ftruncate, SELF_C | SELF_M, NULL, 0},
    {"open", do_open, 0, NULL, 0},
    {"open-truncate", do_open_truncate, SELF_C | SELF_M, NULL, 0},
    {"open-creat", do_open_creat, 0, NULL, 0},
    {"create", do_create, DIR_MC, NULL, 0},
    {"create-excl-EEXIST", do_create_excl, ANY_TYPE, NULL, EEXIST},
    {"fsync", do_fsync, 0, NULL, 0},
    {"stat", do_stat, ANY_TYPE | NO_LINK, NULL, 0},
    {"access", do_access, ANY_TYPE | NO_LINK, NULL, 0},
    {"list", do_list, ANY_TYPE, NULL, 0},
    {"chmod", do_chmod, SELF_C | ANY_TYPE | NO_LINK, NULL, 0},
    {"chmod-EPERM", do_chmod, AS_BOB | ANY_TYPE | NO_LINK, NULL, EPERM},
    {"fchmod", do_fchmod, SELF_C, NULL, 0},
    {"chmod-directory", do_chmod_directory, DIR_C, NULL, 0},
    {"lchown", do_lchown, SELF_C | ANY_TYPE, NULL, 0},
    {"lchown-EPERM", do_lchown, AS_BOB | ANY_TYPE, NULL, EPERM},
    {"fchown", do_fchown, SELF_C, NULL, 0},
    {"utimens-now", do_utimens_now, SELF_C | SELF_M | ANY_TYPE, NULL, 0},
    {"utimens-explicit", do_utimens_explicit, SELF_C | SELF_M | ANY_TYPE, NULL, 0},
    {"utimens-none", do_utimens_none, ANY_TYPE, NULL, 0},
    {"utimens-EACCES", do_utimens_now, AS_BOB, NULL, EACCES},
    {"setxattr", do_setxattr, SELF_C | WITH_XATTR, NULL, 0},
    {"removexattr", do_removexattr, SELF_C | WITH_XATTR, NULL, 0},
    {"getxattr", do_getxattr, WITH_XATTR, NULL, 0},
    {"link", do_link, SELF_C | DIR_MC | ANY_TYPE | NO_DIR, NULL, 0},
    {"link-other", do_link_other, SELF_C | OTHER_MC | ANY_TYPE | NO_DIR, NULL, 0},
    {"link-EEXIST", do_link_existing, ANY_TYPE | NO_DIR, NULL, EEXIST},
    {"unlink", do_unlink, SELF_C | DIR_MC | ANY_TYPE | NO_DIR, "keep", 0},
    {"unlink-ENOENT", do_unlink_missing, 0, NULL, ENOENT},
    {"unlink-EACCES", do_unlink, AS_BOB | ANY_TYPE | NO_DIR, NULL, EACCES},
    {"truncate-EACCES", do_truncate, AS_BOB, NULL, EACCES},
    {"rename", do_rename, SELF_C | DIR_MC | ANY_TYPE, "d/m", 0},
    {"rename-other", do_rename_other, SELF_C | DIR_MC | OTHER_MC | ANY_TYPE, "e/m", 0},
    {"rename-over", do_rename_over, SELF_C | DIR_MC | OTHER_MC | ANY_TYPE | NO_DIR, "keep", 0},
    {"rename-ENOENT", do_rename_missing, 0, NULL, ENOENT},
    {"rename-ENOTEMPTY", do_rename_full, ANY_TYPE, NULL, ENOTEMPTY},
    {"rename-EACCES", do_rename, AS_BOB | ANY_TYPE, NULL, EACCES},
    {"mkdir", do_mkdir, DIR_MC, NULL, 0},
    {"mkdir-EEXIST", do_mkdir_existing, ANY_TYPE, NULL, EEXIST},
    {"mkdir-EACCES", do_mkdir, AS_BOB, NULL, EACCES},
    {"mkfifo", do_mkfifo, DIR_MC, NULL, 0},
    {"mknod", do_mknod, DIR_MC, NULL, 0},
    {"symlink", do_symlink, DIR_MC, NULL, 0},
    {"rmdir", do_rmdir, DIR_MC, NULL, 0},
    {"rmdir-ENOTEMPTY", do_rmdir_full, 0, NULL, ENOTEMPTY},
};

static void advances(const char *what, struct timespec old, struct timespec new, bool expected)
{
    if (expected && !before(old, new))
        fail(__FILE__, __LINE__, what, "expected a later time got the old one");
    if (!expected && (before(old, new) || before(new, old)))
        fail(__FILE__, __LINE__, what, "expected the old time got another");
}

static void prepare(const struct arg *a)
{
    const struct touch *touch = a->table;
    if (touch->flags & WITH_XATTR)
        need_xattrs();
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    OK(mkdir("d/sub", 0755));
    put("e/victim", "");
    if (a->type == FILE_) {
        put("d/n", "data");
        fd = (int)OK(open("d/n", O_RDWR));
        if (touch->flags & WITH_XATTR)
            OK(setxattr("d/n", "user.old", "x", 1, 0));
    } else {
        node(a->type, "d/n");
    }
    if (a->type != DIR_)
        OK(link("d/n", "keep"));
}

CASE(touches_times)
{
    const struct touch *touch = a->table;
    unsigned flags = touch->flags;
    prepare(a);
    struct stat d = look("d"), e = look("e"), n = look("d/n");
    tick();
    if (flags & AS_BOB)
        as(BOB, BOBS);
    EXPECT(touch->error, touch->call());
    as_self();
    struct stat d2 = look("d"), e2 = look("e"), n2 = look(touch->after ? touch->after : "d/n");
    SAME((long long)n.st_ino, (long long)n2.st_ino);
    advances("ctime of d", d.st_ctim, d2.st_ctim, flags & (DIR_MC | DIR_C));
    advances("mtime of d", d.st_mtim, d2.st_mtim, flags & DIR_MC);
    advances("ctime of e", e.st_ctim, e2.st_ctim, flags & OTHER_MC);
    advances("mtime of e", e.st_mtim, e2.st_mtim, flags & OTHER_MC);
    advances("ctime of n", n.st_ctim, n2.st_ctim, flags & SELF_C);
    if (!(a->type == DIR_ && touch->call == do_rename_other)) /* ".." may count as a write */
        advances("mtime of n", n.st_mtim, n2.st_mtim, flags & SELF_M);
}

/* The three times of something new lie at or after the directory's old ones. */
CASE(new_node)
{
    struct stat old = look(".");
    tick();
    node(a->type, "n");
    struct stat st = look("n");
    CHECK(before(old.st_mtim, st.st_mtim));
    CHECK(before(old.st_mtim, st.st_ctim));
    CHECK(before(old.st_mtim, st.st_atim));
}

void suite_touch(void)
{
    for (size_t i = 0; i < COUNT(touches); i++)
        for (enum type type = 0; type < TYPES; type++) {
            unsigned flags = touches[i].flags;
            if ((type != FILE_ && !(flags & ANY_TYPE)) || (type == LINK && flags & NO_LINK) ||
                (type == DIR_ && flags & NO_DIR))
                continue;
            run(touches_times, (struct arg){.type = type, .table = &touches[i]}, "touch/%s/%s",
                touches[i].name, type_names[type]);
        }
    for (enum type type = 0; type < TYPES; type++)
        run(new_node, (struct arg){.type = type}, "touch/new/%s", type_names[type]);
}
