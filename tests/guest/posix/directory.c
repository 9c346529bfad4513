/* mkdir and rmdir: modes, link counts, what is refused, directories that are still in use. */
#include "posix.h"

CASE(creation_mode)
{
    umask((mode_t)a->number);
    OK(mkdir("d", a->mode));
    /* Linux: the sticky bit is taken over; set-user-id and set-group-id are not. */
    SAME_MODE(a->mode & 01777 & ~(mode_t)a->number, "d");
    CHECK(S_ISDIR(look("d").st_mode));
}

CASE(creation)
{
    nlink_t links = look(".").st_nlink;
    OK(mkdir("d", 0755));
    SAME((long long)links + 1, (long long)look(".").st_nlink);
    SAME(2, (long long)look("d").st_nlink);
    SAME(0, entries("d"));
    SAME(geteuid(), look("d").st_uid);
}

CASE(creation_owner)
{
    as(ALICE, ALICES);
    OK(mkdir("d", 0755));
    SAME(ALICE, look("d").st_uid);
    SAME(ALICES, look("d").st_gid);
    OK(mkdir("d/e", 0700));
    SAME(ALICE, look("d/e").st_uid);
}

CASE(existing)
{
    node(a->type, "n");
    struct stat old = look("n");
    EXPECT(EEXIST, mkdir("n", 0700));
    SAME(old.st_mode, look("n").st_mode);
    SAME((long long)old.st_ino, (long long)look("n").st_ino);
    CHECK(!exists("nowhere"));
}

CASE(existing_dots)
{
    OK(mkdir("d", 0755));
    EXPECT(EEXIST, mkdir(".", 0755));
    EXPECT(EEXIST, mkdir("d/.", 0755));
    EXPECT(EEXIST, mkdir("d/..", 0755));
    EXPECT(EEXIST, mkdir("/", 0755));
}

CASE(removal)
{
    nlink_t links = look(".").st_nlink;
    OK(mkdir("d", a->mode));
    OK(rmdir("d"));
    CHECK(!exists("d"));
    SAME((long long)links, (long long)look(".").st_nlink);
    EXPECT(ENOENT, rmdir("d"));
    OK(mkdir("d", 0755));
    OK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
}

CASE(removal_not_directory)
{
    node(a->type, "n");
    EXPECT(ENOTDIR, rmdir("n"));
    EXPECT(ENOTDIR, unlinkat(AT_FDCWD, "n", AT_REMOVEDIR));
    CHECK(exists("n"));
}

CASE(removal_not_empty)
{
    OK(mkdir("d", 0755));
    node(a->type, "d/n");
    EITHER(ENOTEMPTY, EEXIST, rmdir("d"));
    OK(drop(a->type, "d/n"));
    OK(rmdir("d"));
}

CASE(removal_link)
{
    OK(mkdir("d", 0755));
    OK(symlink("d", "l"));
    EXPECT(ENOTDIR, rmdir("l"));
    EXPECT(ENOTDIR, rmdir("l/"));
    CHECK(exists("d"));
}

CASE(removal_dots)
{
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    EXPECT(EINVAL, rmdir("."));
    EXPECT(EINVAL, rmdir("d/."));
    EITHER(ENOTEMPTY, EEXIST, rmdir(".."));
    EITHER(ENOTEMPTY, EEXIST, rmdir("d/e/.."));
    EXPECT(EBUSY, rmdir("/"));
    CHECK(exists("d/e"));
}

/* The working directory goes: it takes no names any more, and its old name is free. */
CASE(removed_working)
{
    int here = (int)OK(open(".", O_RDONLY | O_DIRECTORY));
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    EXPECT(ENOENT, open("f", O_WRONLY | O_CREAT, 0600));
    EXPECT(ENOENT, mkdir("e", 0700));
    EXPECT(ENOENT, symlink("x", "l"));
    OK(fchdir(here));
    OK(mkdir("d", 0755));
    SAME(0, entries("d"));
}

CASE(removed_open)
{
    OK(mkdir("d", 0755));
    put("d/f", "");
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(unlinkat(fd, "f", 0));
    OK(rmdir("d"));
    SAME(0, (long long)look_fd(fd).st_nlink);
    EXPECT(ENOENT, mkdirat(fd, "x", 0755));
    EXPECT(ENOENT, openat(fd, "f", O_RDONLY));
    DIR *dir = fdopendir(fd);
    CHECK(dir != NULL && readdir(dir) == NULL);
}

/* rm -rf: names are removed through the open directory. */
CASE(removed_through_descriptor)
{
    OK(mkdir("d", 0755));
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(mkdirat(fd, "e", 0755));
    int below = (int)OK(openat(fd, "e", O_RDONLY | O_DIRECTORY));
    for (enum type type = 0; type < TYPES; type++) {
        if (type == CHAR || type == BLOCK)
            continue;
        char path[32];
        snprintf(path, sizeof(path), "d/e/%s", type_names[type]);
        node(type, path);
        OK(unlinkat(below, type_names[type], type == DIR_ ? AT_REMOVEDIR : 0));
    }
    EXPECT(EISDIR, unlinkat(fd, "e", 0));
    OK(unlinkat(fd, "e", AT_REMOVEDIR));
    SAME(0, entries("d"));
}

/* Each directory adds one link to its parent, and no other type does. */
CASE(link_counts)
{
    char name[16];
    OK(mkdir("d", 0755));
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "d/%d", i);
        node(i % 2 ? DIR_ : FILE_, name);
    }
    SAME(12, (long long)look("d").st_nlink);
    for (int i = 1; i < 20; i += 4) {
        snprintf(name, sizeof(name), "d/%d", i);
        OK(rmdir(name));
    }
    SAME(7, (long long)look("d").st_nlink);
}

void suite_directory(void)
{
    static const mode_t modes[] = {0,    0700, 0070, 0007,  0500,  0755,  0750,
                                   0777, 0711, 0444, 01777, 02755, 04711, 07777};
    static const mode_t masks[] = {0, 022, 027, 077, 0111, 0777};
    static const struct plain_case plain[] = {
        {"mkdir/creates", creation},
        {"mkdir/owner", creation_owner},
        {"mkdir/dots-EEXIST", existing_dots},
        {"rmdir/through-link-ENOTDIR", removal_link},
        {"rmdir/dots", removal_dots},
        {"rmdir/working-directory", removed_working},
        {"rmdir/open-directory", removed_open},
        {"rmdir/through-descriptor", removed_through_descriptor},
        {"link-counts", link_counts},
    };
    for (size_t m = 0; m < COUNT(modes); m++)
        for (size_t u = 0; u < COUNT(masks); u++)
            run(creation_mode, (struct arg){.mode = modes[m], .number = masks[u]},
                "directory/mkdir/mode/%04o/umask-%03o", modes[m], masks[u]);
    for (size_t m = 0; m < COUNT(modes); m++)
        run(removal, (struct arg){.mode = modes[m]}, "directory/rmdir/mode-%04o", modes[m]);
    for (enum type type = 0; type < TYPES; type++) {
        struct arg arg = {.type = type};
        run(existing, arg, "directory/mkdir/%s-EEXIST", type_names[type]);
        run(removal_not_empty, arg, "directory/rmdir/holds-%s-ENOTEMPTY", type_names[type]);
        if (type != DIR_)
            run(removal_not_directory, arg, "directory/rmdir/%s-ENOTDIR", type_names[type]);
    }
    run_plain("directory", plain, COUNT(plain));
}
