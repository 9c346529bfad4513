/*
 * Looking up names, for every call that takes a path: missing and wrong components, lengths,
 * symlinks on the way, trailing slashes, bad addresses.
 */
#include "posix.h"

#include <sys/mman.h>

static void op_on(const struct arg *a, int error, const char *path)
{
    const struct op *op = a->table;
    EXPECT(error, op->call(path));
}

/* a->text is a path that must be refused with a->error. */
CASE(bad_path)
{
    const struct op *op = a->table;
    if (op->flags & USES_XATTR)
        need_xattrs();
    put("source", "");
    op_on(a, a->error, a->text);
    SAME(1, entries("."));
}

/* A component before the last is a node of a->type, which is no directory. */
CASE(component_not_directory)
{
    put("source", "");
    node(a->type, "n");
    op_on(a, a->error, "n/x");
    op_on(a, a->error, "n/.");
    SAME(2, entries("."));
}

CASE(component_link_to_file)
{
    put("source", "");
    put("f", "");
    OK(symlink("f", "l"));
    op_on(a, ENOTDIR, "l/x");
}

CASE(component_loop)
{
    put("source", "");
    OK(symlink("loop2", "loop1"));
    OK(symlink("loop1", "loop2"));
    op_on(a, ELOOP, "loop1/x");
}

CASE(component_link_to_directory)
{
    OK(mkdir("d", 0777));
    OK(symlink("d", "l"));
    op_prepare(a->table, "d/x");
    op_on(a, 0, "l/x");
}

CASE(dots_on_the_way)
{
    OK(mkdir("d", 0777));
    op_prepare(a->table, "x");
    op_on(a, 0, ".//d/.././x");
}

CASE(final_loop)
{
    OK(symlink("loop", "loop"));
    put("source", "");
    op_on(a, ELOOP, "loop");
}

CASE(final_link_followed)
{
    const struct op *op = a->table;
    op_prepare(op, "x");
    OK(symlink("x", "l"));
    op_on(a, 0, "l");
    CHECK(S_ISLNK(look("l").st_mode));
    SAME(0777, mode_of("l"));
}

CASE(final_link_dangling)
{
    put("source", "");
    OK(symlink("none", "l"));
    op_on(a, ENOENT, "l");
}

CASE(name_of_255)
{
    const char *name = long_name(NAME_MAX, 'n');
    op_prepare(a->table, name);
    op_on(a, 0, name);
}

CASE(name_too_long)
{
    put("source", "");
    op_on(a, ENAMETOOLONG, long_name(NAME_MAX + 1, 'n'));
    char component[NAME_MAX + 4];
    snprintf(component, sizeof(component), "%s/x", long_name(NAME_MAX + 1, 'n'));
    op_on(a, ENAMETOOLONG, component);
}

CASE(path_of_4095)
{
    op_prepare(a->table, "x");
    op_on(a, 0, long_path(PATH_MAX - 1, "x"));
}

CASE(path_too_long)
{
    op_prepare(a->table, "x");
    op_on(a, ENAMETOOLONG, long_path(PATH_MAX, "x"));
}

CASE(bad_address)
{
    void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    const struct op *op = a->table;
    if (op->flags & USES_XATTR)
        need_xattrs();
    put("source", "");
    op_on(a, EFAULT, page);
    OK(munmap(page, 4096));
}

CASE(slash_after_file)
{
    put("source", "");
    put("f", "");
    op_on(a, ENOTDIR, "f/");
}

static void each_op(const struct op *op)
{
    static const enum type no_directories[] = {FILE_, FIFO, SOCK, CHAR, BLOCK};
    struct arg a = {.table = op};
    const char *name = op->name;
    run(bad_path, (struct arg){.table = op, .text = "", .error = ENOENT}, "path/empty/%s", name);
    run(bad_path, (struct arg){.table = op, .text = "none/x", .error = ENOENT},
        "path/component-missing/%s", name);
    if (!(op->flags & MAKES))
        run(bad_path, (struct arg){.table = op, .text = "none", .error = ENOENT}, "path/missing/%s",
            name);
    for (size_t i = 0; i < COUNT(no_directories); i++)
        run(component_not_directory,
            (struct arg){.table = op, .type = no_directories[i], .error = ENOTDIR},
            "path/component-%s/%s", type_names[no_directories[i]], name);
    run(component_not_directory, (struct arg){.table = op, .type = LINK, .error = ENOENT},
        "path/component-dangling/%s", name);
    run(component_link_to_file, a, "path/component-link-to-file/%s", name);
    run(component_loop, a, "path/component-loop/%s", name);
    run(component_link_to_directory, a, "path/component-link-to-dir/%s", name);
    run(dots_on_the_way, a, "path/dots/%s", name);
    run(name_of_255, a, "path/name-255/%s", name);
    run(name_too_long, a, "path/name-256/%s", name);
    run(path_of_4095, a, "path/path-4095/%s", name);
    run(path_too_long, a, "path/path-4096/%s", name);
    run(bad_address, a, "path/bad-address/%s", name);
    if (op->flags & FOLLOWS) {
        run(final_loop, a, "path/final-loop/%s", name);
        if (!(op->flags & MAKES)) {
            run(final_link_followed, a, "path/final-link/%s", name);
            run(final_link_dangling, a, "path/final-link-dangling/%s", name);
        }
    }
    if (!(op->flags & MAKES))
        run(slash_after_file, a, "path/file-slash/%s", name);
}

