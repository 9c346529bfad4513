// sources: fid/deferred.c fid/dentry.c fid/enter.c fid/evict.c fid/fid.c fid/fid_names.c
// fid/fid_table.c fid/inode.c fid/lost_writes.c fid/recipe.c fid/lost.c fid/recipe_store.c
// fid/recover.c fid/renames.c fid/restore.c fid/sweeper.c fid/xattr_value.c fs/ mapped/ export/
// quota/ base/
/*
 * Recovery of a fid table whose process died at any instruction (fid/dying_table.h).
 */
#define _GNU_SOURCE
#include "fid/dying_table.h"

/* ---- one change each ------------------------------------------------------------------------- */

static void enter_one(void)
{
    enter(7, "d/e/f", -1, NULL);
}

TEST(a_fid_is_entered_or_not)
{
    CHECK(half_done(enter_one) == 0);
}

static void enter_instead(void)
{
    enter(1, "a", -1, v9_fids_of(fids, 1));
}

TEST(a_number_stands_for_the_old_file_or_the_new_one)
{
    CHECK(half_done(enter_instead) == 0);
}

static void open_it(void)
{
    struct v9_fid *fid = pin(900);
    v9_fids_open(fids, fid, v9_export_open(export, v9_fids_inode(fids, fid)->path_fd, O_RDWR),
                 O_RDWR);
    v9_fids_unpin(fids, fid);
}

TEST(a_fid_is_open_or_not)
{
    CHECK(half_done(open_it) == 0);
}

static void clunk(void)
{
    v9_fids_remove(fids, 2);
}

TEST(a_fid_is_removed_or_not)
{
    CHECK(half_done(clunk) == 0);
}

static void clone_it(void)
{
    struct v9_fid *fid = pin(1);
    v9_fids_clone(fids, fid, 901, true);
    v9_fids_unpin(fids, fid);
}

TEST(a_fid_is_cloned_or_not)
{
    CHECK(half_done(clone_it) == 0);
}

/* d/e/f/y becomes d/e/f/new name; the directories above get dentries of their own before. */
static void rename_it(void)
{
    struct v9_fid *fid = pin(900);
    v9_fids_name_renamed(fids, fid, "", NULL, "a name with more room than it had before", false);
    v9_fids_unpin(fids, fid);
}

TEST(a_name_is_changed_or_not)
{
    CHECK(half_done(rename_it) == 0);
}

static void lose_it(void)
{
    struct v9_fid *fid = pin(1);
    v9_fids_name_removed(fids, fid, "x");
    v9_fids_unpin(fids, fid);
}

TEST(a_name_is_gone_or_not)
{
    CHECK(half_done(lose_it) == 0);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void announce(void)
{
    struct v9_fid *fid = pin(1);
    v9_fids_set_value(fids, fid, v9_xattr_value_announce(&fids->values, "user.a", 8, 0));
    v9_fids_unpin(fids, fid);
}

static void append(void)
{
    v9_xattr_value_append(v9_fids_of(fids, 1)->value, 0, "1234", 4);
}

static void drop_value(void)
{
    v9_fids_remove_handle(fids, v9_fids_handle(fids, v9_fids_of(fids, 1)));
}

TEST(a_value_is_announced_or_not)
{
    CHECK(half_done(announce) == 0);
}

TEST(a_piece_of_a_value_is_written_or_not)
{
    announce();
    CHECK(half_done(append) == 0);
}

TEST(a_value_goes_with_its_fid)
{
    announce();
    CHECK(half_done(drop_value) == 0);
}

/* ---- what the guest does not see ------------------------------------------------------------- */

/* How often something is not as it was. */
static unsigned seen(void (*work)(void))
{
    char *before = shared_text();

    find_parts();
    CHECK(recovers(NULL, before));
    return deaths(work, before, before, AGAIN);
}

static void restore_one(void)
{
    v9_fids_unpin(fids, pin(2));
}

TEST(nobody_sees_what_is_evicted)
{
    CHECK(seen(evict_all) == 0);
    evict_all();
    CHECK(fids->inodes.recipes.count > 0);
}

TEST(nobody_sees_what_is_restored)
{
    evict_all();
    CHECK(fids->inodes.recipes.count > 0);
    CHECK(seen(restore_one) == 0);
}

static void renew(void)
{
    struct v9_inodes *inodes = &fids->inodes;

    for (uint32_t index = 1; index <= inodes->used; index++)
        if (v9_inode_at(inodes, index)->path_fd < 0)
            v9_recipes_renew(&inodes->recipes, &v9_inode_at(inodes, index)->recipe, 0);
    v9_recipes_clear_journal(&inodes->recipes);
}

TEST(nobody_sees_a_renewed_recipe)
{
    evict_all();
    v9_recipes_renamed(&fids->inodes.recipes, 0, "nothing", "else");
    CHECK(seen(renew) == 0);
}

/* ---- negative control, corruption ------------------------------------------------------------ */

static void rename_without_a_record(void)
{
    struct v9_dentry *dentry = v9_dentry_at(&fids->dentries, v9_fids_of(fids, 2)->dentry);

    __atomic_store_n(&dentry->parent, fids->dentries.roots[0], __ATOMIC_SEQ_CST);
    __atomic_store_n(&dentry->text[0], 'q', __ATOMIC_SEQ_CST);
    __atomic_store_n(&dentry->text[1], 'q', __ATOMIC_SEQ_CST);
    __atomic_store_n(&dentry->text[2], 'q', __ATOMIC_SEQ_CST);
}

TEST(a_change_in_pieces_is_noticed)
{
    CHECK(half_done(rename_without_a_record) > 0);
}

/* Bytes of the tables that something lies in. */
static size_t occupied(size_t *bytes)
{
    const uint8_t *map = parts[1].at;
    size_t count = 0;

    for (size_t at = 0; at < parts[1].used; at++)
        if (map[at])
            bytes[count++] = at;
    return count;
}

/* Wrong bytes cost the fids that they belong to, and at worst all; the next session is as any. */
TEST(a_corrupted_table_serves_a_new_session)
{
    enum { ROUNDS = 400 };
    size_t *bytes, count;
    unsigned seed = 1;

    evict_all();
    find_parts();
    bytes = malloc(parts[1].used * sizeof(*bytes));
    count = occupied(bytes);
    CHECK(count > 300);
    for (int round = 0; round < ROUNDS; round++) {
        const pid_t child = fork();
        int status = -1;
        if (child == 0) {
            alarm(20);
            checks_failed = 0;
            take_copy();
            for (int i = 0; i <= round % 8; i++)
                ((uint8_t *)parts[1].at)[bytes[rand_r(&seed) % count]] ^= 1 << rand_r(&seed) % 8;
            CHECK(v9_fids_recover(fids) == 0);
            CHECK(v9_fids_clear(fids) == 0 && !fids->count && !fids->inodes.count);
            CHECK(enter(1, "d/e/f/y", -1, NULL) == 0 && pin(1));
            _exit(checks_failed ? 1 : 0);
        }
        seed += (unsigned)round;
        waitpid(child, &status, 0);
        CHECK(status == 0);
    }
    free(bytes);
}
