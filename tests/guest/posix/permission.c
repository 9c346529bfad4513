/*
 * Permission bits: of the directory that holds a name, for every call that takes a path, and of a
 * file or directory itself. Each class of users (owner, group, supplementary group, other) gets
 * its own bits while all other classes have the opposite, which proves that the right class
 * decides: an owner without a right does not get it from the group.
 */
#include "posix.h"

#include <sys/xattr.h>

enum class { OWNER, GROUP, MEMBER, OTHER, CLASSES };
static const char *const class_names[CLASSES] = {"owner", "group", "member", "other"};

/* The mode that gives `bits` to the class and `rest` to everybody else. */
static mode_t mode_for(enum class class, mode_t bits, mode_t rest)
{
    int shift = class == OWNER ? 6 : class == OTHER ? 0 : 3;
    return (mode_t)((rest * 0111) & ~(7U << shift)) | bits << shift;
}

/* Gives the path to users such that BOB is of that class, and makes the process BOB. */
static void own_for(enum class class, const char *path)
{
    give(path, class == OWNER ? BOB : ALICE,
         class == GROUP    ? BOBS
         : class == MEMBER ? TEAM
                           : FOREIGN);
}

static void be_bob(enum class class)
{
    if (class == MEMBER)
        as_member(BOB, BOBS, TEAM);
    else
        as(BOB, BOBS);
}

/* a->table: the operation; a->number: BOB's class; a->mode: its bits in the directory. */
CASE(in_directory)
{
    const struct op *op = a->table;
    enum class class = (enum class)a->number;
    need_privileges();
    OK(mkdir("d", 0777));
    as(BOB, BOBS);
    op_prepare(op, "d/x");
    as_self();
    own_for(class, "d");
    OK(chmod("d", mode_for(class, a->mode, ~a->mode & 7)));
    bool allowed = a->mode & 1 && (!(op->flags & CHANGES) || a->mode & 2);
    bool was = exists("d/x");
    be_bob(class);
    EXPECT(allowed ? 0 : EACCES, op->call("d/x"));
    as_self();
    if (!allowed)
        SAME(was, exists("d/x"));
    else if (op->flags & CHANGES)
        SAME(!was, exists("d/x"));
}

/* The component before the last but one cannot be searched. */
CASE(in_subdirectory)
{
    const struct op *op = a->table;
    need_privileges();
    OK(mkdir("d", 0777));
    OK(mkdir("d/e", 0777));
    as(BOB, BOBS);
    op_prepare(op, "d/e/x");
    as_self();
    OK(chmod("d", 0776));
    as(BOB, BOBS);
    EXPECT(EACCES, op->call("d/e/x"));
    as_self();
    OK(chmod("d", 0771));
    as(BOB, BOBS);
    EXPECT(0, op->call("d/e/x"));
}

/* Without any bit set, root does it all the same. */
CASE(as_root)
{
    const struct op *op = a->table;
    OK(mkdir("d", 0777));
    op_prepare(op, "d/x");
    give("d", ALICE, ALICES);
    OK(chmod("d", 0));
    EXPECT(0, op->call("d/x"));
}

static int open_close(const char *path, int flags)
{
    int fd = open(path, flags);
    return fd < 0 ? fd : close(fd);
}

/* A regular file with a->mode as the bits of BOB's class. */
CASE(of_file)
{
    enum class class = (enum class)a->number;
    bool r = a->mode & 4, w = a->mode & 2, x = a->mode & 1;
    put("f", "0123456789");
    own_for(class, "f");
    OK(chmod("f", mode_for(class, a->mode, ~a->mode & 7)));
    be_bob(class);
    EXPECT(r ? 0 : EACCES, open_close("f", O_RDONLY));
    EXPECT(w ? 0 : EACCES, open_close("f", O_WRONLY));
    EXPECT(w ? 0 : EACCES, open_close("f", O_WRONLY | O_APPEND));
    EXPECT(r && w ? 0 : EACCES, open_close("f", O_RDWR));
    EXPECT(r && w ? 0 : EACCES, open_close("f", O_RDWR | O_CREAT));
    EXPECT(0, open_close("f", O_PATH));
    EXPECT(r ? 0 : EACCES, access("f", R_OK));
    EXPECT(w ? 0 : EACCES, access("f", W_OK));
    EXPECT(x ? 0 : EACCES, access("f", X_OK));
    EXPECT(r && w && x ? 0 : EACCES, access("f", R_OK | W_OK | X_OK));
    EXPECT(w ? 0 : EACCES, truncate("f", 5));
    SAME(w ? 5 : 10, look("f").st_size);
    EXPECT(w ? 0 : EACCES, open_close("f", O_WRONLY | O_TRUNC));
    SAME(w ? 0 : 10, look("f").st_size);
    EXPECT(w || class == OWNER ? 0 : EACCES, utimensat(AT_FDCWD, "f", NULL, 0));
}

CASE(of_file_xattr)
{
    enum class class = (enum class)a->number;
    bool r = a->mode & 4, w = a->mode & 2;
    char value[8];
    need_xattrs();
    put("f", "");
    OK(setxattr("f", "user.a", "value", 5, 0));
    own_for(class, "f");
    OK(chmod("f", mode_for(class, a->mode, ~a->mode & 7)));
    be_bob(class);
    EXPECT(r ? 0 : EACCES, getxattr("f", "user.a", value, sizeof(value)));
    EXPECT(w ? 0 : EACCES, setxattr("f", "user.b", "x", 1, 0));
    EXPECT(w ? 0 : EACCES, removexattr("f", "user.a"));
}

