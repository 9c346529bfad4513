/* rename: the rights that it needs, and other file systems. */
#include "posix.h"

/*
 * Both directories must be writable and searchable.
 * a->mode and a->number: the permissions of others in the old and the new directory.
 */
CASE(directory_rights)
{
    mode_t from = a->mode, to = (mode_t)a->number;
    need_privileges();
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    node(a->type, "d/n");
    give("d/n", BOB, BOBS);
    OK(chmod("d", 0700 | from));
    OK(chmod("e", 0700 | to));
    as(BOB, BOBS);
    bool allowed = (from & 3) == 3 && (to & 3) == 3;
    EXPECT(allowed ? 0 : EACCES, rename("d/n", "e/n"));
    as_self();
    CHECK(exists(allowed ? "e/n" : "d/n"));
    CHECK(!exists(allowed ? "d/n" : "e/n"));
}

/* Moving a directory elsewhere rewrites its "..": it must be writable; renaming does not. */
CASE(move_directory)
{
    need_privileges();
    OK(mkdir("e", 0777));
    OK(mkdir("n", 0777));
    give("n", a->flags ? BOB : ALICE, a->flags ? BOBS : ALICES);
    OK(chmod("n", a->mode));
    as(BOB, BOBS);
    EXPECT(a->error, rename("n", "e/n"));
    CHECK(exists(a->error ? "n" : "e/n"));
    if (a->error)
        OK(rename("n", "m"));
}

CASE(owner_unchanged)
{
    node(a->type, "n");
    give("n", ALICE, ALICES);
    as(BOB, BOBS);
    node(FILE_, "other");
    OK(rename("n", "m"));
    SAME(ALICE, look("m").st_uid);
    SAME(ALICES, look("m").st_gid);
}

CASE(other_file_system)
{
    put("f", "");
    EXPECT(EXDEV, rename("f", "/proc/none"));
    EXPECT(EXDEV, rename("/proc/version", "f"));
    EXPECT(ENOENT, rename("none", "f"));
    CHECK(exists("f"));
}

/* A denied rename over a file keeps both. */
CASE(denied_keeps)
{
    need_privileges();
    OK(mkdir("d", 0777));
    put("d/f", "kept");
    OK(chmod("d", 0755));
    put("f", "mine");
    give("f", BOB, BOBS);
    as(BOB, BOBS);
    EXPECT(EACCES, rename("f", "d/f"));
    EXPECT(EACCES, rename("d/f", "f"));
    holds("f", "mine");
    holds("d/f", "kept");
}

/* The rights in the file itself play no part. */
CASE(unreadable_file)
{
    node(a->type, "n");
    OK(chmod("n", 0));
    give("n", ALICE, ALICES);
    as(BOB, BOBS);
    OK(rename("n", "m"));
    CHECK(exists("m"));
}

CASE(group_right)
{
    need_privileges();
    OK(mkdir("d", 0777));
    OK(mkdir("e", 0777));
    give("d", ALICE, TEAM);
    give("e", ALICE, TEAM);
    OK(chmod("d", 0770));
    OK(chmod("e", 0770));
    as_member(BOB, BOBS, TEAM);
    put("d/f", "data");
    OK(rename("d/f", "e/f"));
    holds("e/f", "data");
    as(BOB, BOBS);
    EXPECT(EACCES, rename("e/f", "d/f"));
}

void suite_rename_rules(void)
{
    static const mode_t rights[] = {0, 1, 2, 3, 5, 7};
    static const enum type movers[] = {FILE_, DIR_, LINK};
    static const struct plain_case plain[] = {
        {"other-file-system-EXDEV", other_file_system},
        {"denied-keeps", denied_keeps},
        {"group-right", group_right},
    };
    for (size_t t = 0; t < COUNT(movers); t++)
        for (size_t from = 0; from < COUNT(rights); from++)
            for (size_t to = 0; to < COUNT(rights); to++)
                run(directory_rights,
                    (struct arg){.type = movers[t], .mode = rights[from], .number = rights[to]},
                    "rename-rules/rights/%s/%o-%o", type_names[movers[t]], rights[from],
                    rights[to]);
    run(move_directory, (struct arg){.flags = 1, .mode = 0755}, "rename-rules/move-dir/own");
    run(move_directory, (struct arg){.flags = 1, .mode = 0555, .error = EACCES},
        "rename-rules/move-dir/own-unwritable-EACCES");
    run(move_directory, (struct arg){.mode = 0777}, "rename-rules/move-dir/other-writable");
    run(move_directory, (struct arg){.mode = 0755, .error = EACCES},
        "rename-rules/move-dir/other-EACCES");
    for (enum type type = 0; type < TYPES; type++) {
        run(owner_unchanged, (struct arg){.type = type}, "rename-rules/owner-unchanged/%s",
            type_names[type]);
        if (type != LINK)
            run(unreadable_file, (struct arg){.type = type}, "rename-rules/unreadable/%s",
                type_names[type]);
    }
    run_plain("rename-rules", plain, COUNT(plain));
}
