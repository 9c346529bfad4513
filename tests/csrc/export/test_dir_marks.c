// sources: export/dir_marks.c export/ base/
/*
 * Marks of directories: what others change there is reported, by the id that was noted, and what
 * this process does itself is not, but where it changes the tree; limits, and directories that
 * cannot be marked.
 */
#define _GNU_SOURCE
#include "export/dir_marks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host_stat.h"
#include "check.h"
#include "host_files.h"

enum { MAX = 4 };

static v9_dir_marks *marks;
static v9_qidmap *qidmap;
static v9_export *ex;
static int bell;
static bool lacking; /* this kernel has no such groups */

static v9_export *export_of(const char *path)
{
    const int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    v9_export *made;
    int32_t err;

    CHECK(fd >= 0);
    made = v9_export_new(&(struct v9_export_conf){.root_fd = fd}, qidmap, &err);
    CHECK(made);
    close(fd);
    v9_export_set_dir_marks(made, marks);
    return made;
}

SET_UP()
{
    int32_t err;

    host_begins();
    bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    qidmap = v9_qidmap_new();
    marks = v9_dir_marks_new(bell, MAX, &err);
    lacking = !marks && err != -ENOMEM;
    ex = export_of(top);
}

TEAR_DOWN()
{
    v9_export_free(ex);
    if (marks)
        v9_dir_marks_free(marks);
    v9_qidmap_free(qidmap);
    close(bell);
    host_ends();
}

#define NEEDS_MARKS()                                                                              \
    if (lacking)                                                                                   \
    SKIP("no fanotify for this user")

/* A walk reaches a directory. */
static void reach(v9_export *in, const char *path)
{
    const int fd = open(path, O_PATH | O_CLOEXEC);
    struct v9_attr attr;

    CHECK(fd >= 0 && v9_host_stat(fd, "", &attr) == 0);
    v9_dir_marks_reached(in, fd, &attr);
    close(fd);
}

static void dir(const char *name)
{
    CHECK(mkdir(host(name), 0700) == 0);
    reach(ex, host(name));
}

static uint32_t count(void)
{
    uint32_t marked;
    uint8_t full;

    v9_dir_marks_view(marks, &marked, &full);
    return marked;
}

static bool is_full(void)
{
    uint32_t marked;
    uint8_t full;

    v9_dir_marks_view(marks, &marked, &full);
    return full;
}

static bool rings(void)
{
    eventfd_t value;

    return eventfd_read(bell, &value) == 0;
}

