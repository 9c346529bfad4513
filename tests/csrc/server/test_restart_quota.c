// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * The usage of a quota is that of a run without deaths, at whichever point a process dies.
 */
#define _GNU_SOURCE
#include "server/kinds_of_quota.h"

static void die_in_each(void)
{
    with_quota = true;
    for (size_t i = 0; i < COUNT(kinds_of_quota); i++)
        CHECK(!is_chosen(&kinds_of_quota[i]) || !die_once(&kinds_of_quota[i]));
}

TEST(a_death_leaves_the_usage_as_it_is)
{
    die_in_each();
}

LONG_TEST(a_death_leaves_the_usage_as_it_is_with_metadata_in_attributes)
{
    model = V9_MODEL_XATTR;
    die_in_each();
}

TEST(a_death_leaves_the_usage_as_it_is_with_metadata_in_files)
{
    one_in = SOME;
    model = V9_MODEL_FILE;
    die_in_each();
}

LONG_TEST(a_death_at_each_point_leaves_the_usage_as_it_is_with_metadata_in_files)
{
    model = V9_MODEL_FILE;
    die_in_each();
}
