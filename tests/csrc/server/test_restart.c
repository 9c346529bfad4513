// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * A request whose process dies is done once, at whichever point it dies: each type of request under
 * each security model.
 */
#define _GNU_SOURCE
#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"

static void die_in_each(const struct kind *kinds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(!is_chosen(&kinds[i]) || !die_once(&kinds[i]));
}

TEST(a_change_of_names_is_made_once)
{
    die_in_each(kinds_of_names, COUNT(kinds_of_names));
}

TEST(a_change_of_names_is_made_once_with_metadata_in_attributes)
{
    one_in = SOME;
    model = V9_MODEL_XATTR;
    die_in_each(kinds_of_names, COUNT(kinds_of_names));
}

TEST(a_change_of_names_is_made_once_with_metadata_in_files)
{
    one_in = SOME;
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_names, COUNT(kinds_of_names));
}

TEST(a_change_of_names_that_were_seen_is_made_once)
{
    die_in_each(kinds_of_names_seen, COUNT(kinds_of_names_seen));
}

TEST(a_change_of_names_that_were_seen_is_made_once_with_metadata_in_files)
{
    one_in = SOME;
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_names_seen, COUNT(kinds_of_names_seen));
}

TEST(what_a_request_does_to_files_is_done_once)
{
    die_in_each(kinds_of_files, COUNT(kinds_of_files));
}

TEST(what_a_request_does_to_files_is_done_once_with_metadata_in_attributes)
{
    one_in = SOME;
    model = V9_MODEL_XATTR;
    die_in_each(kinds_of_files, COUNT(kinds_of_files));
}

TEST(what_a_request_does_to_files_is_done_once_with_metadata_in_files)
{
    one_in = SOME;
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_files, COUNT(kinds_of_files));
}

/* A guest's id 1 is the host's 1001; were it mapped once more, it would be 2001. */
static void map_ids(v9_export *ex)
{
    static const struct v9_xattr_rule rules[] = {
        {"system.", "user.guest.system.", V9_XATTR_STORE},
        {"security.", "user.guest.security.", V9_XATTR_STORE}};
    static const struct v9_id_range range = {0, 1000, 5000};
    const struct v9_id_conf ids = {&range, NULL, 1, 0, NOBODY, NOBODY};

    v9_export_set_xattr_names(ex, v9_xattr_names_new(rules, COUNT(rules)));
    CHECK(!v9_export_set_ids(ex, V9_UID, &ids) && !v9_export_set_ids(ex, V9_GID, &ids));
}

TEST(ids_in_a_value_are_mapped_once)
{
    char expected[OUTCOME];

    configure = map_ids;
    CHECK(expect(&kinds_of_ids[0], expected) && strstr(expected, " 07 00 e9 03 00 00\n"));
    CHECK(expect(&kinds_of_ids[1], expected) && strstr(expected, " 00 e8 03 00 00\n"));
    die_in_each(kinds_of_ids, COUNT(kinds_of_ids));
}

TEST(a_request_of_one_of_two_exports_is_done_once)
{
    two_exports = true;
    die_in_each(kinds_of_two_exports, COUNT(kinds_of_two_exports));
}

TEST(a_change_of_names_is_made_once_without_privilege)
{
    unprivileged = geteuid() == 0;
    die_in_each(kinds_without_privilege, COUNT(kinds_without_privilege));
}

LONG_TEST(a_process_may_die_at_any_point)
{
    const uint32_t models[] = {V9_MODEL_HOST, V9_MODEL_XATTR, V9_MODEL_FILE};

    one_in = EVERYWHERE;
    for (int i = 0; i < 3; i++) {
        model = models[i];
        die_in_each(kinds_of_names, COUNT(kinds_of_names));
        die_in_each(kinds_of_names_seen, COUNT(kinds_of_names_seen));
        die_in_each(kinds_of_files, COUNT(kinds_of_files));
    }
}