static void write_file(const char *name)
{
    const int fd = open(host(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static void others_write(const char *name)
{
    const pid_t pid = fork();

    if (!pid) {
        write_file(name);
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
}

static _Alignas(8) uint8_t events[8192];

/* The mask of all events that are there, and whether the first one is of this directory. */
static uint64_t read_events(const struct v9_dir_note *note, bool *is_of)
{
    const int size = v9_dir_marks_read(marks, events, sizeof(events));
    const struct fanotify_event_metadata *event = (const void *)events;
    uint64_t mask = 0;
    long left = size;

    CHECK(size >= 0);
    if (note && is_of)
        *is_of = size > 0 && !memcmp(events + sizeof(*event) + 4, note->id, note->id_size);
    for (; left > 0 && FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left))
        mask |= event->mask;
    return mask;
}

TEST(what_others_change_is_reported_by_the_id_that_was_noted)
{
    struct v9_dir_note note;
    bool is_of;

    NEEDS_MARKS();
    dir("a");
    CHECK(v9_dir_marks_next(marks, &note) == 1 && note.is_root);
    CHECK(v9_dir_marks_next(marks, &note) == 1 && note.above == 1);
    CHECK(!strcmp(note.path, "a") && note.path_size == 1 && !note.is_root && !note.error);
    CHECK(v9_dir_marks_next(marks, &note) == 0);
    others_write("a/file");
    CHECK(read_events(&note, &is_of) & FAN_CREATE);
    CHECK(is_of);
    CHECK(read_events(NULL, NULL) == 0);
    CHECK(mkdir(host("b"), 0700) == 0);
    others_write("b/not-below-a-mark");
    CHECK(read_events(NULL, NULL) == 0);
}

TEST(a_directory_has_the_id_that_was_noted)
{
    struct v9_dir_note note;
    uint8_t id[V9_DIR_ID_MAX];
    int fd;

    NEEDS_MARKS();
    dir("a");
    CHECK(v9_dir_marks_next(marks, &note) == 1 && v9_dir_marks_next(marks, &note) == 1);
    fd = open(host("a"), O_PATH | O_CLOEXEC);
    CHECK(v9_dir_id(fd, id) == (int)note.id_size && !memcmp(id, note.id, note.id_size));
    close(fd);
    CHECK(v9_dir_id(-1, id) == -EBADF);
}

TEST(own_changes_are_left_out_but_for_the_tree)
{
    NEEDS_MARKS();
    reach(ex, top);
    dir("a");
    write_file("a/file");
    CHECK(unlink(host("a/file")) == 0);
    CHECK(read_events(NULL, NULL) == 0);
    CHECK(rename(host("a"), host("b")) == 0);
    CHECK(read_events(NULL, NULL) & (FAN_RENAME | FAN_MOVED_FROM));
    CHECK(rmdir(host("b")) == 0);
    CHECK(read_events(NULL, NULL) & FAN_DELETE);
}

TEST(events_of_others_among_own_ones_are_kept_whole)
{
    struct v9_dir_note note;
    bool is_of;

    NEEDS_MARKS();
    dir("a");
    CHECK(v9_dir_marks_next(marks, &note) == 1 && note.is_root);
    CHECK(v9_dir_marks_next(marks, &note) == 1 && note.above == 1);
    write_file("a/one");
    others_write("a/two");
    write_file("a/three");
    CHECK(read_events(&note, &is_of) == (FAN_CREATE | FAN_MODIFY));
    CHECK(is_of);
}

TEST(a_directory_is_marked_once_and_the_root_has_no_path)
{
    struct v9_dir_note note;

    NEEDS_MARKS();
    reach(ex, top);
    reach(ex, top);
    CHECK(count() == 1);
    CHECK(v9_dir_marks_next(marks, &note) == 1);
    CHECK(note.is_root && note.path_size == 0);
    CHECK(v9_dir_marks_next(marks, &note) == 0);
    write_file("file");
    reach(ex, host("file"));
    CHECK(count() == 1);
}

TEST(beyond_the_limit_nothing_is_marked_until_all_begins_anew)
{
    NEEDS_MARKS();
    dir("a");
    dir("b");
    dir("c");
    CHECK(!is_full() && !rings());
    dir("d");
    CHECK(is_full() && rings() && count() == MAX);
    v9_dir_marks_drop(marks, 1);
    dir("e"); /* who reads has to know first */
    CHECK(is_full() && count() == MAX - 1);
    CHECK(v9_dir_marks_clear(marks) == 0);
    CHECK(!is_full() && count() == 0);
    others_write("b/file");
    CHECK(read_events(NULL, NULL) == 0);
    reach(ex, host("b"));
    others_write("b/file");
    CHECK(read_events(NULL, NULL) & FAN_MODIFY);
}

TEST(the_number_of_a_directory_that_is_gone_is_used_again)
{
    struct v9_dir_note note;

    NEEDS_MARKS();
    reach(ex, top);
    CHECK(v9_dir_marks_next(marks, &note) == 1);
    for (int i = 0; i < 2 * MAX; i++) {
        dir("a");
        CHECK(v9_dir_marks_next(marks, &note) == 1);
        CHECK(rmdir(host("a")) == 0);
        v9_dir_marks_drop(marks, note.number);
    }
    CHECK(count() == 1 && !is_full());
}

TEST(a_directory_that_cannot_be_marked_is_noted_with_the_reason)
{
    struct v9_dir_note note;

    NEEDS_MARKS();
    CHECK(mkdir(host("a"), 0100) == 0);
    if (!geteuid())
        CHECK(chown(top, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    reach(ex, top);
    CHECK(v9_dir_marks_next(marks, &note) == 1);
    reach(ex, host("a"));
    CHECK(v9_dir_marks_next(marks, &note) == 1 && !note.error); /* before the mark was tried */
    CHECK(v9_dir_marks_next(marks, &note) == 1 && note.error == EACCES);
    CHECK(!strcmp(note.path, "a"));
    CHECK(rings() && !is_full());
    reach(ex, host("a"));
    CHECK(v9_dir_marks_next(marks, &note) == 0);
}

TEST(a_limit_of_none_or_too_many_is_refused)
{
    int32_t err = 0;

    CHECK(!v9_dir_marks_new(bell, 0, &err) && err == -ENOMEM);
    CHECK(!v9_dir_marks_new(bell, UINT32_MAX, &err) && err == -ENOMEM);
}
