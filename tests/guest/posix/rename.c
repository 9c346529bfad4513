/* rename: every type to a new name and over every type, in one directory and between two. */
#include "posix.h"

static struct stat same_node(const struct stat *old, const char *path)
{
    struct stat st = look(path);
    SAME((long long)old->st_ino, (long long)st.st_ino);
    SAME(old->st_mode, st.st_mode);
    SAME(old->st_uid, st.st_uid);
    SAME(old->st_gid, st.st_gid);
    SAME((long long)old->st_rdev, (long long)st.st_rdev);
    SAME(old->st_size, st.st_size);
    SAME(old->st_mtim.tv_sec, st.st_mtim.tv_sec);
    return st;
}

CASE(new_name)
{
    OK(mkdir("d", 0755));
    node(a->type, "n");
    struct stat old = look("n");
    OK(rename("n", a->text));
    CHECK(!exists("n"));
    same_node(&old, a->text);
    OK(rename(a->text, "n"));
    CHECK(!exists(a->text));
    same_node(&old, "n");
    SAME(2, entries("."));
    SAME(0, entries("d"));
}

/* a->text: the new name, held by a node of type a->other. */
CASE(over)
{
    OK(mkdir("d", 0755));
    node(a->type, "n");
    node(a->other, a->text);
    struct stat old = look("n"), victim = look(a->text);
    EXPECT(a->error, rename("n", a->text));
    if (a->error) {
        same_node(&old, "n");
        same_node(&victim, a->text);
    } else {
        CHECK(!exists("n"));
        same_node(&old, a->text);
        OK(drop(a->type, a->text));
        SAME(0, entries("d"));
    }
}

CASE(over_full_directory)
{
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    node(a->type, "e/n");
    EITHER(ENOTEMPTY, EEXIST, rename("d", "e"));
    CHECK(exists("d") && exists("e/n"));
    OK(drop(a->type, "e/n"));
    OK(rename("d", "e"));
    CHECK(!exists("d"));
}

/* A full directory takes its contents along. */
CASE(full_directory)
{
    OK(mkdir("d", 0755));
    OK(mkdir("d/sub", 0755));
    put("d/f", "data");
    put("d/sub/g", "below");
    OK(mkdir("target", 0755));
    struct stat inner = look("d/sub");
    OK(rename("d", "target/moved"));
    holds("target/moved/f", "data");
    holds("target/moved/sub/g", "below");
    same_node(&inner, "target/moved/sub");
    OK(rename("target/moved/sub", "sub"));
    holds("sub/g", "below");
    SAME((long long)look(".").st_ino, (long long)look("sub/..").st_ino);
    SAME(1, entries("target/moved"));
}

CASE(link_counts)
{
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    OK(mkdir("a/d", 0755));
    SAME(3, (long long)look("a").st_nlink);
    OK(rename("a/d", "b/d"));
    SAME(2, (long long)look("a").st_nlink);
    SAME(3, (long long)look("b").st_nlink);
    SAME((long long)look("b").st_ino, (long long)look("b/d/..").st_ino);
    OK(mkdir("b/e", 0755));
    SAME(4, (long long)look("b").st_nlink);
    OK(rename("b/d", "b/e"));
    SAME(3, (long long)look("b").st_nlink);
    SAME(2, (long long)look("b/e").st_nlink);
}

CASE(into_itself)
{
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    OK(mkdir("d/e/f", 0755));
    EXPECT(EINVAL, rename("d", "d/x"));
    EXPECT(EINVAL, rename("d", "d/e/x"));
    EXPECT(EINVAL, rename("d", "d/e/f"));
    EITHER(ENOTEMPTY, EEXIST, rename("d/e/f", "d"));
    EITHER(ENOTEMPTY, EEXIST, rename("d/e/f", "d/e"));
    CHECK(exists("d/e/f"));
}

CASE(dots)
{
    OK(mkdir("d", 0755));
    EITHER(EBUSY, EINVAL, rename("d/.", "e"));
    EITHER(EBUSY, EINVAL, rename("d/..", "e"));
    EITHER(EBUSY, EINVAL, rename("d", "."));
    EITHER(EBUSY, EINVAL, rename("d", ".."));
    EITHER(EBUSY, EINVAL, rename(".", "e"));
    SAME(1, entries("."));
}

CASE(slashes)
{
    put("f", "");
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    EXPECT(ENOTDIR, rename("f/", "g"));
    EXPECT(ENOTDIR, rename("f", "g/"));
    EXPECT(ENOTDIR, rename("d", "f/"));
    OK(rename("d/", "x/"));
    OK(rename("x/", "e/"));
    SAME(2, entries("."));
}

/* Renaming a name to itself, or to another name of the same file, does nothing. */
CASE(same_file)
{
    put("f", "data");
    OK(link("f", "g"));
    OK(rename("f", "f"));
    OK(rename("f", "g"));
    SAME(2, (long long)look("f").st_nlink);
    SAME(2, entries("."));
    OK(mkdir("d", 0755));
    OK(rename("d", "d"));
    CHECK(exists("d"));
    OK(link("f", "d/h"));
    OK(rename("d/h", "g"));
    CHECK(exists("d/h"));
}