/* Trailing slashes of calls that make their last component; only mkdir takes one. */
CASE(slash_after_new)
{
    put("f", "");
    OK(mkdir("d", 0777));
    EXPECT(0, mkdir("new/", 0777));
    EXPECT(0, rename("d", "moved/"));
    EXPECT(0, rmdir("moved/"));
    EXPECT(EISDIR, open("none/", O_WRONLY | O_CREAT, 0644));
    EXPECT(ENOENT, mkfifo("none/", 0644));
    EXPECT(ENOENT, symlink("f", "none/"));
    EXPECT(ENOENT, link("f", "none/"));
    EXPECT(ENOTDIR, rename("f", "none/"));
    SAME(2, entries("."));
}

/* A chain of `number` symlinks ending at a file: Linux follows 40 in one lookup. */
CASE(chain)
{
    put("0", "end");
    for (long i = 1; i <= a->number; i++) {
        char from[24], to[24];
        snprintf(from, sizeof(from), "%ld", i);
        snprintf(to, sizeof(to), "%ld", i - 1);
        OK(symlink(to, from));
    }
    char last[24];
    struct stat st;
    snprintf(last, sizeof(last), "%ld", a->number);
    EXPECT(a->error, stat(last, &st));
    EXPECT(a->error, open(last, O_RDONLY));
    OK(lstat(last, &st));
}

CASE(parent_of_directory)
{
    OK(mkdir("d", 0777));
    OK(mkdir("d/e", 0777));
    SAME((long long)look(".").st_ino, (long long)look("d/..").st_ino);
    SAME((long long)look("d").st_ino, (long long)look("d/e/..").st_ino);
    SAME((long long)look("d").st_ino, (long long)look("d/.").st_ino);
    SAME((long long)look(".").st_ino, (long long)look("d/e/../..").st_ino);
}

/* 100 directories inside each other, with names of 40 bytes: a path of 4,100 bytes in steps. */
CASE(deep)
{
    int here = (int)OK(open(".", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < 100; i++) {
        OK(mkdir(long_name(40, 'd'), 0777));
        OK(chdir(long_name(40, 'd')));
    }
    put("f", "deep");
    holds("f", "deep");
    SAME((long long)look("..").st_ino, (long long)look("../.").st_ino);
    OK(fchdir(here));
}

/* The *at calls with a descriptor that is no directory, is closed, or is not looked at. */
CASE(directory_descriptor)
{
    put("f", "");
    OK(mkdir("d", 0777));
    int file = (int)OK(open("f", O_RDONLY));
    int dir = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    EXPECT(ENOTDIR, mkdirat(file, "x", 0777));
    EXPECT(ENOTDIR, unlinkat(file, "x", 0));
    EXPECT(EBADF, mkdirat(9999, "x", 0777));
    OK(mkdirat(dir, "x", 0777));
    OK(symlinkat("x", dir, "l"));
    OK(renameat(dir, "x", AT_FDCWD, "y"));
    OK(unlinkat(dir, "l", 0));
    SAME(0, entries("d"));
    SAME(3, entries("."));
}

void suite_path(void)
{
    static const struct plain_case plain[] = {
        {"slash-after-new", slash_after_new},
        {"parent", parent_of_directory},
        {"deep", deep},
        {"directory-descriptor", directory_descriptor},
    };
    for (size_t i = 0; i < ops_count; i++)
        each_op(&ops[i]);
    run_plain("path", plain, COUNT(plain));
    run(chain, (struct arg){.number = 40}, "path/chain-40");
    run(chain, (struct arg){.number = 41, .error = ELOOP}, "path/chain-41");
}
