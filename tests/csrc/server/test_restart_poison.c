// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * A process that dies by a fault of a request, at whichever point: the request is tried alone and
 * done once, as after any other death. If it was the third death at it, the request is answered
 * with EIO unless it is done, and leaves nothing open.
 */
#define _GNU_SOURCE
#include "request/suspects.h"
#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"

static void die_in_each(const struct kind *kinds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(!is_chosen(&kinds[i]) || !die_once(&kinds[i]));
}

TEST(a_suspect_that_changes_names_is_done_once)
{
    one_in = SOME;
    tries = true;
    die_in_each(kinds_of_names, COUNT(kinds_of_names));
}

TEST(a_suspect_that_changes_files_is_done_once)
{
    one_in = SOME;
    tries = true;
    die_in_each(kinds_of_files, COUNT(kinds_of_files));
}

LONG_TEST(a_suspect_is_done_once_at_each_point)
{
    tries = true;
    die_in_each(kinds_of_names, COUNT(kinds_of_names));
    die_in_each(kinds_of_files, COUNT(kinds_of_files));
}

/* ---- the third death ------------------------------------------------------------------------- */

static void die_for_the_third_time(void)
{
    for (uint32_t slot = 0; slot < dev->slots_used; slot++)
        dev->slots[slot].deaths = V9_DEATHS_MAX - 1;
}

static uint32_t descriptors_in(const char *text)
{
    const char *at = strstr(text, " descriptors\n");

    while (at && at > text && at[-1] != '\n')
        at--;
    return at ? (uint32_t)atoi(at) : UINT32_MAX;
}

/* Whether a run ends with a device that works, as it does without a death or with an error. */
static bool ends_well(const struct kind *kind, int point, const char *expected, uint32_t most,
                      uint32_t *errors)
{
    const bool ran = run_apart(run_here, kind, &(struct fate){1, {point, 0}});
    const bool same = !strcmp(outcome->text, expected);
    const bool good = ran && (same || descriptors_in(outcome->text) <= most);

    *errors += !same;
    if (!good)
        fprintf(stderr, "%s, killed at %d:\n%s--- instead of\n%s", kind->name, point, outcome->text,
                expected);
    return good;
}

/* How many descriptors are open if the requests are done, or not at all, whichever is more. */
static uint32_t most_descriptors(const struct kind *kind, const char *done)
{
    struct kind none = *kind;
    char undone[OUTCOME];
    uint32_t most;

    memset(none.requests, 0, sizeof(none.requests));
    none.flushed = false;
    CHECK(expect(&none, undone));
    most = descriptors_in(undone);
    return most > descriptors_in(done) ? most : descriptors_in(done);
}

static void die_for_the_third_time_in(const struct kind *kind)
{
    char expected[OUTCOME];
    uint32_t errors = 0, most;
    struct stops stops;

    spoil = NULL;
    CHECK(expect(kind, expected));
    most = most_descriptors(kind, expected);
    spoil = die_for_the_third_time;
    CHECK(ends_well(kind, TO_THE_END, expected, most, &errors));
    stops = outcome->stops;
    for (uint32_t point = 0; point + 1 < stops.count; point++)
        if (is_tried(&stops, point))
            CHECK(ends_well(kind, (int)point, expected, most, &errors));
    CHECK(errors > 0);
}

static void die_for_the_third_time_in_each(const struct kind *kinds, size_t count)
{
    tries = true;
    for (size_t i = 0; i < count; i++)
        if (is_chosen(&kinds[i]))
            die_for_the_third_time_in(&kinds[i]);
}

TEST(a_poison_that_changes_names_leaves_nothing_open)
{
    one_in = SOME;
    die_for_the_third_time_in_each(kinds_of_names, COUNT(kinds_of_names));
}

TEST(a_poison_that_changes_files_leaves_nothing_open)
{
    one_in = SOME;
    die_for_the_third_time_in_each(kinds_of_files, COUNT(kinds_of_files));
}

LONG_TEST(a_poison_leaves_nothing_open_at_each_point)
{
    die_for_the_third_time_in_each(kinds_of_names, COUNT(kinds_of_names));
    die_for_the_third_time_in_each(kinds_of_files, COUNT(kinds_of_files));
}
