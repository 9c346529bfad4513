#define _GNU_SOURCE
#include "fid/dentry.h"

#include <stddef.h>
#include <string.h>

#include "base/commit.h"

void v9_dentries_init(struct v9_dentries *dentries, struct v9_arena *arena,
                      struct v9_inodes *inodes, uint32_t *heads, uint32_t buckets, uint64_t key)
{
    uint8_t *const base = arena->base;

    dentries->arena = arena;
    dentries->inodes = inodes;
    dentries->key = key;
    dentries->names =
        v9_hash_of(heads, buckets, base + offsetof(struct v9_dentry, link), V9_ARENA_UNIT, 0);
    dentries->compounds = v9_list_of(base + offsetof(struct v9_dentry, list), V9_ARENA_UNIT, 0);
}

const char *v9_dentry_text(const struct v9_dentries *dentries, const struct v9_dentry *dentry)
{
    return dentry->far ? v9_arena_at(dentries->arena, dentry->far) : dentry->text;
}

/* ---- the table ------------------------------------------------------------------------------- */

static uint32_t hash_of(const struct v9_dentries *dentries, uint32_t parent, const char *text,
                        size_t size)
{
    uint64_t mix = (parent + size) * dentries->key, part;

    for (; size >= sizeof(part); text += sizeof(part), size -= sizeof(part)) {
        memcpy(&part, text, sizeof(part));
        mix = (mix ^ part) * dentries->key;
        mix ^= mix >> 32;
    }
    part = 0;
    memcpy(&part, text, size);
    return (uint32_t)((mix ^ part) * dentries->key >> 32);
}

static void enter(struct v9_dentries *dentries, uint32_t at, uint32_t hash)
{
    v9_hash_enter(&dentries->names, at, hash);
    v9_dentry_at(dentries, at)->hashed = true;
}

/* A dentry whose name is another one now. */
static void enter_anew(struct v9_dentries *dentries, uint32_t at)
{
    const struct v9_dentry *dentry = v9_dentry_at(dentries, at);
    const char *text = v9_dentry_text(dentries, dentry);

    enter(dentries, at, hash_of(dentries, dentry->parent, text, dentry->size));
}

static void take_out(struct v9_dentries *dentries, uint32_t at)
{
    if (v9_dentry_at(dentries, at)->hashed)
        v9_hash_take_out(&dentries->names, at);
    v9_dentry_at(dentries, at)->hashed = false;
}

static uint32_t find_hashed(const struct v9_dentries *dentries, uint32_t hash, uint32_t parent,
                            const char *text, size_t size)
{
    const struct v9_dentry *dentry;
    uint32_t at;

    for (at = *v9_hash_head(&dentries->names, hash); at; at = dentry->link.next) {
        dentry = v9_dentry_at(dentries, at);
        if (dentry->link.hash == hash && dentry->parent == parent && dentry->size == size &&
            !memcmp(v9_dentry_text(dentries, dentry), text, size))
            break;
    }
    return at;
}

static uint32_t find(const struct v9_dentries *dentries, uint32_t parent, const char *text,
                     size_t size)
{
    return find_hashed(dentries, hash_of(dentries, parent, text, size), parent, text, size);
}

uint32_t v9_dentry_find(const struct v9_dentries *dentries, uint32_t parent, const char *name)
{
    return find(dentries, parent, name, strlen(name));
}

/* ---- dentries -------------------------------------------------------------------------------- */

/* Enters a dentry into the list of those of several components, or takes it out. */
static void set_compound(struct v9_dentries *dentries, uint32_t at, bool compound)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);

    if (dentry->compound != compound)
        (compound ? v9_list_append : v9_list_remove)(&dentries->compounds, at);
    dentry->compound = compound;
}

/* A new one, with a reference, which takes one of its parent over; 0: no room. */
static uint32_t make(struct v9_dentries *dentries, uint32_t parent, const char *text, size_t size)
{
    const uint32_t at = v9_arena_take(dentries->arena, sizeof(struct v9_dentry) + size + 1);
    struct v9_dentry *dentry;

    if (!at)
        return 0;
    dentry = v9_dentry_at(dentries, at);
    *dentry = (struct v9_dentry){.parent = parent, .refs = 1, .size = (uint16_t)size};
    dentry->room = dentry->size;
    dentry->export = parent ? v9_dentry_at(dentries, parent)->export : 0;
    memcpy(dentry->text, text, size);
    dentry->text[size] = 0;
    dentries->count++;
    return at;
}

