/* chown, lchown, fchown: which changes root, the owner and others may make; bits that go. */
#include "posix.h"

#define KEEP ((unsigned)-1)

static void owned_by(const char *path, uid_t uid, gid_t gid)
{
    struct stat st = look(path);
    SAME(uid, st.st_uid);
    SAME(gid, st.st_gid);
}

struct ids {
    const char *name;
    uid_t uid;
    gid_t gid;
};

/* a->table: what root sets on a node of ALICE. */
CASE(by_root)
{
    const struct ids *ids = a->table;
    node(a->type, "n");
    give("n", ALICE, ALICES);
    OK(lchown("n", ids->uid, ids->gid));
    owned_by("n", ids->uid == KEEP ? ALICE : ids->uid, ids->gid == KEEP ? ALICES : ids->gid);
    SAME(type_bits[a->type], look("n").st_mode & S_IFMT);
}

/* ALICE, in ALICES and TEAM, on her own node. */
CASE(by_owner)
{
    const struct ids *ids = a->table;
    node(a->type, "n");
    give("n", ALICE, ALICES);
    as_member(ALICE, ALICES, TEAM);
    EXPECT(a->error, lchown("n", ids->uid, ids->gid));
    owned_by("n", ALICE, a->error || ids->gid == KEEP ? ALICES : ids->gid);
}

/* BOB, who is even in the node's group and may write it. */
CASE(by_other)
{
    const struct ids *ids = a->table;
    node(a->type, "n");
    if (a->type != LINK)
        OK(chmod("n", 0777));
    give("n", ALICE, TEAM);
    as_member(BOB, BOBS, TEAM);
    EXPECT(EPERM, lchown("n", ids->uid, ids->gid));
    owned_by("n", ALICE, TEAM);
}

CASE(through_symlink)
{
    need_privileges();
    node(a->type, "n");
    OK(symlink("n", "l"));
    OK(chown("l", ALICE, ALICES));
    owned_by("n", ALICE, ALICES);
    owned_by("l", geteuid(), getegid());
    OK(lchown("l", BOB, BOBS));
    owned_by("l", BOB, BOBS);
    owned_by("n", ALICE, ALICES);
}

CASE(through_descriptor)
{
    need_privileges();
    put("f", "");
    int fd = (int)OK(open("f", O_RDONLY));
    OK(fchown(fd, ALICE, ALICES));
    owned_by("f", ALICE, ALICES);
    SAME(ALICE, look_fd(fd).st_uid);
    int path = (int)OK(open("f", O_PATH));
    EXPECT(EBADF, fchown(path, BOB, BOBS));
    OK(fchownat(path, "", BOB, KEEP, AT_EMPTY_PATH));
    owned_by("f", BOB, ALICES);
    as(ALICE, ALICES);
    EXPECT(EPERM, fchown(fd, ALICE, ALICES));
    as(BOB, BOBS);
    OK(fchown(fd, KEEP, BOBS));
    owned_by("f", BOB, BOBS);
}

CASE(through_directory)
{
    need_privileges();
    OK(mkdir("d", 0755));
    put("d/f", "");
    int fd = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(fchown(fd, ALICE, ALICES));
    OK(fchownat(fd, "f", BOB, BOBS, AT_SYMLINK_NOFOLLOW));
    owned_by("d", ALICE, ALICES);
    owned_by("d/f", BOB, BOBS);
}

/* Linux clears both bits on any change of owner of a file, by root too; directories keep them. */
CASE(clears_bits)
{
    const struct ids *ids = a->table;
    node(a->type, "n");
    give("n", ALICE, ALICES);
    OK(chmod("n", a->mode));
    if (a->number)
        as_member(ALICE, ALICES, TEAM);
    OK(chown("n", a->number ? KEEP : ids->uid, ids->gid));
    SAME_MODE(a->type == DIR_ ? a->mode : a->mode & 01777, "n");
}

