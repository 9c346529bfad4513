// sources: base/sightings.c
/*
 * Sightings: what was seen of a name is known to the next change of it, unless a change went on
 * meanwhile, the look was before one, or it is of another directory.
 */
#include "base/sightings.h"

#include <stddef.h>

#include "check.h"

enum { DIR = 5, OTHER_DIR = 6 };

static struct v9_name_change change;
static struct v9_sighting seen;

/* What the next change of a name learns; it leaves what nobody knows. */
static bool is_known(int dir, const char *name)
{
    const bool known = v9_sightings_begin(dir, name, &change, &seen);

    v9_sightings_end(&change, NULL);
    return known;
}

static void look_for(const char *name)
{
    v9_sightings_absent(DIR, name, v9_ticks_now());
}

TEST(a_name_that_was_looked_for_in_vain_is_known_once)
{
    look_for("none");
    CHECK(is_known(DIR, "none") && !seen.st_ino);
    CHECK(!is_known(DIR, "none"));
}

TEST(what_a_change_has_left_is_known)
{
    const struct v9_sighting left = {v9_ticks_now(), 7, 8};

    v9_sightings_begin(DIR, "made", &change, &seen);
    v9_sightings_end(&change, &left);
    CHECK(is_known(DIR, "made") && seen.st_dev == 7 && seen.st_ino == 8);
}

TEST(another_directory_or_descriptor_is_not_known)
{
    look_for("one");
    CHECK(!is_known(OTHER_DIR, "one"));
    CHECK(!is_known(DIR, "one")); /* another descriptor may be of the same directory */
    look_for("one");
    v9_sightings_forget(DIR);
    CHECK(!is_known(DIR, "one"));
}

TEST(nothing_is_kept_of_what_was_seen_during_a_change_or_before_its_end)
{
    struct v9_name_change during;
    uint64_t before;

    v9_sightings_begin(DIR, "busy", &during, &seen);
    look_for("busy");
    before = v9_ticks_now();
    v9_sightings_end(&during, NULL);
    CHECK(!is_known(DIR, "busy"));
    v9_sightings_absent(DIR, "busy", before);
    CHECK(!is_known(DIR, "busy"));
}

TEST(two_changes_at_a_time_leave_what_nobody_knows)
{
    const struct v9_sighting left = {v9_ticks_now(), 7, 8};
    struct v9_name_change first, second;

    for (int turn = 0; turn < 2; turn++) {
        look_for("two");
        CHECK(v9_sightings_begin(DIR, "two", &first, &seen));
        CHECK(!v9_sightings_begin(DIR, "two", &second, &seen));
        v9_sightings_end(turn ? &first : &second, &left);
        v9_sightings_end(turn ? &second : &first, &left);
        CHECK(!is_known(DIR, "two"));
    }
}

TEST(what_was_seen_long_ago_is_not_believed)
{
    v9_sightings_absent(DIR, "old", v9_ticks_now() - V9_SIGHTING_LASTS);
    CHECK(!is_known(DIR, "old"));
}