/* With a reference: the dentry of a text, made if there is none. */
static uint32_t child_of(struct v9_dentries *dentries, uint32_t parent, const char *text,
                         size_t size)
{
    const uint32_t hash = hash_of(dentries, parent, text, size);
    uint32_t at = find_hashed(dentries, hash, parent, text, size);

    if (at) {
        v9_dentry_at(dentries, at)->refs++;
        return at;
    }
    at = make(dentries, parent, text, size);
    if (!at)
        return 0;
    v9_dentry_at(dentries, parent)->refs++;
    enter(dentries, at, hash);
    set_compound(dentries, at, memchr(text, '/', size) != NULL);
    return at;
}

/*
 * The same, so that there is one dentry for each name: while there is one of several components,
 * none of the first of these is beside it.
 */
static uint32_t reach(struct v9_dentries *dentries, uint32_t parent, const char *text, size_t size)
{
    const char *slash;
    uint32_t above;

    while ((slash = memchr(text, '/', size)) &&
           (above = find(dentries, parent, text, (size_t)(slash - text)))) {
        parent = above;
        size -= (size_t)(slash + 1 - text);
        text = slash + 1;
    }
    if (!slash && dentries->compounds.count && !find(dentries, parent, text, size))
        v9_dentry_split_all(dentries);
    return child_of(dentries, parent, text, size);
}

static uint32_t root_of(struct v9_dentries *dentries, uint32_t export)
{
    uint32_t *root = &dentries->roots[export];

    if (!*root && (*root = make(dentries, 0, "", 0))) {
        v9_dentry_at(dentries, *root)->export = (uint16_t)export;
        v9_dentry_at(dentries, *root)->fixed = true;
    }
    return *root;
}

/* All that is passed on the way is held by what the caller holds. */
uint32_t v9_dentry_follow(struct v9_dentries *dentries, const struct v9_route *route)
{
    uint32_t at = route->root >= 0 ? root_of(dentries, (uint32_t)route->root) : route->from;

    for (uint32_t i = 0; at && i < route->ups; i++) {
        if (v9_dentry_at(dentries, at)->compound)
            v9_dentry_split_all(dentries);
        if (v9_dentry_at(dentries, at)->parent)
            at = v9_dentry_at(dentries, at)->parent;
    }
    if (at && route->size)
        return reach(dentries, at, route->text, route->size);
    if (at)
        v9_dentry_at(dentries, at)->refs++;
    return at;
}

uint32_t v9_dentry_drop(struct v9_dentries *dentries, uint32_t at, struct v9_deferred *deferred)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);
    const uint32_t parent = dentry->parent;

    if (--dentry->refs)
        return 0;
    take_out(dentries, at);
    set_compound(dentries, at, false);
    if (dentry->inode)
        v9_inodes_release(dentries->inodes, dentry->inode, deferred);
    if (dentry->far)
        v9_arena_give(dentries->arena, dentry->far, dentry->size + 1u);
    v9_arena_give(dentries->arena, at, sizeof(*dentry) + dentry->room + 1);
    dentries->count--;
    return parent;
}

void v9_dentry_bind(struct v9_dentries *dentries, uint32_t at, uint32_t inode, uint64_t now,
                    struct v9_deferred *deferred)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);
    const uint32_t old = dentry->fixed ? inode : dentry->inode;

    if (!dentry->fixed) {
        __atomic_store_n(&dentry->inode, inode, __ATOMIC_RELAXED);
        __atomic_store_n(&dentry->checked, now, __ATOMIC_RELAXED);
        dentry->settled = 0;
        dentries->rebound += old && old != inode;
    }
    if (old)
        v9_inodes_release(dentries->inodes, old, deferred);
}

uint64_t v9_dentry_settled(const struct v9_dentries *dentries, uint32_t at, uint32_t inode,
                           uint64_t now)
{
    const struct v9_dentry *dentry = v9_dentry_at(dentries, at);

    if (dentry->settled && dentry->inode == inode && dentry->rebound == dentries->rebound &&
        now - dentry->checked < V9_SETTLED_BELIEF &&
        v9_dentry_is_fresh(v9_dentry_at(dentries, dentry->parent), now))
        return dentry->settled;
    return 0;
}

bool v9_dentry_is(const struct v9_dentries *dentries, uint32_t at, uint32_t inode)
{
    const uint32_t own = v9_dentry_at(dentries, at)->inode;

    return own == inode || (own && v9_inodes_are_same(dentries->inodes, own, inode)) ||
           !v9_dentry_at(dentries, at)->parent;
}

/* ---- changes of names ------------------------------------------------------------------------ */

