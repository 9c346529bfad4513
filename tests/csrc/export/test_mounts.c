// sources: export/mounts.c
/*
 * Views of mounts: names that are found, generations that end, views that are outrun by changes,
 * readers beside a writer. A pipe stands in for the mount table: poll(2) finds one whose other end
 * is closed in an exceptional state, each time, and no other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "export/mounts.h"

enum { FAR = 4096 }; /* mounts so far apart share a place */

struct table {
    v9_mounts *mounts;
    int pipe[2];
};

static struct table open_table(void)
{
    struct table table;
    int32_t err = 1;

    CHECK(pipe2(table.pipe, O_CLOEXEC) == 0);
    table.mounts = v9_mounts_new(table.pipe[1], &err);
    CHECK(table.mounts && err == 0);
    return table;
}

/* From now on, the mount table changes before each poll. */
static void never_rests(struct table *table)
{
    close(table->pipe[0]);
    table->pipe[0] = -1;
}

static void close_table(struct table *table)
{
    v9_mounts_free(table->mounts);
    for (int i = 0; i < 2; i++)
        if (table->pipe[i] >= 0)
            close(table->pipe[i]);
}

static uint64_t generation_of(struct table *table)
{
    uint64_t generation = 0;

    CHECK(v9_mounts_view(table->mounts, FAR - 1, &generation) == NULL);
    return generation;
}

static bool has(const struct v9_view *view, const char *name)
{
    return v9_view_names(view, name, strlen(name));
}

TEST(a_view_has_exactly_its_names)
{
    static const char text[] = "a\0ab\0exactly8\0more than eight\0exactly sixteen!\0exactly8";
    static const char *const there[] = {"a", "ab", "exactly8", "more than eight",
                                        "exactly sixteen!"};
    static const char *const not_there[] = {
        "", "b", "abc", "exactly9", "exactly", "more than", "exactly sixteen", "more than eight "};
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    struct v9_view *view;

    CHECK(v9_mounts_set(table.mounts, 7, generation, V9_LOOK_DIRS, text, sizeof(text)) == 0);
    CHECK(v9_mounts_set(table.mounts, 8, generation, V9_LOOK_NAMED, "", 0) == 0);
    view = v9_mounts_view(table.mounts, 7, &generation);
    if (!CHECK(view && view->look == V9_LOOK_DIRS))
        return;
    for (size_t i = 0; i < sizeof(there) / sizeof(there[0]); i++)
        CHECK(has(view, there[i]));
    for (size_t i = 0; i < sizeof(not_there) / sizeof(not_there[0]); i++)
        CHECK(!has(view, not_there[i]));
    v9_view_leave(view);
    view = v9_mounts_view(table.mounts, 8, &generation);
    CHECK(view && !view->count && !has(view, "a"));
    v9_view_leave(view);
    close_table(&table);
}

TEST(a_view_finds_each_of_many_names)
{
    enum { MANY = 20000 };
    static char text[MANY * 8];
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    struct v9_view *view;
    size_t size = 0;
    int wrong = 0;
    char name[16];

    for (int i = 0; i < MANY; i++)
        size += (size_t)sprintf(text + size, "m%d", i) + 1;
    CHECK(v9_mounts_set(table.mounts, 7, generation, 0, text, (uint32_t)size) == 0);
    view = v9_mounts_view(table.mounts, 7, &generation);
    for (int i = 0; i < 2 * MANY; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        wrong += has(view, name) != (i < MANY);
    }
    CHECK(!wrong);
    v9_view_leave(view);
    close_table(&table);
}

TEST(impossible_views_are_refused)
{
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    int32_t err = 0;

    CHECK(v9_mounts_new(-1, &err) == NULL && err == -EBADF);
    CHECK(v9_mounts_set(table.mounts, 0, generation, 0, "", 0) == -EINVAL);
    CHECK(v9_mounts_set(table.mounts, 1, generation, V9_LOOK_ALL + 1, "", 0) == -EINVAL);
    CHECK(v9_mounts_set(table.mounts, 1, generation, 0, "ab", 2) == -EINVAL);
    CHECK(v9_mounts_view(table.mounts, 1, &generation) == NULL);
    close_table(&table);
}

