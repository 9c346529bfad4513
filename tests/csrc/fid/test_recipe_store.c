// sources: fid/recipe_store.c base/arena.c
/*
 * The paths of evicted files: stored, renamed by the guest, and renewed.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fid/recipe_store.h"

static struct v9_recipe recipe_of(const char *path)
{
    struct v9_recipe recipe = {
        .path_size = (uint32_t)strlen(path), .handle_size = 3, .handle = "abc"};
    strcpy(recipe.path, path);
    return recipe;
}

TEST(paths_of_evicted_files_follow_renames)
{
    static const char *const cases[][2] = {
        {"a/b", "x/y/b"}, {"a", "x/y"}, {"ab", "ab"}, {"b/a", "b/a"}, {"a/c/d", "x/y/c/e"},
    };
    enum { COUNT = sizeof(cases) / sizeof(cases[0]), SIZE = 1 << 20 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    static struct v9_recipe_store store;
    uint32_t at[COUNT], later;
    struct v9_recipe recipe;

    memset(base, 0, SIZE);
    v9_recipes_init(&store, base, SIZE);
    for (int i = 0; i < COUNT; i++) {
        recipe = recipe_of(cases[i][0]);
        CHECK((at[i] = v9_recipes_put(&store, &recipe)) != 0);
    }
    v9_recipes_renamed(&store, 0, "a", "x");
    v9_recipes_renamed(&store, 7, "x", "another export's");
    recipe = recipe_of("a/later");
    later = v9_recipes_put(&store, &recipe);
    v9_recipes_renamed(&store, 0, "x", "x/y");
    v9_recipes_renamed(&store, 0, "x/y/c/d", "x/y/c/e");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++) {
            v9_recipes_get(&store, at[i], 0, &recipe);
            CHECK(!strcmp(recipe.path, cases[i][1]) && recipe.path_size == strlen(recipe.path));
            CHECK(recipe.handle_size == 3 && !memcmp(recipe.handle, "abc", 3));
            v9_recipes_renew(&store, &at[i], 0);
        }
        v9_recipes_get(&store, later, 0, &recipe);
        CHECK(!strcmp(recipe.path, "a/later"));
        v9_recipes_renew(&store, &later, 0);
        v9_recipes_clear_journal(&store);
    }
    for (int i = 0; i < COUNT; i++)
        v9_recipes_remove(&store, at[i]);
    v9_recipes_remove(&store, later);
    CHECK(store.count == 0);
    free(base);
}

/* A path that outgrows what a path may be leads nowhere, and is not written past its end. */
TEST(a_path_that_outgrows_its_limit_leads_nowhere)
{
    enum { SIZE = 1 << 20 };
    void *base = aligned_alloc(V9_ARENA_UNIT, SIZE);
    static struct v9_recipe_store store;
    char name[2001];
    struct v9_recipe recipe;
    uint32_t at;

    memset(base, 0, SIZE);
    v9_recipes_init(&store, base, SIZE);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    recipe = recipe_of("d/");
    strcat(recipe.path, name);
    recipe.path_size = (uint32_t)strlen(recipe.path);
    at = v9_recipes_put(&store, &recipe);
    v9_recipes_renamed(&store, 0, "d", name);
    v9_recipes_get(&store, at, 0, &recipe);
    CHECK(recipe.path_size == 4001);
    for (int i = 0; i < 2; i++) {
        char longer[4095];
        snprintf(longer, sizeof(longer), "%s/%s", name, name);
        v9_recipes_renamed(&store, 0, name, longer);
    }
    v9_recipes_get(&store, at, 0, &recipe);
    CHECK(recipe.path_size == 0 && recipe.handle_size == 3);
    v9_recipes_remove(&store, at);
    CHECK(store.count == 0 && v9_recipes_journal_count(&store) == 0);
    free(base);
}
