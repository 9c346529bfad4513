// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * Requests that Python answers are done once, at whichever point their process dies, and so are
 * those of 9P2000.u.
 */
#define _GNU_SOURCE
#include "server/kinds_of_python.h"

static void die_in_each(const struct kind *kinds, size_t count)
{
    python_answers = answer_as_python;
    for (size_t i = 0; i < count; i++)
        CHECK(!is_chosen(&kinds[i]) || !die_once(&kinds[i]));
}

TEST(what_python_answers_is_done_once)
{
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

LONG_TEST(what_python_answers_is_done_once_with_metadata_in_attributes)
{
    model = V9_MODEL_XATTR;
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

TEST(what_python_answers_is_done_once_with_metadata_in_files)
{
    one_in = SOME;
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

LONG_TEST(what_python_answers_is_done_once_at_each_point_with_metadata_in_files)
{
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

TEST(what_dialect_u_asks_for_is_done_once)
{
    dialect_u = true;
    die_in_each(kinds_of_dialect_u, COUNT(kinds_of_dialect_u));
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

LONG_TEST(what_dialect_u_asks_for_is_done_once_with_metadata_in_attributes)
{
    dialect_u = true;
    model = V9_MODEL_XATTR;
    die_in_each(kinds_of_dialect_u, COUNT(kinds_of_dialect_u));
}

static void die_of_dialect_u_with_files(void)
{
    dialect_u = true;
    model = V9_MODEL_FILE;
    die_in_each(kinds_of_dialect_u, COUNT(kinds_of_dialect_u));
    die_in_each(kinds_of_python, COUNT(kinds_of_python));
}

TEST(what_dialect_u_asks_for_is_done_once_with_metadata_in_files)
{
    one_in = SOME;
    die_of_dialect_u_with_files();
}

LONG_TEST(what_dialect_u_asks_for_is_done_once_at_each_point_with_metadata_in_files)
{
    die_of_dialect_u_with_files();
}
