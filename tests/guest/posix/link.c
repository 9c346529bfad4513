/* link: several names of one file of any type but directories. */
#include "posix.h"

CASE(second_name)
{
    node(a->type, "n");
    struct stat old = look("n");
    OK(link("n", "m"));
    struct stat st = look("m");
    SAME((long long)old.st_ino, (long long)st.st_ino);
    SAME((long long)old.st_dev, (long long)st.st_dev);
    SAME(old.st_mode, st.st_mode);
    SAME(old.st_uid, st.st_uid);
    SAME(2, (long long)st.st_nlink);
    SAME(2, (long long)look("n").st_nlink);
    OK(unlink("n"));
    SAME(1, (long long)look("m").st_nlink);
    SAME((long long)old.st_ino, (long long)look("m").st_ino);
    SAME(1, entries("."));
}

/* What is changed through one name is seen through the other. */
CASE(shared_attributes)
{
    need_privileges();
    node(a->type, "n");
    OK(mkdir("d", 0755));
    OK(link("n", "d/m"));
    OK(chmod("n", 0612));
    SAME_MODE(0612, "d/m");
    give("d/m", ALICE, BOBS);
    SAME(ALICE, look("n").st_uid);
    SAME(BOBS, look("n").st_gid);
    OK(utimensat(AT_FDCWD, "n", (struct timespec[2]){{100, 0}, {200, 0}}, 0));
    SAME(200, look("d/m").st_mtim.tv_sec);
}

/*
 * The descriptor is closed before the file is used by its other name, which a 9p client takes for
 * another file: with a cache it writes at the close, and a read beyond the new end of a file that
 * was shrunk behind its back never ends in some kernels.
 */
CASE(shared_data)
{
    put("f", "one");
    OK(link("f", "g"));
    int fd = (int)OK(open("g", O_WRONLY | O_APPEND));
    SAME(5, write(fd, " more", 5));
    SAME(8, look_fd(fd).st_size);
    OK(close(fd));
    holds("f", "one more");
    OK(truncate("f", 3));
    holds("g", "one");
    OK(unlink("g"));
    holds("f", "one");
}

CASE(existing)
{
    node(a->type, "n");
    node(a->other, "m");
    struct stat old = look("m");
    EXPECT(EEXIST, link("n", "m"));
    SAME((long long)old.st_ino, (long long)look("m").st_ino);
    SAME(1, (long long)look("n").st_nlink);
}

CASE(directory)
{
    OK(mkdir("d", 0755));
    nlink_t links = look("d").st_nlink;
    EXPECT(EPERM, link("d", "e"));
    EITHER(EPERM, EEXIST, link("d", "d"));
    EITHER(EPERM, EEXIST, link("d", "d/."));
    EXPECT(EPERM, link(".", "e"));
    SAME((long long)links, (long long)look("d").st_nlink);
    CHECK(!exists("e"));
}

CASE(directory_user)
{
    as(ALICE, ALICES);
    OK(mkdir("d", 0755));
    EXPECT(EPERM, link("d", "e"));
    CHECK(!exists("e"));
}

CASE(of_symlink)
{
    put("f", "");
    OK(symlink("f", "l"));
    OK(link("l", "m"));
    CHECK(S_ISLNK(look("m").st_mode));
    SAME((long long)look("l").st_ino, (long long)look("m").st_ino);
    SAME(1, (long long)look("f").st_nlink);
    OK(linkat(AT_FDCWD, "l", AT_FDCWD, "g", AT_SYMLINK_FOLLOW));
    SAME((long long)look("f").st_ino, (long long)look("g").st_ino);
    SAME(2, (long long)look("f").st_nlink);
    EXPECT(EEXIST, linkat(AT_FDCWD, "f", AT_FDCWD, "l", AT_SYMLINK_FOLLOW));
}

CASE(many)
{
    char name[16];
    put("f", "data");
    for (int i = 0; i < a->number; i++) {
        snprintf(name, sizeof(name), "l%d", i);
        OK(link("f", name));
    }
    SAME(a->number + 1, (long long)look("f").st_nlink);
    SAME(a->number + 1, entries("."));
    for (int i = 0; i < a->number; i += 2) {
        snprintf(name, sizeof(name), "l%d", i);
        OK(unlink(name));
    }
    SAME(a->number / 2 + 1, (long long)look("f").st_nlink);
    OK(unlink("f"));
    holds("l1", "data");
}

CASE(other_file_system)
{
    EXPECT(EXDEV, link("/proc/version", "f"));
    EXPECT(ENOENT, link("none", "f"));
    CHECK(!exists("f"));
}

CASE(from_descriptor)
{
    put("f", "data");
    OK(mkdir("d", 0755));
    int fd = (int)OK(open("f", O_RDONLY));
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    OK(linkat(AT_FDCWD, path, AT_FDCWD, "d/g", AT_SYMLINK_FOLLOW));
    holds("d/g", "data");
    SAME(2, (long long)look_fd(fd).st_nlink);
}

/* Another user's file that the user may read and write can be linked to. */
CASE(of_other_user)
{
    need_privileges();
    put("f", "");
    give("f", ALICE, ALICES);
    OK(chmod("f", 0666));
    as(BOB, BOBS);
    OK(link("f", "g"));
    SAME(ALICE, look("g").st_uid);
    SAME(2, (long long)look("g").st_nlink);
}

void suite_link(void)
{
    static const struct plain_case plain[] = {
        {"shared-data", shared_data},
        {"directory-EPERM", directory},
        {"directory-user-EPERM", directory_user},
        {"of-symlink", of_symlink},
        {"other-file-system-EXDEV", other_file_system},
        {"from-descriptor", from_descriptor},
        {"of-other-user", of_other_user},
    };
    for (enum type type = 0; type < TYPES; type++) {
        if (type == DIR_)
            continue;
        run(second_name, (struct arg){.type = type}, "link/second-name/%s", type_names[type]);
        if (type != LINK)
            run(shared_attributes, (struct arg){.type = type}, "link/shared-attributes/%s",
                type_names[type]);
        for (enum type other = 0; other < TYPES; other++)
            run(existing, (struct arg){.type = type, .other = other}, "link/existing/%s/%s-EEXIST",
                type_names[type], type_names[other]);
    }
    run(many, (struct arg){.number = 60}, "link/many");
    run_plain("link", plain, COUNT(plain));
}
