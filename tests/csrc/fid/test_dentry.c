// sources: base/arena.c base/hash_table.c fid/dentry.c
/*
 * Dentries: at random, names are reached by steps and at once, dropped, removed and renamed; each
 * has the path that it ought to have, and there is one for each. In the end nothing is left.
 */
#define _GNU_SOURCE
#include "fid/dentry.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { HELD = 64, TURNS = 40000, ROOM = 1 << 20, BUCKETS = 16, PATH = 6000 };

/* A dentry that is held, and its path; "" of one that is fixed. */
static struct {
    uint32_t at;
    char path[PATH];
} held[HELD];
static struct v9_dentries dentries;
static struct v9_arena arena;
static uint32_t buckets[BUCKETS];

void v9_inodes_release(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred)
{
    CHECK(!inodes && index && deferred);
}

bool v9_inode_recover(struct v9_inodes *inodes, struct v9_arena_marks *marks, uint32_t index)
{
    return CHECK(!"an inode was recovered") && inodes && marks && index;
}

bool v9_inodes_are_same(const struct v9_inodes *inodes, uint32_t one, uint32_t other)
{
    return !inodes && one == other;
}

static void drop(uint32_t at)
{
    V9_DEFERRED(deferred);

    while (at)
        at = v9_dentry_drop(&dentries, at, &deferred);
}

static void path_of(uint32_t at, char path[PATH])
{
    const struct v9_dentry *dentry = v9_dentry_at(&dentries, at);

    if (!dentry->parent) {
        path[0] = 0;
        return;
    }
    path_of(dentry->parent, path);
    if (*path)
        strcat(path, "/");
    strcat(path, v9_dentry_text(&dentries, dentry));
}

static bool is_fixed(uint32_t at)
{
    for (; v9_dentry_at(&dentries, at)->parent; at = v9_dentry_at(&dentries, at)->parent)
        if (v9_dentry_at(&dentries, at)->fixed)
            return true;
    return false;
}

static void check_all(void)
{
    char path[PATH];

    for (int i = 0; i < HELD; i++) {
        if (!held[i].at)
            continue;
        CHECK(is_fixed(held[i].at) == !*held[i].path);
        if (!*held[i].path)
            continue;
        path_of(held[i].at, path);
        CHECK(!strcmp(path, held[i].path));
        for (int j = 0; j < i; j++)
            if (held[j].at && *held[j].path && !strcmp(held[i].path, held[j].path))
                CHECK(held[i].at == held[j].at);
    }
}

/* "a/bb/a…", of some components. */
static void choose(char path[PATH], int most)
{
    const char *names[] = {"a", "bb", "a-name-that-takes-more-room"};

    path[0] = 0;
    for (int i = 1 + rand() % most; i; i--)
        strcat(strcat(path, *path ? "/" : ""), names[rand() % 3]);
}

static uint32_t reach(const char *path)
{
    const struct v9_route route = {.root = 0, .size = (uint32_t)strlen(path), .text = path};

    return v9_dentry_follow(&dentries, &route);
}

/* The directory above a path, held, and its last component. */
static uint32_t reach_above(const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    const struct v9_route route = {
        .root = 0, .size = slash ? (uint32_t)(slash - path) : 0, .text = path};

    *name = slash ? slash + 1 : path;
    return v9_dentry_follow(&dentries, &route);
}

static bool is_at(const char *path, const char *top)
{
    const size_t size = strlen(top);

    return !strncmp(path, top, size) && (!path[size] || path[size] == '/');
}

static void lose(const char *path)
{
    for (int i = 0; i < HELD; i++)
        if (held[i].at && *held[i].path && is_at(held[i].path, path))
            held[i].path[0] = 0;
}

static void rename_held(const char *old, const char *new)
{
    char path[2 * PATH];

    for (int i = 0; i < HELD; i++)
        if (held[i].at && *held[i].path && is_at(held[i].path, old)) {
            strcat(strcpy(path, new), held[i].path + strlen(old));
            strcpy(held[i].path, path);
        }
}

static void change(void)
{
    char old[PATH], new[PATH];
    const char *last, *name;
    uint32_t from, into;

    choose(old, 4);
    choose(new, 4);
    from = reach_above(old, &last);
    into = reach_above(new, &name);
    v9_dentry_split_all(&dentries);
    if (rand() % 2) {
        v9_dentry_lose(&dentries, from, last, true);
        lose(old);
    } else if (!is_at(new, old) && !is_at(old, new)) {
        v9_dentry_move(&dentries, from, last, into, name, false);
        lose(new);
        rename_held(old, new);
    }
    drop(from);
    drop(into);
}

static void step(void)
{
    const int i = rand() % HELD;

    if (held[i].at) {
        drop(held[i].at);
        held[i].at = 0;
    } else {
        choose(held[i].path, 5);
        held[i].at = reach(held[i].path);
        CHECK(held[i].at);
    }
}

SET_UP()
{
    static _Alignas(64) uint8_t room[ROOM];

    v9_arena_init(&arena, room, sizeof(room));
    v9_dentries_init(&dentries, &arena, NULL, buckets, BUCKETS, 0x9E3779B97F4A7C15ull);
}

TEST(held_names_keep_their_paths_while_others_come_and_go)
{
    srand(1);
    for (int turn = 0; turn < TURNS; turn++) {
        if (turn % 3)
            step();
        else
            change();
        if (turn % 16 == 0)
            v9_dentry_split_all(&dentries);
        check_all();
    }
    for (int i = 0; i < HELD; i++)
        drop(held[i].at);
    CHECK(dentries.count == 1); /* the root */
}

TEST(a_name_without_room_is_refused)
{
    char path[PATH];

    drop(reach("a")); /* which leaves the root */
    memset(path, 'x', PATH - 1);
    path[PATH - 1] = 0;
    arena.units = arena.used;
    memset(arena.free, 0, sizeof(arena.free));
    CHECK(reach(path) == 0);
}
