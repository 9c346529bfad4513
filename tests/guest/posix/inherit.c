/* Whose is what a user makes: set-group-id directories, supplementary groups, effective ids. */
#include "posix.h"

/* A directory of ALICE and TEAM that everybody may write. */
static void team_directory(mode_t mode)
{
    need_privileges();
    OK(mkdir("d", 0777));
    give("d", ALICE, TEAM);
    OK(chmod("d", mode));
}

static void made_by(const char *path, uid_t uid, gid_t gid)
{
    struct stat st = look(path);
    SAME(uid, st.st_uid);
    SAME(gid, st.st_gid);
}

/* With the bit, the directory's group is inherited, and by directories the bit too. */
CASE(from_setgid_directory)
{
    team_directory(a->mode);
    bool setgid = a->mode & 02000;
    if (a->type != CHAR && a->type != BLOCK)
        as(BOB, BOBS);
    else
        as_effective(0, BOBS);
    uid_t uid = geteuid();
    node(a->type, "d/n");
    made_by("d/n", uid, setgid ? TEAM : BOBS);
    if (a->type != DIR_)
        return;
    SAME_MODE(setgid ? 02755 : 0755, "d/n");
    node(DIR_, "d/n/below");
    made_by("d/n/below", uid, setgid ? TEAM : BOBS);
    SAME_MODE(setgid ? 02755 : 0755, "d/n/below");
    put("d/n/below/f", "");
    made_by("d/n/below/f", uid, setgid ? TEAM : BOBS);
}

/* Through the group that gives the right to write: the owner is BOB, the group his first. */
CASE(through_group)
{
    team_directory(a->mode);
    as(BOB, BOBS);
    EXPECT(EACCES, mkdir("d/x", 0755));
    as_member(BOB, BOBS, TEAM);
    node(a->type, "d/n");
    made_by("d/n", BOB, a->mode & 02000 ? TEAM : BOBS);
    if (a->type == FILE_) {
        int fd = (int)OK(open("d/n", O_RDWR));
        SAME(4, write(fd, "data", 4));
        holds("d/n", "data");
    }
    OK(rename("d/n", "d/m"));
    OK(drop(a->type, "d/m"));
    SAME(0, entries("d"));
}

/* A set-group-id program can only be made by a member of the group that it gets. */
CASE(setgid_file)
{
    team_directory(02777);
    as(BOB, BOBS);
    OK(close((int)OK(open("d/f", O_CREAT | O_WRONLY, 02755))));
    made_by("d/f", BOB, TEAM);
    SAME_MODE(0755, "d/f");
    OK(mknod("d/g", S_IFREG | 02755, 0));
    SAME_MODE(0755, "d/g");
    as_member(BOB, BOBS, TEAM);
    OK(close((int)OK(open("d/h", O_CREAT | O_WRONLY, 02755))));
    made_by("d/h", BOB, TEAM);
    SAME_MODE(02755, "d/h");
    as_self();
    OK(close((int)OK(open("d/i", O_CREAT | O_WRONLY, 02755))));
    made_by("d/i", 0, TEAM);
    SAME_MODE(02755, "d/i");
}

CASE(moved_and_linked)
{
    team_directory(02777);
    as(BOB, BOBS);
    put("f", "");
    OK(mkdir("e", 0755));
    OK(rename("f", "d/f"));
    OK(rename("e", "d/e"));
    made_by("d/f", BOB, BOBS);
    made_by("d/e", BOB, BOBS);
    SAME_MODE(0755, "d/e");
    put("g", "");
    OK(link("g", "d/g"));
    made_by("d/g", BOB, BOBS);
    put("d/e/f", "");
    made_by("d/e/f", BOB, BOBS);
}

/* The bit without the group's right to execute still inherits. */
CASE(unsearchable_group)
{
    team_directory(02707);
    as(BOB, BOBS);
    put("d/f", "");
    made_by("d/f", BOB, TEAM);
}

