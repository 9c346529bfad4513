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