/* No id at all: success, even for who may change nothing. */
CASE(nothing)
{
    node(a->type, "n");
    give("n", ALICE, ALICES);
    OK(lchown("n", KEEP, KEEP));
    as(BOB, BOBS);
    OK(lchown("n", KEEP, KEEP));
    owned_by("n", ALICE, ALICES);
}

/* The new owner has the owner's rights, the old one no longer. */
CASE(rights_move)
{
    put("f", "data");
    give("f", ALICE, ALICES);
    OK(chmod("f", 0600));
    as(BOB, BOBS);
    EXPECT(EACCES, open("f", O_RDONLY));
    as_self();
    give("f", BOB, BOBS);
    as(ALICE, ALICES);
    EXPECT(EACCES, open("f", O_RDONLY));
    EXPECT(EPERM, chmod("f", 0644));
    as(BOB, BOBS);
    holds("f", "data");
    OK(chmod("f", 0640));
    as_member(CAROL, CAROLS, BOBS);
    holds("f", "data");
}

static const struct ids root_sets[] = {
    {"both", BOB, BOBS},
    {"user", BOB, KEEP},
    {"group", KEEP, BOBS},
    {"zero", 0, 0},
    {"65535", 65535, 65535},
    {"65536", 65536, 65536},
    {"2-to-31", 1U << 31, 1U << 31},
    {"largest", KEEP - 1, KEEP - 1},
};
static const struct {
    struct ids ids;
    int error;
} owner_sets[] = {
    {{"own-group", KEEP, ALICES}, 0},
    {{"other-group-of-hers", KEEP, TEAM}, 0},
    {{"same-user", ALICE, KEEP}, 0},
    {{"same-user-team", ALICE, TEAM}, 0},
    {{"foreign-group", KEEP, FOREIGN}, EPERM},
    {{"group-0", KEEP, 0}, EPERM},
    {{"give-away", BOB, KEEP}, EPERM},
    {{"give-away-team", BOB, TEAM}, EPERM},
    {{"to-root", 0, KEEP}, EPERM},
};
static const struct ids other_sets[] = {{"take", BOB, KEEP},
                                        {"take-group", KEEP, BOBS},
                                        {"same", ALICE, TEAM},
                                        {"same-group", KEEP, TEAM}};

void suite_chown(void)
{
    static const mode_t modes[] = {04777, 02777, 06777, 06555, 07711};
    static const struct plain_case plain[] = {
        {"through-descriptor", through_descriptor},
        {"through-directory", through_directory},
        {"rights-move", rights_move},
    };
    for (enum type type = 0; type < TYPES; type++) {
        const char *name = type_names[type];
        for (size_t i = 0; i < COUNT(root_sets); i++)
            run(by_root, (struct arg){.type = type, .table = &root_sets[i]}, "chown/root/%s/%s",
                name, root_sets[i].name);
        for (size_t i = 0; i < COUNT(owner_sets); i++)
            run(by_owner,
                (struct arg){
                    .type = type, .table = &owner_sets[i].ids, .error = owner_sets[i].error},
                "chown/owner/%s/%s", name, owner_sets[i].ids.name);
        for (size_t i = 0; i < COUNT(other_sets); i++)
            run(by_other, (struct arg){.type = type, .table = &other_sets[i]},
                "chown/other-EPERM/%s/%s", name, other_sets[i].name);
        run(nothing, (struct arg){.type = type}, "chown/nothing/%s", name);
        if (type == LINK)
            continue;
        run(through_symlink, (struct arg){.type = type}, "chown/through-symlink/%s", name);
        for (size_t m = 0; m < COUNT(modes); m++)
            for (int owner = 0; owner < 2; owner++)
                run(clears_bits,
                    (struct arg){.type = type,
                                 .mode = modes[m],
                                 .number = owner,
                                 .table = &(struct ids){"", BOB, owner ? TEAM : BOBS}},
                    "chown/bits/%s/%s/%04o", name, owner ? "owner" : "root", modes[m]);
    }
    run_plain("chown", plain, COUNT(plain));
}
