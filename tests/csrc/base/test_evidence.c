// sources: base/evidence.c base/sightings.c base/key_lock.c base/budget.c base/proc.c
/*
 * Evidence: a request that runs again learns which of its steps show in the names, whatever has
 * happened to the names meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

static void seen_by_handler(const char *name)
{
    v9_evidence_seen(dir, name, &(struct v9_sighting){v9_ticks_now(), 1, 2});
}

TEST(what_was_seen_is_not_looked_at_again_but_once)
{
    static const char old[] = "old", missing[] = "missing", other[] = "other";

    host_writes("old", "");
    seen_by_handler(old);
    CHECK(!v9_evidence_removed(dir, missing) && !evidence.steps[0].existed);
    CHECK(!v9_evidence_removed(dir, old) && evidence.steps[1].st_ino != 2);
    seen_by_handler(other);
    CHECK(!v9_evidence_removed(dir, other) && evidence.steps[2].existed);
    CHECK(evidence.steps[2].st_dev == 1 && evidence.steps[2].st_ino == 2);
}

TEST(what_was_seen_is_forgotten_at_a_death)
{
    static const char missing[] = "missing";

    seen_by_handler(missing);
    CHECK(!v9_evidence_removed(dir, missing));
    seen_by_handler(missing);
    die();
    CHECK(v9_evidence_removed(dir, missing)); /* it leads to no file */
}

TEST(what_was_seen_before_another_request_has_changed_it_is_looked_at)
{
    static const char missing[] = "missing";
    const struct v9_sighting seen = {v9_ticks_now(), 1, 2};
    struct v9_evidence other;

    v9_evidence_clear(&other);
    v9_evidence_begin(&other, false);
    CHECK(!v9_evidence_removed(dir, missing));
    v9_evidence_end(&other);
    v9_evidence_begin(&evidence, false);
    v9_evidence_seen(dir, missing, &seen);
    CHECK(!v9_evidence_removed(dir, missing) && !evidence.steps[0].existed);
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

/* A request of `count` bytes is about to append, and its process dies once `text` is written. How
 * many of them its successor takes for appended. */
static uint32_t append_and_die(int fd, const char *text, uint32_t count)
{
    v9_evidence_append(fd);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return v9_evidence_appended(&evidence, count);
}

static int open_log(void)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    CHECK(write(fd, "before", 6) == 6);
    return fd;
}

TEST(an_append_shows_in_the_position)
{
    const int fd = open_log();

    v9_evidence_append(fd);
    CHECK(v9_evidence_appended(&evidence, 4) == 0);
    CHECK(append_and_die(fd, "more", 4) == 4);
    CHECK(append_and_die(fd, "more", 9) == 4); /* the disk was full */
    v9_evidence_append(fd);
    evidence.size = 100; /* it was truncated before the write */
    CHECK(write(fd, "more", 4) == 4 && v9_evidence_appended(&evidence, 4) == 4);
    close(fd);
}

TEST(an_append_shows_however_short_the_file_has_become)
{
    const int fd = open_log();

    for (int size = 2; size <= 4; size++) {
        CHECK(ftruncate(fd, size) == 0);
        v9_evidence_append(fd);
        CHECK(v9_evidence_appended(&evidence, 2) == 0);
        CHECK(append_and_die(fd, "xy", 2) == 2);
    }
    v9_evidence_append(fd);
    CHECK(ftruncate(fd, 0) == 0 && write(fd, "xy", 2) == 2);
    CHECK(v9_evidence_appended(&evidence, 2) == 2);
    close(fd);
}