TEST(two_mounts_of_one_place_replace_each_other)
{
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    struct v9_view *one, *other;

    CHECK(v9_mounts_set(table.mounts, 7, generation, 0, "one", 4) == 0);
    one = v9_mounts_view(table.mounts, 7, &generation);
    CHECK(v9_mounts_set(table.mounts, 7 + FAR, generation, 0, "other", 6) == 0);
    CHECK(v9_mounts_view(table.mounts, 7, &generation) == NULL);
    other = v9_mounts_view(table.mounts, 7 + FAR, &generation);
    CHECK(one && other && has(one, "one") && has(other, "other") && !has(other, "one"));
    CHECK(v9_mounts_hold(table.mounts, one) && v9_mounts_hold(table.mounts, other));
    v9_view_leave(one);
    v9_view_leave(other);
    close_table(&table);
}

TEST(a_change_of_the_mount_table_outdates_every_view)
{
    struct table table = open_table();
    uint64_t first = generation_of(&table), now = first;
    struct v9_view *view;

    CHECK(v9_mounts_set(table.mounts, 7, first, 0, "one", 4) == 0);
    view = v9_mounts_view(table.mounts, 7, &now);
    CHECK(view && now == first && v9_mounts_hold(table.mounts, view));
    never_rests(&table);
    CHECK(!v9_mounts_hold(table.mounts, view));
    CHECK(has(view, "one")); /* it is ours until it is left */
    v9_view_leave(view);
    CHECK(v9_mounts_view(table.mounts, 7, &now) == NULL && now > first);
    /* A table that was read before the change is not taken for the present one. */
    CHECK(v9_mounts_set(table.mounts, 7, first, 0, "old", 4) == 0);
    CHECK(v9_mounts_set(table.mounts, 7, now, 0, "new", 4) == 0);
    CHECK(v9_mounts_set(table.mounts, 7, first, 0, "old", 4) == 0);
    close(table.pipe[1]); /* our own descriptor is left, and works as before */
    table.pipe[1] = -1;
    CHECK(v9_mounts_view(table.mounts, 7, &now) == NULL);
    close_table(&table);
}

TEST(a_view_older_or_newer_than_the_table_is_not_installed)
{
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    struct v9_view *view;

    CHECK(v9_mounts_set(table.mounts, 7, generation + 1, 0, "future", 7) == 0);
    CHECK(v9_mounts_view(table.mounts, 7, &generation) == NULL);
    CHECK(v9_mounts_set(table.mounts, 7, generation, 0, "now", 4) == 0);
    CHECK(v9_mounts_set(table.mounts, 7, generation - 1, 0, "past", 5) == 0);
    view = v9_mounts_view(table.mounts, 7, &generation);
    CHECK(view && has(view, "now") && !has(view, "past"));
    v9_view_leave(view);
    close_table(&table);
}

/* ---- readers beside a writer ----------------------------------------------------------------- */

enum { TURNS = 20000 };

static void *read_views(void *argument)
{
    struct table *table = argument;
    uint64_t generation;
    unsigned seen = 0, torn = 0;

    for (int i = 0; i < TURNS || !seen; i++) { /* the writer ends with a view that stays */
        struct v9_view *view = v9_mounts_view(table->mounts, 7, &generation);
        if (!view)
            continue;
        torn += has(view, "even") == has(view, "odd");
        seen += v9_mounts_hold(table->mounts, view);
        v9_view_leave(view);
    }
    CHECK(!torn);
    return NULL;
}

TEST(readers_beside_a_writer_see_whole_views)
{
    struct table table = open_table();
    uint64_t generation = generation_of(&table);
    pthread_t readers[2];

    CHECK(v9_mounts_set(table.mounts, 7, generation, 0, "even", 5) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&readers[i], NULL, read_views, &table) == 0);
    for (int i = 0; i < TURNS; i++)
        v9_mounts_set(table.mounts, i % 3 ? 7 : 7 + FAR, generation, 0, i % 2 ? "odd" : "even",
                      i % 2 ? 4 : 5);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    close_table(&table);
}
