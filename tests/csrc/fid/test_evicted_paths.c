// sources: fid/evicted.c base/arena.c
/*
 * The paths of evicted files: stored, renamed by the guest, and renewed.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fid/evicted.h"

static struct v9_recipe way_of(const char *path)
{
    struct v9_recipe way = {.path_size = (uint32_t)strlen(path), .handle_size = 3, .handle = "abc"};
    strcpy(way.path, path);
    return way;
}

TEST(paths_of_evicted_files_follow_renames)
{
    static const char *const cases[][2] = {
        {"a/b", "x/y/b"}, {"a", "x/y"}, {"ab", "ab"}, {"b/a", "b/a"}, {"a/c/d", "x/y/c/e"},
    };
    enum { COUNT = sizeof(cases) / sizeof(cases[0]), SIZE = 1 << 20 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    static struct v9_evicted park;
    uint32_t at[COUNT], later;
    struct v9_recipe way;

    memset(base, 0, SIZE);
    v9_arena_init(&park.heap, base, SIZE);
    for (int i = 0; i < COUNT; i++) {
        way = way_of(cases[i][0]);
        CHECK((at[i] = v9_evicted_store(&park, &way)) != 0);
    }
    v9_evicted_renamed(&park, 0, "a", "x");
    v9_evicted_renamed(&park, 7, "x", "another export's");
    way = way_of("a/later");
    later = v9_evicted_store(&park, &way);
    v9_evicted_renamed(&park, 0, "x", "x/y");
    v9_evicted_renamed(&park, 0, "x/y/c/d", "x/y/c/e");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++) {
            v9_evicted_load(&park, at[i], 0, &way);
            CHECK(!strcmp(way.path, cases[i][1]) && way.path_size == strlen(way.path));
            CHECK(way.handle_size == 3 && !memcmp(way.handle, "abc", 3));
            at[i] = v9_evicted_renew(&park, at[i], 0);
        }
        v9_evicted_load(&park, later, 0, &way);
        CHECK(!strcmp(way.path, "a/later"));
        later = v9_evicted_renew(&park, later, 0);
        v9_evicted_clear_journal(&park);
    }
    for (int i = 0; i < COUNT; i++)
        v9_evicted_forget(&park, at[i]);
    v9_evicted_forget(&park, later);
    CHECK(park.count == 0);
    free(base);
}

/* A path that outgrows what a path may be leads nowhere, and is not written past its end. */
TEST(a_path_that_outgrows_its_limit_leads_nowhere)
{
    enum { SIZE = 1 << 20 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    static struct v9_evicted park;
    char name[2001];
    struct v9_recipe way;
    uint32_t at;

    memset(base, 0, SIZE);
    v9_arena_init(&park.heap, base, SIZE);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    way = way_of("d/");
    strcat(way.path, name);
    way.path_size = (uint32_t)strlen(way.path);
    at = v9_evicted_store(&park, &way);
    v9_evicted_renamed(&park, 0, "d", name);
    v9_evicted_load(&park, at, 0, &way);
    CHECK(way.path_size == 4001);
    for (int i = 0; i < 2; i++) {
        char longer[4095];
        snprintf(longer, sizeof(longer), "%s/%s", name, name);
        v9_evicted_renamed(&park, 0, name, longer);
    }
    v9_evicted_load(&park, at, 0, &way);
    CHECK(way.path_size == 0 && way.handle_size == 3);
    v9_evicted_forget(&park, at);
    CHECK(park.count == 0 && park.rename_count == 0);
    free(base);
}
