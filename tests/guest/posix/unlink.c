/* unlink, and who may remove and rename in directories with the sticky bit. */
#include "posix.h"

CASE(removes)
{
    node(a->type, "n");
    OK(unlink("n"));
    CHECK(!exists("n"));
    EXPECT(ENOENT, unlink("n"));
    SAME(0, entries("."));
    node(a->type, "n");
    SAME(type_bits[a->type], look("n").st_mode & S_IFMT);
}

CASE(directory)
{
    OK(mkdir("d", 0755));
    EXPECT(EISDIR, unlink("d"));
    EXPECT(EISDIR, unlink("d/"));
    EXPECT(EISDIR, unlinkat(AT_FDCWD, "d", 0));
    EXPECT(EISDIR, unlink("."));
    EXPECT(EISDIR, unlink("d/.."));
    EXPECT(EINVAL, unlinkat(AT_FDCWD, "d", 0x4000));
    CHECK(exists("d"));
}

CASE(symlink_to_directory)
{
    OK(mkdir("d", 0755));
    OK(symlink("d", "l"));
    EXPECT(ENOTDIR, unlink("l/"));
    OK(unlink("l"));
    CHECK(exists("d"));
}

/* The mode and owner of a file do not protect its name; those of the directory do. */
CASE(unwritable)
{
    node(a->type, "n");
    OK(chmod("n", 0));
    give("n", ALICE, ALICES);
    as(BOB, BOBS);
    OK(drop(a->type, "n"));
    CHECK(!exists("n"));
}

static int do_remove(enum type type, const char *path)
{
    return drop(type, path);
}

static int do_rename_away(enum type type, const char *path)
{
    (void)type;
    return rename(path, "away");
}

static int do_rename_within(enum type type, const char *path)
{
    (void)type;
    (void)path;
    return rename("d/n", "d/m");
}

static int do_rename_over(enum type type, const char *path)
{
    (void)type;
    return rename("source", path);
}

struct removal {
    const char *name;
    int (*call)(enum type type, const char *path);
};
static const struct removal removals[] = {
    {"remove", do_remove},
    {"rename-away", do_rename_away},
    {"rename-within", do_rename_within},
    {"rename-over", do_rename_over},
};

/*
 * In a sticky directory, an entry goes only at the hand of its owner, the directory's owner or
 * root. a->flags: bit 0, the directory is BOB's; bit 1, the node is; bit 2, the sticky bit is set.
 * a->error, unless 0: what BOB gets.
 */
CASE(sticky)
{
    const struct removal *removal = a->table;
    need_privileges();
    OK(mkdir("d", 0777));
    node(a->type, "d/n");
    give("d/n", a->flags & 2 ? BOB : CAROL, a->flags & 2 ? BOBS : CAROLS);
    give("d", a->flags & 1 ? BOB : ALICE, a->flags & 1 ? BOBS : ALICES);
    OK(chmod("d", a->flags & 4 ? 01777 : 0777));
    node(a->type, "source");
    give("source", BOB, BOBS);
    as(BOB, BOBS);
    struct stat old = look("d/n");
    /* A directory's ".." changes when it moves, which needs the right to write in it. */
    int error = a->error;
    bool moves = removal->call == do_rename_away && a->type == DIR_;
    if (!error && moves && !(a->flags & 2))
        error = EACCES;
    EXPECT(error, removal->call(a->type, "d/n"));
    if (error)
        SAME((long long)old.st_ino, (long long)look("d/n").st_ino);
    else
        CHECK(!exists("d/n") || look("d/n").st_ino != old.st_ino);
}

CASE(sticky_root)
{
    const struct removal *removal = a->table;
    OK(mkdir("d", 0777));
    node(a->type, "d/n");
    node(a->type, "source");
    give("d/n", BOB, BOBS);
    give("d", ALICE, ALICES);
    OK(chmod("d", 01777));
    OK(removal->call(a->type, "d/n"));
}

/* The sticky bit forbids removal only: making, linking and writing go on. */
CASE(sticky_others)
{
    need_privileges();
    OK(mkdir("d", 0777));
    give("d", ALICE, ALICES);
    OK(chmod("d", 01777));
    as(BOB, BOBS);
    put("d/f", "1");
    OK(mkdir("d/e", 0755));
    OK(link("d/f", "d/g"));
    OK(symlink("f", "d/l"));
    as(CAROL, CAROLS);
    EITHER(EPERM, EACCES, unlink("d/f"));
    EITHER(EPERM, EACCES, rmdir("d/e"));
    EITHER(EPERM, EACCES, unlink("d/l"));
    OK(mkdir("d/mine", 0755));
    OK(rmdir("d/mine"));
    as(ALICE, ALICES);
    OK(rename("d/f", "d/renamed"));
    as(BOB, BOBS);
    OK(unlink("d/g"));
    OK(unlink("d/renamed"));
}

/* A rename must satisfy the rule in both directories. */
CASE(sticky_both_ends)
{
    need_privileges();
    OK(mkdir("d", 0777));
    OK(mkdir("e", 0777));
    put("d/bobs", "");
    put("e/carols", "");
    give("d/bobs", BOB, BOBS);
    give("e/carols", CAROL, CAROLS);
    give("d", ALICE, ALICES);
    give("e", ALICE, ALICES);
    OK(chmod("d", 01777));
    OK(chmod("e", 01777));
    as(BOB, BOBS);
    EXPECT(EPERM, rename("d/bobs", "e/carols"));
    EXPECT(EPERM, rename("e/carols", "d/bobs"));
    OK(rename("d/bobs", "e/new"));
    SAME(BOB, look("e/new").st_uid);
    SAME(0, entries("d"));
}

void suite_unlink(void)
{
    static const struct plain_case plain[] = {
        {"directory-EISDIR", directory},
        {"symlink-to-directory", symlink_to_directory},
    };
    for (enum type type = 0; type < TYPES; type++) {
        struct arg arg = {.type = type};
        if (type != LINK)
            run(unwritable, arg, "unlink/unwritable/%s", type_names[type]);
        if (type == DIR_)
            continue;
        run(removes, arg, "unlink/removes/%s", type_names[type]);
    }
    run_plain("unlink", plain, COUNT(plain));
}

void suite_sticky(void)
{
    static const struct plain_case plain[] = {
        {"others", sticky_others},
        {"both-ends", sticky_both_ends},
    };
    for (size_t r = 0; r < COUNT(removals); r++)
        for (enum type type = 0; type < TYPES; type++) {
            struct arg arg = {.type = type, .table = &removals[r]};
            for (arg.flags = 0; arg.flags < 8; arg.flags++) {
                arg.error = arg.flags == 4 ? EPERM : 0;
                run(sticky, arg, "sticky/%s/%s/%s-dir/%s-node/%s", removals[r].name,
                    type_names[type], arg.flags & 1 ? "own" : "other",
                    arg.flags & 2 ? "own" : "other",
                    arg.error       ? "sticky-EPERM"
                    : arg.flags & 4 ? "sticky"
                                    : "plain");
            }
            arg.flags = 0;
            run(sticky_root, arg, "sticky/%s/%s/root", removals[r].name, type_names[type]);
        }
    run_plain("sticky", plain, COUNT(plain));
}
