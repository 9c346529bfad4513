// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * A successor that dies as well, while it recovers or while it runs the request again: at each of
 * its points, for each point at which the first one died.
 */
#define _GNU_SOURCE
#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"
#include "server/kinds_of_python.h"
#include "server/kinds_of_quota.h"

/* Of all pairs of points each so many-th is tried; in long tests, more. */
enum { STRIDE = 1009, SHORT_STRIDE = 11 };

/* What a successor's points are once the first worker has died at one of its own. */
static uint32_t look_at_second(const struct kind *kind, int point, const char *expected,
                               struct stops *second)
{
    const struct fate fate = {2, {point, TO_THE_END}};
    const bool ends_well = ends_as(kind, &fate, expected);

    *second = outcome->stops;
    return !ends_well;
}

/* How many runs go wrong. A successor's points differ little by those of the one before. */
static uint32_t die_twice(const struct kind *kind, uint32_t stride)
{
    struct stops first, second;
    char expected[OUTCOME];
    uint32_t wrong, turn = 0, tried = 0;

    if (!expect(kind, expected))
        return 1;
    wrong = look_at_second(kind, 0, expected, &second);
    wrong += !ends_as(kind, &(struct fate){1, {TO_THE_END, 0}}, expected);
    first = outcome->stops;
    for (uint32_t point = 0; point < first.count; point++) {
        if (!first.is_new[point])
            continue;
        if (stride < STRIDE)
            wrong += look_at_second(kind, (int)point, expected, &second);
        for (uint32_t next = 0; next < second.count; next++) {
            if (!second.is_new[next] || turn++ % stride)
                continue;
            wrong += !ends_as(kind, &(struct fate){2, {(int)point, (int)next}}, expected);
            tried++;
        }
    }
    if (getenv("V9_SHOW"))
        fprintf(stderr, "%s: %u of %u pairs, %u wrong\n", kind->name, tried, turn, wrong);
    return wrong;
}

static void die_twice_in_each(uint32_t security_model, const struct kind *kinds, size_t count,
                              uint32_t stride)
{
    model = security_model;
    for (size_t i = 0; i < count; i++)
        CHECK(!is_chosen(&kinds[i]) || !die_twice(&kinds[i], stride));
}

TEST(a_successor_may_die_as_well_that_changes_names)
{
    die_twice_in_each(V9_MODEL_HOST, kinds_of_names, COUNT(kinds_of_names), STRIDE);
}

TEST(a_successor_may_die_as_well_that_changes_files)
{
    die_twice_in_each(V9_MODEL_HOST, kinds_of_files, COUNT(kinds_of_files), STRIDE);
}

TEST(a_successor_may_die_as_well_that_changes_names_with_metadata_in_attributes)
{
    die_twice_in_each(V9_MODEL_XATTR, kinds_of_names, COUNT(kinds_of_names), STRIDE);
}

TEST(a_successor_may_die_as_well_that_changes_files_with_metadata_in_attributes)
{
    die_twice_in_each(V9_MODEL_XATTR, kinds_of_files, COUNT(kinds_of_files), STRIDE);
}

TEST(a_successor_may_die_as_well_that_changes_names_with_metadata_in_files)
{
    die_twice_in_each(V9_MODEL_FILE, kinds_of_names, COUNT(kinds_of_names), STRIDE);
}

TEST(a_successor_may_die_as_well_that_changes_files_with_metadata_in_files)
{
    die_twice_in_each(V9_MODEL_FILE, kinds_of_files, COUNT(kinds_of_files), STRIDE);
}

static void die_twice_with_quota(uint32_t stride)
{
    with_quota = true;
    die_twice_in_each(V9_MODEL_FILE, kinds_of_quota, COUNT(kinds_of_quota), stride);
}

static void die_twice_of_python(uint32_t stride)
{
    python_answers = answer_as_python;
    dialect_u = true;
    die_twice_in_each(V9_MODEL_FILE, kinds_of_python, COUNT(kinds_of_python), stride);
    die_twice_in_each(V9_MODEL_FILE, kinds_of_dialect_u, COUNT(kinds_of_dialect_u), stride);
}

TEST(a_successor_may_die_as_well_that_uses_a_quota)
{
    die_twice_with_quota(STRIDE);
}

TEST(a_successor_may_die_as_well_that_asks_python)
{
    die_twice_of_python(STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_uses_a_quota)
{
    die_twice_with_quota(SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_asks_python)
{
    die_twice_of_python(SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_names)
{
    die_twice_in_each(V9_MODEL_HOST, kinds_of_names, COUNT(kinds_of_names), SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_files)
{
    die_twice_in_each(V9_MODEL_HOST, kinds_of_files, COUNT(kinds_of_files), SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_names_with_metadata_in_attributes)
{
    die_twice_in_each(V9_MODEL_XATTR, kinds_of_names, COUNT(kinds_of_names), SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_files_with_metadata_in_attributes)
{
    die_twice_in_each(V9_MODEL_XATTR, kinds_of_files, COUNT(kinds_of_files), SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_names_with_metadata_in_files)
{
    die_twice_in_each(V9_MODEL_FILE, kinds_of_names, COUNT(kinds_of_names), SHORT_STRIDE);
}

LONG_TEST(a_successor_may_die_anywhere_that_changes_files_with_metadata_in_files)
{
    die_twice_in_each(V9_MODEL_FILE, kinds_of_files, COUNT(kinds_of_files), SHORT_STRIDE);
}