/* A directory with a->mode as the bits of BOB's class: listing, searching, changing. */
CASE(of_directory)
{
    enum class class = (enum class)a->number;
    bool r = a->mode & 4, w = a->mode & 2, x = a->mode & 1;
    struct stat st;
    OK(mkdir("d", 0777));
    put("d/f", "");
    own_for(class, "d");
    OK(chmod("d", mode_for(class, a->mode, ~a->mode & 7)));
    be_bob(class);
    EXPECT(r ? 0 : EACCES, open_close("d", O_RDONLY | O_DIRECTORY));
    EXPECT(x ? 0 : EACCES, chdir("d"));
    if (x)
        OK(fchdir((int)OK(open("..", O_PATH))));
    EXPECT(x ? 0 : EACCES, stat("d/f", &st));
    EXPECT(x ? ENOENT : EACCES, stat("d/none", &st));
    EXPECT(w && x ? 0 : EACCES, mkdir("d/new", 0755));
    EXPECT(w && x ? 0 : EACCES, rename("d/f", "d/g"));
    EXPECT(w && x ? 0 : x ? ENOENT : EACCES, unlink("d/g"));
    EXPECT(r ? 0 : EACCES, access("d", R_OK));
    EXPECT(w ? 0 : EACCES, access("d", W_OK));
    EXPECT(x ? 0 : EACCES, access("d", X_OK));
    if (r)
        SAME(1, entries("d"));
}

/* Root reads and writes whatever the mode; it executes only what somebody may. */
CASE(of_file_root)
{
    need_privileges();
    put("f", "");
    give("f", ALICE, ALICES);
    OK(chmod("f", 0));
    EXPECT(0, open_close("f", O_RDWR));
    EXPECT(0, access("f", R_OK | W_OK));
    EXPECT(EACCES, access("f", X_OK));
    OK(chmod("f", 0001));
    EXPECT(0, access("f", X_OK));
}

/* access() goes by the real user, AT_EACCESS by the effective one. */
CASE(access_ids)
{
    need_privileges();
    put("f", "");
    give("f", ALICE, ALICES);
    OK(chmod("f", 0600));
    as_effective(BOB, BOBS);
    EXPECT(0, access("f", R_OK));
    EXPECT(EACCES, faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS));
    EXPECT(EACCES, open_close("f", O_RDONLY));
    as_effective(ALICE, ALICES);
    EXPECT(0, faccessat(AT_FDCWD, "f", R_OK | W_OK, AT_EACCESS));
    EXPECT(EINVAL, access("f", 64));
}

/* What was opened stays usable after the permission is gone, and for another user. */
CASE(open_outlives_mode)
{
    need_privileges();
    put("f", "data");
    give("f", ALICE, ALICES);
    as(ALICE, ALICES);
    int fd = (int)OK(open("f", O_RDWR));
    OK(fchmod(fd, 0));
    EXPECT(EACCES, open_close("f", O_RDONLY));
    char got[4];
    SAME(4, pread(fd, got, 4, 0));
    SAME(2, pwrite(fd, "DA", 2, 0));
    OK(ftruncate(fd, 3));
    as(BOB, BOBS);
    SAME(3, pread(fd, got, 4, 0));
    SAME(1, pwrite(fd, "!", 1, 3));
    OK(ftruncate(fd, 4));
    as_self();
    holds("f", "DAt!");
}

/* Reading, writing and listing through a descriptor that was opened as root. */
CASE(open_as_root)
{
    need_privileges();
    OK(mkdir("d", 0700));
    put("d/f", "data");
    OK(chmod("d/f", 0600));
    int fd = (int)OK(open("d/f", O_RDWR));
    int dir = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    as(BOB, BOBS);
    char got[4];
    SAME(4, read(fd, got, 4));
    DIR *listing = fdopendir(dir);
    CHECK(listing != NULL && readdir(listing) != NULL);
    EXPECT(EACCES, openat(dir, "f", O_RDONLY));
}

void suite_permission(void)
{
    static const mode_t directory_bits[] = {0, 1, 2, 3, 6, 7};
    static const struct plain_case plain[] = {
        {"file-root", of_file_root},
        {"access-ids", access_ids},
        {"open-outlives-mode", open_outlives_mode},
        {"open-as-root", open_as_root},
    };
    for (size_t i = 0; i < ops_count; i++) {
        for (int class = 0; class < CLASSES; class ++)
            for (size_t b = 0; b < COUNT(directory_bits); b++)
                run(in_directory,
                    (struct arg){.table = &ops[i], .number = class, .mode = directory_bits[b]},
                    "permission/in-dir/%s/%s/%o", ops[i].name, class_names[class],
                    directory_bits[b]);
        run(in_subdirectory, (struct arg){.table = &ops[i]}, "permission/in-subdir/%s",
            ops[i].name);
        run(as_root, (struct arg){.table = &ops[i]}, "permission/root/%s", ops[i].name);
    }
    for (int class = 0; class < CLASSES; class ++)
        for (mode_t bits = 0; bits < 8; bits++) {
            struct arg a = {.number = class, .mode = bits};
            run(of_file, a, "permission/file/%s/%o", class_names[class], bits);
            run(of_file_xattr, a, "permission/xattr/%s/%o", class_names[class], bits);
            run(of_directory, a, "permission/dir/%s/%o", class_names[class], bits);
        }
    run_plain("permission", plain, COUNT(plain));
}
