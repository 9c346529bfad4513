#include "fid/recipe_store.h"

#include <string.h>

struct record {
    uint64_t seq; /* renames noted before it was stored */
    int32_t handle_type;
    uint16_t path_size;
    uint8_t handle_size;
    char bytes[]; /* handle, path, NUL */
};

static size_t record_size(uint32_t handle_size, uint32_t path_size)
{
    return offsetof(struct record, bytes) + handle_size + path_size + 1;
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

void v9_recipes_remove(struct v9_recipe_store *store, uint32_t at)
{
    const struct record *record = v9_arena_at(&store->arena, at);

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
    const uint64_t first = store->seq - store->rename_count;
    const uint32_t from = record->seq > first ? (uint32_t)(record->seq - first) : 0;

    recipe->handle_type = record->handle_type;
    recipe->handle_size = record->handle_size;
    recipe->path_size = record->path_size;
    memcpy(recipe->handle, record->bytes, record->handle_size);
    memcpy(recipe->path, record->bytes + record->handle_size, record->path_size + 1u);
    for (uint32_t i = from; i < store->rename_count && recipe->path_size; i++)
        if (store->renames[i].export == export)
            apply(store, &store->renames[i], recipe);
}

/* Room for what is stored now there is always: a path that has become longer and finds none is
 * left out. */
uint32_t v9_recipes_renew(struct v9_recipe_store *store, uint32_t at, uint32_t export)
{
    const struct record *record = v9_arena_at(&store->arena, at);
    struct v9_recipe recipe;
    uint32_t renewed;

    v9_recipes_get(store, at, export, &recipe);
    v9_arena_give(&store->arena, at, record_size(record->handle_size, record->path_size));
    store->count--;
    renewed = v9_recipes_put(store, &recipe);
    if (renewed)
        return renewed;
    recipe.path_size = 0;
    return v9_recipes_put(store, &recipe);
}

void v9_recipes_renamed(struct v9_recipe_store *store, uint32_t export, const char *old,
                        const char *new)
{
    struct v9_rename *rename = &store->renames[store->rename_count++];
    const size_t old_size = strlen(old), new_size = strlen(new);
    char *text;

    store->seq++;
    *rename = (struct v9_rename){
        .export = export,
        .text = v9_arena_take(&store->arena, old_size + new_size + 2),
        .old_size = (uint32_t)old_size,
        .new_size = (uint32_t)new_size,
    };
    if (!rename->text)
        return;
    text = v9_arena_at(&store->arena, rename->text);
    memcpy(text, old, old_size + 1);
    memcpy(text + old_size + 1, new, new_size + 1);
}

bool v9_recipes_journal_is_full(const struct v9_recipe_store *store)
{
    return store->rename_count == V9_JOURNAL_MAX;
}

void v9_recipes_clear_journal(struct v9_recipe_store *store)
{
    for (uint32_t i = 0; i < store->rename_count; i++) {
        const struct v9_rename *rename = &store->renames[i];
        if (rename->text)
            v9_arena_give(&store->arena, rename->text, rename->old_size + rename->new_size + 2);
    }
    store->rename_count = 0;
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
            store->anchors[i] = (struct v9_anchor){mnt_id, 0, fd, by_handle};
            return &store->anchors[i];
        }
    return NULL;
}

int32_t v9_recipes_leave_anchor(struct v9_recipe_store *store, uint64_t mnt_id)
{
    struct v9_anchor *anchor = v9_recipes_anchor(store, mnt_id);

    return --anchor->users ? -1 : anchor->fd;
}