TEST(an_append_that_has_ended_shows_whatever_the_next_ones_do)
{
    const int fd = open(host("log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct v9_evidence other;

    v9_evidence_append(fd);
    CHECK(write(fd, "xy", 2) == 2);
    v9_evidence_append_ends(2);
    v9_evidence_clear(&other);
    v9_evidence_begin(&other, false);
    CHECK(ftruncate(fd, 0) == 0);
    v9_evidence_append(fd); /* moves to where the first one was before */
    CHECK(v9_evidence_appended(&evidence, 2) == 2 && v9_evidence_appended(&other, 1) == 0);
    CHECK(write(fd, "z", 1) == 1);
    CHECK(v9_evidence_appended(&evidence, 2) == 2);
    close(fd);
}

TEST(an_append_that_has_failed_is_made_again)
{
    const int fd = open_log();

    v9_evidence_append(fd);
    v9_evidence_append_ends(-ENOSPC);
    CHECK(write(fd, "of another request", 18) == 18);
    CHECK(v9_evidence_appended(&evidence, 18) == 0);
    close(fd);
}

TEST(what_an_append_has_done_is_found_out_once)
{
    const int fd = open_log();

    v9_evidence_append(fd);
    CHECK(v9_evidence_appended(&evidence, 4) == 0);
    CHECK(write(fd, "by another one", 14) == 14); /* before this one runs again */
    CHECK(v9_evidence_appended(&evidence, 4) == 0);
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
    const int fd = open_log();

    v9_evidence_append(fd);
    CHECK(v9_evidence_grown(fd, 4) == 0);
    v9_evidence_lose_descriptors(&evidence);
    CHECK(v9_evidence_appended(&evidence, 4) == 0 && v9_evidence_grown(fd, 4) == 0);
    CHECK(write(fd, "more", 4) == 4);
    CHECK(v9_evidence_grown(fd, 4) == 4 && v9_evidence_grown(fd, 9) == 4);
    CHECK(v9_evidence_grown(fd, 3) == 3);
    v9_evidence_append_ends(4);
    v9_evidence_lose_descriptors(&evidence);
    CHECK(v9_evidence_grown(fd, 4) == 0 && v9_evidence_appended(&evidence, 4) == 4);
    close(fd);
}

/* ---- requests that change the same name ------------------------------------------------------ */

static struct v9_evidence others[2];

/* So many other requests were about to do a step when their process died, and will run again. */
static void leave_others(uint32_t count, void (*step)(void))
{
    for (uint32_t i = 0; i < count; i++) {
        v9_evidence_clear(&others[i]);
        v9_evidence_begin(&others[i], false);
        step();
        v9_evidence_begin(NULL, false);
    }
    for (uint32_t i = 0; i < count; i++)
        v9_evidence_recover(&others[i]);
    v9_evidence_begin(&evidence, false);
}

static void forget_others(uint32_t count)
{
    v9_evidence_begin(NULL, false);
    for (uint32_t i = 0; i < count; i++)
        v9_evidence_forget(&others[i]);
}

static void will_make(void)
{
    CHECK(!v9_evidence_made(dir, "new"));
}

static void will_remove(void)
{
    CHECK(!v9_evidence_removed(dir, "old"));
}

static void will_move(void)
{
    CHECK(!v9_evidence_moved(dir, "old", dir, "new"));
}

TEST(a_step_that_has_failed_was_not_done)
{
    will_make();
    CHECK(v9_evidence_outcome(-EACCES) == -EACCES);
    host_writes("new", "of another request");
    die();
    will_make();
    CHECK(v9_evidence_outcome(0) == 0 && v9_evidence_made(dir, "other") == false);
    die();
    CHECK(!v9_evidence_made(dir, "new")); /* it existed */
}

TEST(what_another_request_makes_before_one_runs_again_is_not_taken_for_its_own)
{
    leave_others(1, will_make);
    will_make();
    host_writes("new", "");
    CHECK(v9_evidence_outcome(0) == 0);
    v9_evidence_begin(&others[0], true);
    CHECK(!v9_evidence_made(dir, "new"));
    forget_others(1);
}

TEST(what_a_request_has_made_stays_its_own_when_another_one_tries)
{
    leave_others(1, will_make);
    host_writes("new", "");
    will_make();
    CHECK(v9_evidence_outcome(-EEXIST) == -EEXIST);
    v9_evidence_begin(&others[0], true);
    CHECK(v9_evidence_made(dir, "new"));
    forget_others(1);
}

TEST(what_another_request_moves_there_is_not_taken_for_its_own)
{
    host_writes("old", "");
    leave_others(1, will_make);
    will_move();
    CHECK(rename(host("old"), host("new")) == 0 && v9_evidence_outcome(0) == 0);
    v9_evidence_begin(&others[0], true);
    CHECK(!v9_evidence_made(dir, "new"));
    forget_others(1);
}

/* How many of two requests that were about to do a step have done it, by their evidence. */
static int count_done(bool (*was_done)(void))
{
    int count = 0;

    for (int i = 0; i < 2; i++) {
        v9_evidence_begin(&others[i], true);
        count += was_done();
    }
    forget_others(2);
    return count;
}

static bool was_made(void)
{
    return v9_evidence_made(dir, "new");
}

static bool was_removed(void)
{
    return v9_evidence_removed(dir, "old");
}

static bool was_moved(void)
{
    return v9_evidence_moved(dir, "old", dir, "new");
}

TEST(one_request_has_made_removed_or_moved_a_name_at_most)
{
    leave_others(2, will_make);
    host_writes("new", "");
    CHECK(count_done(was_made) == 1);
    host_writes("old", "");
    leave_others(2, will_remove);
    CHECK(unlink(host("old")) == 0 && count_done(was_removed) == 1);
    host_writes("old", "");
    leave_others(2, will_move);
    CHECK(rename(host("old"), host("new")) == 0 && count_done(was_moved) == 1);
}

TEST(of_several_requests_one_has_made_a_name_that_another_one_removes)
{
    leave_others(2, will_make);
    host_writes("new", "");
    CHECK(!v9_evidence_removed(dir, "new"));
    CHECK(unlink(host("new")) == 0 && v9_evidence_outcome(0) == 0);
    CHECK(count_done(was_made) == 1);
}

TEST(a_value_of_another_name_is_toggled_by_itself)
{
    v9_evidence_toggle(dir, "user.one");
    CHECK(!v9_evidence_toggled(false) && v9_evidence_outcome(0) == 0);
    v9_evidence_recover(&evidence);
    v9_evidence_clear(&others[0]);
    v9_evidence_begin(&others[0], false);
    v9_evidence_toggle(dir, "user.two");
    CHECK(!v9_evidence_toggled(false) && v9_evidence_outcome(0) == 0);
    die();
    v9_evidence_toggle(dir, "user.one");
    CHECK(v9_evidence_toggled(true));
    v9_evidence_forget(&evidence);
}

TEST(a_thread_without_a_request_notes_nothing)
{
    v9_evidence_begin(NULL, false);
    CHECK(!v9_evidence_made(dir, "new"));
    host_writes("new", "");
    CHECK(!v9_evidence_made(dir, "new") && !v9_evidence_loss_is_noted());
    CHECK(v9_evidence_take_made() == -1 && v9_evidence_making(&evidence) == -1);
}
