/* chmod: every bit on every type, who may, and when set-user-id and set-group-id go by themselves.
 */
#include "posix.h"

#include <sys/uio.h>

CASE(sets)
{
    node(a->type, "n");
    struct stat old = look("n");
    OK(chmod("n", a->mode));
    SAME_MODE(a->mode, "n");
    SAME(type_bits[a->type], look("n").st_mode & S_IFMT);
    SAME(old.st_size, look("n").st_size);
    OK(chmod("n", 0600));
    SAME_MODE(0600, "n");
}

CASE(owner_sets)
{
    node(a->type, "n");
    give("n", ALICE, ALICES);
    as(ALICE, ALICES);
    OK(chmod("n", a->mode));
    SAME_MODE(a->mode, "n");
}

/* Neither the group's members nor others nor who may write the file. */
CASE(others_refused)
{
    node(a->type, "n");
    give("n", ALICE, TEAM);
    OK(chmod("n", 0777));
    as(BOB, BOBS);
    EXPECT(EPERM, chmod("n", 0700));
    as_member(BOB, BOBS, TEAM);
    EXPECT(EPERM, chmod("n", 0700));
    as(BOB, TEAM);
    EXPECT(EPERM, chmod("n", 0777));
    SAME_MODE(0777, "n");
}

CASE(through_descriptor)
{
    put("f", "");
    int fd = (int)OK(open("f", a->flags));
    OK(fchmod(fd, 0));
    SAME_MODE(0, "f");
    SAME(0, look_fd(fd).st_mode & 07777);
    OK(fchmod(fd, 06711));
    SAME_MODE(06711, "f");
    EXPECT(EBADF, fchmod(9999, 0600));
}

CASE(through_descriptor_others)
{
    need_privileges();
    put("f", "");
    give("f", ALICE, ALICES);
    int fd = (int)OK(open("f", O_RDWR));
    as(BOB, BOBS);
    EXPECT(EPERM, fchmod(fd, 0666));
    as(ALICE, ALICES);
    OK(fchmod(fd, 0666));
    SAME_MODE(0666, "f");
}

CASE(through_symlink)
{
    node(a->type, "n");
    OK(symlink("n", "l"));
    OK(chmod("l", 0701));
    SAME_MODE(0701, "n");
    SAME_MODE(0777, "l");
}

CASE(directory_descriptor)
{
    OK(mkdir("d", 0755));
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(fchmod(fd, 01731));
    SAME_MODE(01731, "d");
    put("d/f", "");
    OK(fchmodat(fd, "f", 0604, 0));
    SAME_MODE(0604, "d/f");
}

/* set-group-id needs membership in the file's group; without it the bit is dropped silently. */
CASE(setgid_membership)
{
    node(a->type, "n");
    give("n", ALICE, TEAM);
    as(ALICE, ALICES);
    OK(chmod("n", 02755));
    SAME_MODE(0755, "n");
    as_member(ALICE, ALICES, TEAM);
    OK(chmod("n", 02755));
    SAME_MODE(02755, "n");
    as(ALICE, TEAM);
    OK(chmod("n", 02711));
    SAME_MODE(02711, "n");
    as(ALICE, ALICES);
    OK(chmod("n", 06777));
    SAME_MODE(04777, "n");
}

/* The calls by which file contents change. */
static void change_write(int fd)
{
    OK(write(fd, "x", 1));
}

static void change_pwrite(int fd)
{
    OK(pwrite(fd, "x", 1, 100));
}

static void change_writev(int fd)
{
    OK(writev(fd, &(struct iovec){"x", 1}, 1));
}

static void change_ftruncate(int fd)
{
    OK(ftruncate(fd, 1));
}

static void change_truncate(int fd)
{
    (void)fd;
    OK(truncate("f", 20));
}

static void change_open(int fd)
{
    (void)fd;
    OK(open("f", O_WRONLY | O_TRUNC));
}

struct change {
    const char *name;
    void (*call)(int fd);
};
static const struct change changes[] = {
    {"write", change_write},         {"pwrite", change_pwrite},     {"writev", change_writev},
    {"ftruncate", change_ftruncate}, {"truncate", change_truncate}, {"open-truncate", change_open},
};