CASE(over_linked)
{
    put("f", "new");
    put("g", "old");
    OK(link("g", "h"));
    OK(rename("f", "g"));
    holds("g", "new");
    holds("h", "old");
    SAME(1, (long long)look("h").st_nlink);
    SAME(1, (long long)look("g").st_nlink);
}

/* A symlink is renamed and replaced itself; what it names stays. */
CASE(symlinks)
{
    put("f", "data");
    OK(symlink("f", "l"));
    OK(rename("l", "m"));
    CHECK(S_ISLNK(look("m").st_mode));
    holds("m", "data");
    put("g", "other");
    OK(rename("g", "m"));
    CHECK(S_ISREG(look("m").st_mode));
    holds("f", "data");
    OK(mkdir("d", 0755));
    OK(symlink("d", "to-d"));
    EXPECT(ENOTDIR, rename("d", "to-d"));
    OK(rename("m", "to-d/m"));
    holds("d/m", "other");
}

CASE(over_open)
{
    put("f", "new");
    put("g", "old");
    int fd = (int)OK(open("g", O_RDWR));
    struct stat old = look_fd(fd);
    OK(rename("f", "g"));
    SAME(0, (long long)look_fd(fd).st_nlink);
    SAME((long long)old.st_ino, (long long)look_fd(fd).st_ino);
    char got[3];
    SAME(3, pread(fd, got, 3, 0));
    SAME_BYTES("old", got, 3);
    SAME(4, pwrite(fd, "gone", 4, 0));
    SAME(4, look_fd(fd).st_size);
    holds("g", "new");
}

CASE(open_file)
{
    put("f", "data");
    OK(mkdir("d", 0755));
    int fd = (int)OK(open("f", O_RDWR));
    OK(rename("f", "d/g"));
    SAME(2, write(fd, "DA", 2));
    OK(fchmod(fd, 0611));
    OK(ftruncate(fd, 3));
    holds("d/g", "DAt");
    SAME_MODE(0611, "d/g");
    put("f", "another");
    SAME(1, pwrite(fd, "!", 1, 3));
    holds("f", "another");
    holds("d/g", "DAt!");
    SAME(1, (long long)look_fd(fd).st_nlink);
}

CASE(open_directory)
{
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    put("d/f", "data");
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(rename("d", "e/moved"));
    OK(mkdirat(fd, "new", 0755));
    CHECK(exists("e/moved/new"));
    OK(renameat(fd, "f", fd, "g"));
    holds("e/moved/g", "data");
    OK(fchdir(fd));
    holds("g", "data");
    SAME((long long)look("../moved").st_ino, (long long)look(".").st_ino);
    SAME(2, entries("."));
}

/* An ancestor of the open files and of the working directory moves. */
CASE(ancestor)
{
    OK(mkdir("a", 0755));
    OK(mkdir("a/b", 0755));
    OK(mkdir("a/b/c", 0755));
    OK(mkdir("z", 0755));
    int top = (int)OK(open(".", O_RDONLY | O_DIRECTORY));
    OK(chdir("a/b/c"));
    put("f", "data");
    int fd = (int)OK(open("f", O_RDONLY));
    OK(renameat(top, "a", top, "z/a2"));
    holds("f", "data");
    put("g", "new");
    OK(unlink("f"));
    SAME(0, (long long)look_fd(fd).st_nlink);
    SAME(1, entries("."));
    OK(fchdir(top));
    holds("z/a2/b/c/g", "new");
}

/* Editors save so: a new file over the old one, again and again. */
CASE(replacing)
{
    char text[16];
    put("f", "0");
    for (int i = 1; i <= 20; i++) {
        snprintf(text, sizeof(text), "%d", i);
        put("f.new", text);
        OK(rename("f.new", "f"));
        holds("f", text);
    }
    SAME(1, entries("."));
    SAME(1, (long long)look("f").st_nlink);
}

void suite_rename(void)
{
    static const struct plain_case plain[] = {
        {"full-directory", full_directory},
        {"link-counts", link_counts},
        {"into-itself", into_itself},
        {"dots", dots},
        {"slashes", slashes},
        {"same-file", same_file},
        {"over-linked", over_linked},
        {"symlinks", symlinks},
        {"over-open", over_open},
        {"open-file", open_file},
        {"open-directory", open_directory},
        {"ancestor", ancestor},
        {"replacing", replacing},
    };
    for (enum type type = 0; type < TYPES; type++) {
        const char *name = type_names[type];
        run(new_name, (struct arg){.type = type, .text = "m"}, "rename/new-name/%s", name);
        run(new_name, (struct arg){.type = type, .text = "d/m"}, "rename/new-dir/%s", name);
        run(over_full_directory, (struct arg){.type = type}, "rename/over-dir-with/%s-ENOTEMPTY",
            name);
        for (enum type other = 0; other < TYPES; other++) {
            struct arg arg = {.type = type, .other = other, .text = "m"};
            if (type == DIR_ && other != DIR_)
                arg.error = ENOTDIR;
            if (type != DIR_ && other == DIR_)
                arg.error = EISDIR;
            const char *suffix = arg.error ? strerrorname_np(arg.error) : "replaces";
            run(over, arg, "rename/%s-over-%s/%s", name, type_names[other], suffix);
            arg.text = "d/m";
            run(over, arg, "rename/%s-over-%s/other-dir-%s", name, type_names[other], suffix);
        }
    }
    run_plain("rename", plain, COUNT(plain));
}