static void fix(struct v9_dentries *dentries, uint32_t at)
{
    take_out(dentries, at);
    set_compound(dentries, at, false);
    __atomic_store_n(&v9_dentry_at(dentries, at)->fixed, true, __ATOMIC_RELAXED);
}

/* Gives a dentry another name as one step: whoever finds a change that is due makes it again. */
static void apply(struct v9_dentries *dentries)
{
    const struct v9_dentry_change *to = &dentries->change;
    struct v9_dentry *dentry = v9_dentry_at(dentries, to->at);

    dentry->parent = to->parent;
    dentry->far = to->far;
    dentry->size = to->size;
    V9_COMMIT();
    dentries->change.at = 0;
}

/* Moves a dentry that is not hashed; false: no room. */
static bool rename_to(struct v9_dentries *dentries, uint32_t at, uint32_t parent, const char *text)
{
    const struct v9_dentry *dentry = v9_dentry_at(dentries, at);
    const uint32_t old = dentry->far, old_size = dentry->size;
    const size_t size = strlen(text);
    const uint32_t far = v9_arena_take(dentries->arena, size + 1);

    if (!far)
        return false;
    memcpy(v9_arena_at(dentries->arena, far), text, size + 1);
    dentries->change = (struct v9_dentry_change){0, parent, far, (uint16_t)size};
    V9_COMMIT();
    dentries->change.at = at;
    V9_COMMIT();
    apply(dentries);
    if (old)
        v9_arena_give(dentries->arena, old, old_size + 1u);
    return true;
}

static void split(struct v9_dentries *dentries, uint32_t at);

/* Splits those whose text another one begins with. */
static void split_shorter(struct v9_dentries *dentries, uint32_t parent, const char *text)
{
    const char *slash = strchr(text, '/');
    uint32_t at;

    while ((slash = strchr(slash + 1, '/')))
        if ((at = find(dentries, parent, text, (size_t)(slash - text))))
            split(dentries, at);
}

/* Each component but the last gets a dentry, which holds those above it. */
static void split(struct v9_dentries *dentries, uint32_t at)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);
    const char *text = v9_dentry_text(dentries, dentry), *slash;
    uint32_t parent = dentry->parent, child;

    split_shorter(dentries, parent, text);
    take_out(dentries, at);
    set_compound(dentries, at, false);
    while ((slash = strchr(text, '/'))) {
        child = child_of(dentries, parent, text, (size_t)(slash - text));
        if (!child)
            break;
        v9_dentry_at(dentries, parent)->refs--; /* the child has one */
        parent = child;
        text = slash + 1;
    }
    if (slash || !rename_to(dentries, at, parent, text)) {
        fix(dentries, at); /* no room: it stays what it is */
        dentry->parent = parent;
    } else {
        enter_anew(dentries, at);
    }
}

void v9_dentry_split_all(struct v9_dentries *dentries)
{
    while (dentries->compounds.count)
        split(dentries, dentries->compounds.first);
}

void v9_dentry_lose(struct v9_dentries *dentries, uint32_t parent, const char *name, bool gone)
{
    const size_t size = strlen(name);
    const uint32_t hash = hash_of(dentries, parent, name, size);
    uint32_t at;

    while ((at = find_hashed(dentries, hash, parent, name, size))) {
        v9_dentry_at(dentries, at)->gone = gone;
        V9_COMMIT();
        fix(dentries, at);
    }
}

static bool is_below(const struct v9_dentries *dentries, uint32_t at, uint32_t above)
{
    while (at && at != above)
        at = v9_dentry_at(dentries, at)->parent;
    return at == above;
}

void v9_dentry_move(struct v9_dentries *dentries, uint32_t parent, const char *old, uint32_t into,
                    const char *name, bool again)
{
    const size_t size = strlen(old);
    const uint32_t hash = hash_of(dentries, parent, old, size);
    uint32_t at = find_hashed(dentries, hash, parent, old, size), more = 0;

    if ((parent == into && !strcmp(old, name)) || (again && !at))
        return;
    v9_dentry_lose(dentries, into, name, true);
    /* They leave the table before any enters it anew. */
    for (; at; at = find_hashed(dentries, hash, parent, old, size)) {
        take_out(dentries, at);
        v9_dentry_at(dentries, at)->link.next = more;
        more = at;
    }
    for (; more; more = at) {
        at = v9_dentry_at(dentries, more)->link.next;
        /* A host that moved directories between may have made a circle of it. */
        if (is_below(dentries, into, more) || !rename_to(dentries, more, into, name)) {
            fix(dentries, more);
            continue;
        }
        v9_dentry_at(dentries, parent)->refs--; /* the caller holds it */
        v9_dentry_at(dentries, into)->refs++;
        enter_anew(dentries, more);
    }
}