/* Writing clears set-user-id, and set-group-id where the group may execute, but not for root. */
CASE(cleared_by_change)
{
    const struct change *change = a->table;
    need_privileges();
    put("f", "contents");
    if (a->number)
        give("f", ALICE, ALICES);
    OK(chmod("f", a->mode));
    if (a->number)
        as((uid_t)a->number, BOBS);
    int fd = (int)OK(open("f", O_RDWR));
    SAME_MODE(a->mode, "f");
    change->call(fd);
    SAME_MODE(a->number ? a->mode & 01777 : a->mode, "f");
}

CASE(kept_without_change)
{
    need_privileges();
    put("f", "contents");
    give("f", ALICE, ALICES);
    OK(chmod("f", 06777));
    as(BOB, BOBS);
    char got[4];
    int fd = (int)OK(open("f", O_RDWR));
    SAME(4, read(fd, got, 4));
    SAME(0, write(fd, got, 0));
    OK(utimensat(AT_FDCWD, "f", NULL, 0));
    OK(rename("f", "g"));
    SAME_MODE(06777, "g");
}

CASE(sticky_on_file)
{
    put("f", "");
    give("f", ALICE, ALICES);
    as(ALICE, ALICES);
    OK(chmod("f", 01644));
    SAME_MODE(01644, "f");
}

/* Bits beyond the twelve are not taken for the type. */
CASE(type_bits_ignored)
{
    put("f", "");
    OK(chmod("f", S_IFDIR | 0700));
    CHECK(S_ISREG(look("f").st_mode));
    SAME_MODE(0700, "f");
}

static void change_cases(void)
{
    static const struct {
        const char *name;
        uid_t uid;
    } writers[] = {{"root", 0}, {"owner", ALICE}, {"other", BOB}};
    static const mode_t modes[] = {04777, 02777, 06777, 06776 | 010, 05777};
    for (size_t c = 0; c < COUNT(changes); c++)
        for (size_t w = 0; w < COUNT(writers); w++)
            for (size_t m = 0; m < COUNT(modes); m++)
                run(cleared_by_change,
                    (struct arg){
                        .table = &changes[c], .number = (long)writers[w].uid, .mode = modes[m]},
                    "chmod/by-%s/%s/%04o", changes[c].name, writers[w].name, modes[m]);
}

void suite_chmod(void)
{
    static const mode_t modes[] = {0,    01,   02,    04,    010,   020,   040,   0100,
                                   0200, 0400, 01000, 02000, 04000, 0111,  0222,  0444,
                                   0644, 0755, 0777,  0751,  01777, 02755, 04755, 07777};
    static const mode_t owner_modes[] = {0, 0600, 0755, 01777, 04711, 0444};
    static const struct plain_case plain[] = {
        {"descriptor-of-others", through_descriptor_others},
        {"directory-descriptor", directory_descriptor},
        {"kept-without-change", kept_without_change},
        {"sticky-on-file", sticky_on_file},
        {"type-bits-ignored", type_bits_ignored},
    };
    for (enum type type = 0; type < LINK; type++) {
        const char *name = type_names[type];
        struct arg arg = {.type = type};
        run(others_refused, arg, "chmod/others-EPERM/%s", name);
        run(through_symlink, arg, "chmod/through-symlink/%s", name);
        run(setgid_membership, arg, "chmod/setgid-membership/%s", name);
        for (size_t m = 0; m < COUNT(modes); m++)
            run(sets, (struct arg){.type = type, .mode = modes[m]}, "chmod/sets/%s/%04o", name,
                modes[m]);
        for (size_t m = 0; m < COUNT(owner_modes); m++)
            run(owner_sets, (struct arg){.type = type, .mode = owner_modes[m]},
                "chmod/owner/%s/%04o", name, owner_modes[m]);
    }
    run(through_descriptor, (struct arg){.flags = O_RDONLY}, "chmod/descriptor/rdonly");
    run(through_descriptor, (struct arg){.flags = O_WRONLY}, "chmod/descriptor/wronly");
    run(through_descriptor, (struct arg){.flags = O_RDWR}, "chmod/descriptor/rdwr");
    change_cases();
    run_plain("chmod", plain, COUNT(plain));
}
