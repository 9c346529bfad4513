#include "fid/recipe_store.h"

#include <string.h>
#include <sys/stat.h>

#include "base/commit.h"

struct record {
    uint64_t seq; /* renames noted before it was stored */
    int32_t handle_type;
    uint16_t path_size;
    uint8_t handle_size;
    char bytes[]; /* handle, path, NUL; a path that was lost begins with NUL */
};

static char *path_of(const struct record *record)
{
    return (char *)record->bytes + record->handle_size;
}

static size_t record_size(uint32_t handle_size, uint32_t path_size)
{
    return offsetof(struct record, bytes) + handle_size + path_size + 1;
}

void v9_recipes_init(struct v9_recipe_store *store, void *base, size_t size)
{
    memset(store, 0, sizeof(*store));
    v9_arena_init(&store->arena, base, size);
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        store->anchors[i].fd = -1;
}

uint32_t v9_recipes_put(struct v9_recipe_store *store, const struct v9_recipe *recipe)
{
    uint32_t at = v9_arena_take(&store->arena, record_size(recipe->handle_size, recipe->path_size));
    struct record *record;

    if (!at)
        return 0;
    record = v9_arena_at(&store->arena, at);
    *record = (struct record){
        .seq = store->seq,
        .handle_type = recipe->handle_type,
        .path_size = (uint16_t)recipe->path_size,
        .handle_size = (uint8_t)recipe->handle_size,
    };
    memcpy(record->bytes, recipe->handle, recipe->handle_size);
    memcpy(record->bytes + recipe->handle_size, recipe->path, recipe->path_size);
    record->bytes[recipe->handle_size + recipe->path_size] = 0;
    store->count++;
    return at;
}

static bool is_recipe(uint32_t at)
{
    return at != V9_RECIPE_NONE && at != V9_RECIPE_DUE;
}

void v9_recipes_remove(struct v9_recipe_store *store, uint32_t at)
{
    const struct record *record = v9_arena_at(&store->arena, at);

    if (!is_recipe(at))
        return;
    v9_arena_give(&store->arena, at, record_size(record->handle_size, record->path_size));
    if (--store->count == 0)
        v9_recipes_clear_journal(store);
}

/* ---- renames --------------------------------------------------------------------------------- */

/* Follows a rename of the file, or of a directory that it is in. One whose text is lost, or a path
 * that becomes too long, leaves no path. */
static void apply(const struct v9_recipe_store *store, const struct v9_rename *rename,
                  struct v9_recipe *recipe)
{
    const char *old = v9_arena_at(&store->arena, rename->text), *new = old + rename->old_size + 1;
    size_t rest;

    if (!rename->text) {
        recipe->path_size = 0;
        return;
    }
    if (recipe->path_size < rename->old_size || memcmp(recipe->path, old, rename->old_size) ||
        (recipe->path[rename->old_size] && recipe->path[rename->old_size] != '/'))
        return;
    rest = recipe->path_size - rename->old_size;
    if (rename->new_size + rest >= sizeof(recipe->path)) {
        recipe->path_size = 0;
        return;
    }
    memmove(recipe->path + rename->new_size, recipe->path + rename->old_size, rest + 1);
    memcpy(recipe->path, new, rename->new_size);
    recipe->path_size = rename->new_size + (uint32_t)rest;
}

void v9_recipes_get(const struct v9_recipe_store *store, uint32_t at, uint32_t export,
                    struct v9_recipe *recipe)
{
    const struct record *record = v9_arena_at(&store->arena, at);
    const uint32_t count = v9_recipes_journal_count(store);
    uint32_t from;

    recipe->path_size = recipe->handle_size = 0;
    if (!is_recipe(at))
        return;
    recipe->handle_type = record->handle_type;
    recipe->handle_size = record->handle_size;
    recipe->path_size = *path_of(record) ? record->path_size : 0;
    memcpy(recipe->handle, record->bytes, record->handle_size);
    memcpy(recipe->path, path_of(record), record->path_size + 1u);
    from = record->seq > store->first ? (uint32_t)(record->seq - store->first) : 0;
    for (uint32_t i = from; i < count && recipe->path_size; i++)
        if (store->renames[i].export == export)
            apply(store, &store->renames[i], recipe);
}

void v9_recipes_renew(struct v9_recipe_store *store, uint32_t *at, uint32_t export)
{
    const uint32_t old = *at;
    struct record *record = v9_arena_at(&store->arena, old);
    struct v9_recipe recipe;
    uint32_t renewed;

    if (!is_recipe(old))
        return;
    v9_recipes_get(store, old, export, &recipe);
    renewed = v9_recipes_put(store, &recipe);
    if (!renewed) {
        *path_of(record) = 0;
        return;
    }
    V9_COMMIT();
    *at = renewed;
    V9_COMMIT();
    v9_arena_give(&store->arena, old, record_size(record->handle_size, record->path_size));
    store->count--;
}

void v9_recipes_renamed(struct v9_recipe_store *store, uint32_t export, const char *old,
                        const char *new)
{
    const size_t old_size = strlen(old), new_size = strlen(new);
    const uint32_t at = v9_arena_take(&store->arena, old_size + new_size + 2);

    if (at) {
        char *text = v9_arena_at(&store->arena, at);
        memcpy(text, old, old_size + 1);
        memcpy(text + old_size + 1, new, new_size + 1);
    }
    store->renames[v9_recipes_journal_count(store)] =
        (struct v9_rename){export, at, (uint32_t)old_size, (uint32_t)new_size};
    V9_COMMIT();
    store->seq++;
}

