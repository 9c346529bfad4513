// sources: base/evidence.c base/sightings.c base/budget.c base/proc.c
/*
 * Evidence: a request that runs again learns which of its steps show in the names, whatever has
 * happened to the names meanwhile.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "base/evidence.h"
#include "base/sightings.h"
#include "check.h"
#include "host_files.h"

static struct v9_evidence evidence;
static int dir;

SET_UP()
{
    host_begins();
    dir = open(top, O_PATH | O_CLOEXEC);
    v9_evidence_clear(&evidence);
    v9_evidence_begin(&evidence, false);
}

TEAR_DOWN()
{
    v9_evidence_begin(NULL, false);
    close(dir);
    host_ends();
}

/* The process dies, and the next one runs the request again. */
static void die(void)
{
    v9_evidence_begin(&evidence, true);
}

TEST(a_name_that_was_absent_and_exists_was_made)
{
    CHECK(!v9_evidence_made(dir, "new"));
    die();
    CHECK(!v9_evidence_made(dir, "new"));
    host_writes("new", "");
    die();
    CHECK(v9_evidence_made(dir, "new"));
}

TEST(a_name_that_existed_was_not_made)
{
    host_writes("old", "");
    CHECK(!v9_evidence_made(dir, "old"));
    die();
    CHECK(!v9_evidence_made(dir, "old"));
}