/* ---- after a death --------------------------------------------------------------------------- */

/* A flag in memory that may hold anything. */
static bool read_flag(const bool *flag)
{
    uint8_t byte;

    memcpy(&byte, flag, sizeof(byte));
    return byte & 1;
}

/* Whether the text is one: components that fit where names are copied to. */
static bool is_text(const char *text, uint32_t size)
{
    uint32_t length = 0;

    for (uint32_t i = 0; i < size; i++) {
        length = text[i] == '/' ? 0 : length + 1;
        if (!text[i] || length >= V9_NAME_SIZE)
            return false;
    }
    return !text[size];
}

/* Whether a dentry can be one. */
static bool is_whole(const struct v9_dentries *dentries, uint32_t at)
{
    const struct v9_dentry *dentry = v9_dentry_at(dentries, at);

    if (!v9_arena_holds(dentries->arena, at, sizeof(*dentry)) ||
        !v9_arena_holds(dentries->arena, at, sizeof(*dentry) + dentry->room + 1) ||
        !v9_inodes_has_export(dentries->inodes, dentry->export))
        return false;
    if (dentry->far ? !v9_arena_holds(dentries->arena, dentry->far, dentry->size + 1u)
                    : dentry->size > dentry->room)
        return false;
    return is_text(v9_dentry_text(dentries, dentry), dentry->size);
}

/* Marks the pieces of a dentry; false where it is none. */
static bool mark(const struct v9_dentries *dentries, struct v9_arena_marks *marks, uint32_t at)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);

    if (!is_whole(dentries, at) ||
        !v9_arena_mark(dentries->arena, marks, at, sizeof(*dentry) + dentry->room + 1) ||
        (dentry->far && !v9_arena_mark(dentries->arena, marks, dentry->far, dentry->size + 1u)))
        return false;
    dentry->fixed = read_flag(&dentry->fixed);
    dentry->gone = read_flag(&dentry->gone) && dentry->fixed;
    v9_arena_mark_head(marks, at);
    return true;
}

/* Enters a marked dentry, with a reference. */
static void revive(struct v9_dentries *dentries, uint32_t at, uint32_t turn)
{
    struct v9_dentry *dentry = v9_dentry_at(dentries, at);

    dentries->count++;
    dentry->refs = 1;
    dentry->checked = turn; /* long ago */
    dentry->settled = 0;
    dentry->hashed = dentry->compound = false;
    if (dentry->fixed)
        return;
    enter_anew(dentries, at);
    set_compound(dentries, at, strchr(v9_dentry_text(dentries, dentry), '/') != NULL);
}

bool v9_dentry_recover(struct v9_dentries *dentries, struct v9_arena_marks *marks, uint32_t at,
                       uint32_t turn)
{
    struct v9_dentry *dentry = NULL;
    uint32_t below = 0;

    for (; at; below = at, at = dentry->parent) {
        if (v9_arena_is_head(dentries->arena, marks, at) &&
            v9_dentry_at(dentries, at)->checked < turn) {
            v9_dentry_at(dentries, at)->refs++;
            return true;
        }
        if (!mark(dentries, marks, at))
            break;
        dentry = v9_dentry_at(dentries, at);
        revive(dentries, at, turn);
        if (dentry->inode && !v9_inode_recover(dentries->inodes, marks, dentry->inode))
            dentry->inode = 0;
    }
    if (at && below) {
        fix(dentries, below);
        v9_dentry_at(dentries, below)->parent = 0;
    }
    return !at || below;
}

static bool is_root(const struct v9_dentry *dentry)
{
    return !dentry->parent && !dentry->size && !dentry->far && !dentry->inode;
}

void v9_dentries_recover(struct v9_dentries *dentries, struct v9_arena_marks *marks)
{
    if (v9_arena_holds(dentries->arena, dentries->change.at, sizeof(struct v9_dentry)))
        apply(dentries);
    dentries->change.at = 0;
    v9_hash_clear(&dentries->names);
    dentries->count = 0;
    for (uint32_t export = 0; export < V9_EXPORTS_MAX; export ++) {
        const uint32_t root = dentries->roots[export];
        if (root && mark(dentries, marks, root) && is_root(v9_dentry_at(dentries, root))) {
            v9_dentry_at(dentries, root)->export = (uint16_t)export;
            v9_dentry_at(dentries, root)->fixed = true;
            revive(dentries, root, 0);
        } else {
            dentries->roots[export] = 0;
        }
    }
}