/* Two users by turns in one directory: each one's files are its own. */
CASE(users_by_turns)
{
    static const uid_t users[] = {ALICE, BOB, CAROL, 0};
    static const gid_t groups[] = {ALICES, BOBS, CAROLS, 0};
    need_privileges();
    OK(mkdir("d", 0777));
    char name[32];
    for (int i = 0; i < 24; i++) {
        as(users[i % 4], groups[(i / 4) % 4]);
        snprintf(name, sizeof(name), "d/%d", i);
        node((enum type)(i % 3), name);
        made_by(name, users[i % 4], groups[(i / 4) % 4]);
    }
    as_self();
    for (int i = 0; i < 24; i++) {
        snprintf(name, sizeof(name), "d/%d", i);
        made_by(name, users[i % 4], groups[(i / 4) % 4]);
    }
}

/* One user with changing groups: the group of the call counts, not that of the first one. */
CASE(changing_group)
{
    static const gid_t groups[] = {ALICES, TEAM, FOREIGN, ALICES};
    need_privileges();
    OK(mkdir("d", 0777));
    for (int i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof(name), "d/%d", i);
        as(ALICE, groups[i]);
        node(a->type, name);
        made_by(name, ALICE, groups[i]);
    }
}

/* Whether root's or a user's, a file made over the same open directory has its maker's ids. */
CASE(through_open_directory)
{
    need_privileges();
    OK(mkdir("d", 0777));
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    as(ALICE, ALICES);
    OK(close((int)OK(openat(fd, "a", O_CREAT | O_WRONLY, 0600))));
    OK(mkdirat(fd, "b", 0700));
    as(BOB, BOBS);
    OK(symlinkat("x", fd, "c"));
    OK(mknodat(fd, "e", S_IFIFO | 0600, 0));
    as_self();
    put("d/r", "");
    made_by("d/a", ALICE, ALICES);
    made_by("d/b", ALICE, ALICES);
    made_by("d/c", BOB, BOBS);
    made_by("d/e", BOB, BOBS);
    made_by("d/r", 0, 0);
}

/* In a private directory below a private directory. */
CASE(private_directories)
{
    as(ALICE, ALICES);
    umask(077);
    OK(mkdir("d", 0777));
    OK(mkdir("d/e", 0777));
    put("d/e/f", "data");
    SAME_MODE(0600, "d/e/f");
    SAME_MODE(0700, "d/e");
    holds("d/e/f", "data");
    as(BOB, BOBS);
    EXPECT(EACCES, open("d/e/f", O_RDONLY));
    EXPECT(EACCES, open("d", O_RDONLY));
    as(ALICE, ALICES);
    OK(rename("d/e/f", "d/f"));
    OK(rmdir("d/e"));
}

void suite_inherit(void)
{
    static const mode_t modes[] = {0777, 02777, 03777};
    static const enum type user_types[] = {FILE_, DIR_, FIFO, SOCK, LINK};
    static const struct plain_case plain[] = {
        {"setgid-file", setgid_file},
        {"moved-and-linked", moved_and_linked},
        {"unsearchable-group", unsearchable_group},
        {"users-by-turns", users_by_turns},
        {"through-open-directory", through_open_directory},
        {"private-directories", private_directories},
    };
    for (enum type type = 0; type < TYPES; type++)
        for (size_t m = 0; m < COUNT(modes); m++)
            run(from_setgid_directory, (struct arg){.type = type, .mode = modes[m]},
                "inherit/%04o/%s", modes[m], type_names[type]);
    for (size_t t = 0; t < COUNT(user_types); t++) {
        enum type type = user_types[t];
        run(through_group, (struct arg){.type = type, .mode = 0770}, "inherit/through-group/%s",
            type_names[type]);
        run(through_group, (struct arg){.type = type, .mode = 02770},
            "inherit/through-group-setgid/%s", type_names[type]);
        run(changing_group, (struct arg){.type = type}, "inherit/changing-group/%s",
            type_names[type]);
    }
    run_plain("inherit", plain, COUNT(plain));
}