TEST(a_name_that_cannot_be_looked_up_was_not_made)
{
    const int no_directory = open(host("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    CHECK(!v9_evidence_made(no_directory, "new"));
    CHECK(dup3(dir, no_directory, O_CLOEXEC) == no_directory);
    host_writes("new", "");
    die();
    CHECK(!v9_evidence_made(no_directory, "new"));
    close(no_directory);
}

TEST(a_name_that_is_gone_or_anothers_was_removed)
{
    host_writes("old", "");
    CHECK(!v9_evidence_removed(dir, "old"));
    die();
    CHECK(!v9_evidence_removed(dir, "old"));
    host_writes("other", "");
    CHECK(rename(host("other"), host("old")) == 0);
    die();
    CHECK(v9_evidence_removed(dir, "old"));
    CHECK(unlink(host("old")) == 0);
    die();
    CHECK(v9_evidence_removed(dir, "old"));
}

/* A directory that cannot be looked into any more, by the same descriptor. */
static int spoiled_directory(void)
{
    const int no_directory = open(host("no directory"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const int spoiled = dup(dir);

    CHECK(dup3(no_directory, spoiled, O_CLOEXEC) == spoiled);
    close(no_directory);
    return spoiled;
}

TEST(a_name_that_cannot_be_looked_up_was_neither_removed_nor_moved)
{
    const int spoiled = spoiled_directory();

    host_writes("old", "");
    CHECK(!v9_evidence_removed(dir, "old"));
    die();
    CHECK(!v9_evidence_removed(spoiled, "old"));
    v9_evidence_clear(&evidence);
    v9_evidence_begin(&evidence, false);
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
    CHECK(link(host("old"), host("new")) == 0);
    die();
    CHECK(!v9_evidence_moved(spoiled, "old", dir, "new"));
    close(spoiled);
}

TEST(a_file_that_has_the_new_name_only_was_moved)
{
    host_writes("old", "");
    host_writes("new", "");
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
    die();
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
    CHECK(rename(host("old"), host("new")) == 0);
    die();
    CHECK(v9_evidence_moved(dir, "old", dir, "new"));
    host_writes("old", "of another request");
    die();
    CHECK(v9_evidence_moved(dir, "old", dir, "new"));
}

TEST(steps_follow_their_order_until_one_is_another)
{
    CHECK(!v9_evidence_made(dir, "one") && !v9_evidence_made(dir, "two"));
    host_writes("one", "");
    die();
    CHECK(v9_evidence_made(dir, "one") && !v9_evidence_made(dir, "two"));
    host_writes("two", "");
    die();
    CHECK(!v9_evidence_removed(dir, "one")); /* another way */
    CHECK(!v9_evidence_made(dir, "two"));
}

TEST(steps_that_are_needed_no_more_are_passed_over)
{
    host_writes("old", "");
    CHECK(!v9_evidence_made(dir, "one") && !v9_evidence_made(dir, "two"));
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
    host_writes("two", "");
    CHECK(rename(host("old"), host("new")) == 0);
    die();
    CHECK(v9_evidence_made(dir, "two") && v9_evidence_moved(dir, "old", dir, "new"));
    die();
    CHECK(v9_evidence_moved(dir, "old", dir, "new"));
}

TEST(a_loss_is_noted_until_its_step_has_come)
{
    host_writes("old", "");
    CHECK(!v9_evidence_made(dir, "new"));
    die();
    CHECK(!v9_evidence_loss_is_noted());
    CHECK(!v9_evidence_made(dir, "new") && !v9_evidence_removed(dir, "old"));
    CHECK(!v9_evidence_loss_is_noted());
    die();
    CHECK(v9_evidence_loss_is_noted());
    CHECK(!v9_evidence_removed(dir, "old") && !v9_evidence_loss_is_noted());
}

TEST(what_was_seen_is_not_looked_at_again_but_once)
{
    static const char old[] = "old", missing[] = "missing";

    host_writes("old", "");
    v9_evidence_seen(dir, old, 1, 2);
    CHECK(!v9_evidence_removed(dir, missing) && !evidence.steps[0].existed);
    CHECK(!v9_evidence_removed(dir, old) && evidence.steps[1].st_ino != 2);
    v9_evidence_seen(dir, missing, 1, 2);
    CHECK(!v9_evidence_removed(dir, missing) && evidence.steps[2].existed);
    CHECK(evidence.steps[2].st_dev == 1 && evidence.steps[2].st_ino == 2);
}

TEST(what_was_seen_is_forgotten_at_a_death)
{
    static const char missing[] = "missing";

    v9_evidence_seen(dir, missing, 1, 2);
    CHECK(!v9_evidence_removed(dir, missing));
    v9_evidence_seen(dir, missing, 1, 2);
    die();
    CHECK(v9_evidence_removed(dir, missing)); /* it leads to no file */
}

/* It failed after its first step, which it took back. */
static void create_and_undo(void)
{
    CHECK(!v9_evidence_made(dir, "new"));
    host_writes("new", "");
    CHECK(!v9_evidence_removed(dir, "new"));
}

TEST(what_was_undone_is_made_and_undone_anew)
{
    create_and_undo();
    CHECK(unlink(host("new")) == 0);
    die();
    create_and_undo(); /* the other file, too */
    die();
    CHECK(v9_evidence_made(dir, "new") && !v9_evidence_removed(dir, "new"));
}

TEST(what_was_to_be_undone_is_made)
{
    create_and_undo();
    die();
    CHECK(v9_evidence_made(dir, "new") && v9_evidence_loss_is_noted());
    CHECK(!v9_evidence_removed(dir, "new"));
}

TEST(what_exists_or_not_is_toggled_once)
{
    CHECK(!v9_evidence_toggled(false));
    die();
    CHECK(!v9_evidence_toggled(false));
    die();
    CHECK(v9_evidence_toggled(true));
}

TEST(the_descriptor_of_what_was_made_is_for_the_step_that_made_it)
{
    const int fd = open(host("new"), O_RDWR | O_CREAT | O_CLOEXEC, 0);

    CHECK(!v9_evidence_made(dir, "first") && !v9_evidence_made(dir, "second"));
    v9_evidence_adopt(&evidence, fd);
    die();
    v9_evidence_made(dir, "first");
    CHECK(v9_evidence_take_made() == -1);
    v9_evidence_made(dir, "second");
    CHECK(v9_evidence_take_made() == fd && v9_evidence_take_made() == -1);
    close(fd);
}

TEST(what_was_to_be_undone_gets_its_descriptor_back)
{
    const int fd = open(host("other"), O_RDWR | O_CREAT | O_CLOEXEC, 0);

    create_and_undo();
    CHECK(v9_evidence_making(&evidence) == dir);
    v9_evidence_adopt(&evidence, fd);
    die();
    CHECK(v9_evidence_made(dir, "new") && v9_evidence_take_made() == fd);
    CHECK(!v9_evidence_removed(dir, "new") && unlink(host("new")) == 0);
    CHECK(!v9_evidence_removed(dir, "file"));
    CHECK(v9_evidence_making(&evidence) == -1);
    close(fd);
}

TEST(the_descriptor_that_nobody_takes_is_closed)
{
    const int fd = open(host("new"), O_RDWR | O_CREAT | O_CLOEXEC, 0);

    CHECK(!v9_evidence_made(dir, "new"));
    v9_evidence_adopt(&evidence, fd);
    v9_evidence_end(&evidence);
    CHECK(fcntl(fd, F_GETFD) == -1 && evidence.made == -1);
    v9_evidence_end(&evidence);
}

TEST(an_append_shows_in_the_position)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    CHECK(write(fd, "before", 6) == 6);
    v9_evidence_append(fd);
    CHECK(v9_evidence_appended(&evidence, 4) == 0);
    CHECK(write(fd, "more", 4) == 4);
    CHECK(v9_evidence_appended(&evidence, 4) == 4);
    CHECK(v9_evidence_appended(&evidence, 9) == 4); /* the disk was full */
    evidence.size = 100;                            /* it was truncated before the write */
    CHECK(v9_evidence_appended(&evidence, 4) == 4);
    close(fd);
}

TEST(an_append_shows_however_short_the_file_has_become)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    CHECK(write(fd, "before", 6) == 6);
    for (int size = 2; size <= 4; size++) {
        CHECK(ftruncate(fd, size) == 0);
        v9_evidence_append(fd);
        CHECK(v9_evidence_appended(&evidence, 2) == 0);
        CHECK(write(fd, "xy", 2) == 2);
        CHECK(v9_evidence_appended(&evidence, 2) == 2);
    }
    v9_evidence_append(fd);
    CHECK(ftruncate(fd, 0) == 0 && write(fd, "xy", 2) == 2);
    CHECK(v9_evidence_appended(&evidence, 2) == 2);
    close(fd);
}

TEST(two_appends_at_the_same_time_both_show)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct v9_evidence other;

    CHECK(write(fd, "before", 6) == 6 && ftruncate(fd, 0) == 0);
    v9_evidence_append(fd);
    CHECK(write(fd, "xy", 2) == 2);
    v9_evidence_clear(&other);
    v9_evidence_begin(&other, false);
    v9_evidence_append(fd);
    CHECK(v9_evidence_appended(&evidence, 2) == 2 && v9_evidence_appended(&other, 2) == 0);
    CHECK(write(fd, "z", 1) == 1);
    CHECK(v9_evidence_appended(&evidence, 2) == 2 && v9_evidence_appended(&other, 1) == 1);
    close(fd);
}

/* The next request of the process. */
static void next(void)
{
    v9_evidence_end(&evidence);
    v9_evidence_clear(&evidence);
    v9_evidence_begin(&evidence, false);
}

TEST(a_name_that_was_just_looked_for_is_not_looked_up)
{
    v9_sightings_absent(dir, "new", v9_ticks_now());
    host_writes("new", ""); /* by the host, which nobody has seen */
    CHECK(!v9_evidence_made(dir, "new") && !evidence.steps[0].existed);
    die();
    CHECK(v9_evidence_made(dir, "new"));
    next();
    CHECK(!v9_evidence_made(dir, "new") && evidence.steps[0].existed);
}

TEST(what_a_request_has_left_is_not_looked_up)
{
    CHECK(!v9_evidence_made(dir, "new"));
    v9_evidence_leads(dir, "new", 7, 8);
    next();
    CHECK(!v9_evidence_moved(dir, "new", dir, "newer") && evidence.steps[0].st_ino == 8);
    v9_evidence_has_moved(dir, "new", dir, "newer", 7);
    next();
    CHECK(!v9_evidence_made(dir, "new") && !evidence.steps[0].existed);
    CHECK(!v9_evidence_removed(dir, "newer") && evidence.steps[1].st_ino == 8);
    v9_evidence_leads(dir, "newer", 0, 0);
    next();
    CHECK(!v9_evidence_made(dir, "newer") && !evidence.steps[0].existed);
}

TEST(a_file_that_may_have_got_another_number_is_looked_up)
{
    host_writes("old", "");
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
    CHECK(rename(host("old"), host("new")) == 0);
    v9_evidence_has_moved(dir, "old", dir, "new", 0);
    host_writes("other", "");
    CHECK(rename(host("other"), host("new")) == 0);
    next();
    CHECK(!v9_evidence_removed(dir, "new"));
    die();
    CHECK(!v9_evidence_removed(dir, "new"));
}

TEST(after_a_death_every_name_is_looked_up)
{
    host_writes("old", "");
    CHECK(!v9_evidence_removed(dir, "old"));
    v9_sightings_absent(dir, "new", v9_ticks_now());
    host_writes("new", "");
    die();
    CHECK(!v9_evidence_removed(dir, "old"));
    CHECK(!v9_evidence_made(dir, "new") && evidence.steps[1].existed);
}

TEST(an_append_shows_in_the_size_if_its_descriptor_is_lost)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    CHECK(write(fd, "before", 6) == 6);
    v9_evidence_append(fd);
    CHECK(v9_evidence_grown(fd, 4) == 0);
    v9_evidence_lose_descriptors(&evidence);
    CHECK(v9_evidence_appended(&evidence, 4) == 0 && v9_evidence_grown(fd, 4) == 0);
    CHECK(write(fd, "more", 4) == 4);
    CHECK(v9_evidence_grown(fd, 4) == 4 && v9_evidence_grown(fd, 9) == 4);
    CHECK(v9_evidence_grown(fd, 3) == 3);
    v9_evidence_append(fd); /* the next piece */
    CHECK(v9_evidence_grown(fd, 4) == 0);
    close(fd);
}

TEST(a_thread_without_a_request_notes_nothing)
{
    v9_evidence_begin(NULL, false);
    CHECK(!v9_evidence_made(dir, "new"));
    host_writes("new", "");
    CHECK(!v9_evidence_made(dir, "new") && !v9_evidence_loss_is_noted());
    CHECK(v9_evidence_take_made() == -1 && v9_evidence_making(&evidence) == -1);
}