bool v9_recipes_journal_is_full(const struct v9_recipe_store *store)
{
    return v9_recipes_journal_count(store) == V9_JOURNAL_MAX;
}

void v9_recipes_clear_journal(struct v9_recipe_store *store)
{
    const uint32_t count = v9_recipes_journal_count(store);

    store->first = store->seq;
    for (uint32_t i = 0; i < count; i++) {
        const struct v9_rename *rename = &store->renames[i];
        if (rename->text)
            v9_arena_give(&store->arena, rename->text, rename->old_size + rename->new_size + 2);
    }
}

/* ---- anchors --------------------------------------------------------------------------------- */

struct v9_anchor *v9_recipes_anchor(struct v9_recipe_store *store, uint64_t mnt_id)
{
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        if (store->anchors[i].users && store->anchors[i].mnt_id == mnt_id)
            return &store->anchors[i];
    return NULL;
}

struct v9_anchor *v9_recipes_add_anchor(struct v9_recipe_store *store, uint64_t mnt_id, int32_t fd,
                                        bool by_handle)
{
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        if (!store->anchors[i].users) {
            store->anchors[i] = (struct v9_anchor){mnt_id, 0, -1, by_handle};
            V9_COMMIT();
            store->anchors[i].fd = fd;
            return &store->anchors[i];
        }
    return NULL;
}

int32_t v9_recipes_equip_anchor(struct v9_anchor *anchor, int32_t fd, bool by_handle)
{
    if (anchor->fd >= 0)
        return fd;
    anchor->by_handle = by_handle;
    V9_COMMIT();
    anchor->fd = fd;
    return -1;
}

int32_t v9_recipes_leave_anchor(struct v9_recipe_store *store, uint64_t mnt_id)
{
    struct v9_anchor *anchor = v9_recipes_anchor(store, mnt_id);
    const int32_t fd = anchor->fd;

    if (--anchor->users)
        return -1;
    anchor->fd = -1;
    return fd;
}

/* ---- after a death --------------------------------------------------------------------------- */

/* Whether a descriptor is of a directory or a file, as an anchor's is. */
static bool is_anchor(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode));
}

static bool mark_rename(const struct v9_recipe_store *store, struct v9_arena_marks *marks,
                        uint32_t index)
{
    const struct v9_rename *rename = &store->renames[index];
    const size_t size = (size_t)rename->old_size + rename->new_size + 2;

    return !rename->text || v9_arena_mark(&store->arena, marks, rename->text, size);
}

void v9_recipes_recover(struct v9_recipe_store *store, struct v9_arena_marks *marks)
{
    store->count = 0;
    for (int i = 0; i < V9_ANCHORS_MAX; i++) {
        store->anchors[i].users = 0;
        if (!is_anchor(store->anchors[i].fd))
            store->anchors[i].fd = -1;
    }
    if (store->seq - store->first > V9_JOURNAL_MAX)
        store->first = store->seq;
    for (uint32_t i = 0; i < v9_recipes_journal_count(store); i++)
        if (!mark_rename(store, marks, i))
            store->renames[i].text = 0;
}

void v9_recipes_lose_descriptors(struct v9_recipe_store *store)
{
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        store->anchors[i].fd = -1;
}

/* The anchor of a mount, which is made without a descriptor if there is none; NULL: there are too
 * many. */
static struct v9_anchor *find_or_make_anchor(struct v9_recipe_store *store, uint64_t mnt_id)
{
    struct v9_anchor *unused = NULL;

    for (int i = 0; i < V9_ANCHORS_MAX; i++) {
        struct v9_anchor *anchor = &store->anchors[i];
        if (!anchor->users && anchor->fd < 0)
            unused = anchor;
        else if (anchor->mnt_id == mnt_id)
            return anchor;
    }
    if (unused)
        *unused = (struct v9_anchor){mnt_id, 0, -1, false};
    return unused;
}

/* Keeps a recipe's record. */
static bool keep(struct v9_recipe_store *store, struct v9_arena_marks *marks, uint32_t at)
{
    const struct record *record = v9_arena_at(&store->arena, at);

    if (!is_recipe(at))
        return true;
    if (!v9_arena_holds(&store->arena, at, sizeof(*record)) ||
        record->handle_size > V9_HANDLE_MAX || record->path_size >= PATH_MAX ||
        !v9_arena_mark(&store->arena, marks, at,
                       record_size(record->handle_size, record->path_size)))
        return false;
    store->count++;
    return true;
}

bool v9_recipe_recover(struct v9_recipe_store *store, struct v9_arena_marks *marks, uint32_t at,
                       uint64_t mnt_id)
{
    struct v9_anchor *anchor = find_or_make_anchor(store, mnt_id);

    if (!anchor || !keep(store, marks, at))
        return false;
    anchor->users++;
    return true;
}

void v9_recipes_recover_end(struct v9_recipe_store *store)
{
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        if (!store->anchors[i].users)
            store->anchors[i].fd = -1;
}
