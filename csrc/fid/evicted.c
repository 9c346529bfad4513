#include "fid/evicted.h"

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

uint32_t v9_evicted_store(struct v9_evicted *park, const struct v9_recipe *way)
{
    uint32_t at = v9_arena_take(&park->heap, record_size(way->handle_size, way->path_size));
    struct record *record;

    if (!at)
        return 0;
    record = v9_arena_at(&park->heap, at);
    *record = (struct record){
        .seq = park->seq,
        .handle_type = way->handle_type,
        .path_size = (uint16_t)way->path_size,
        .handle_size = (uint8_t)way->handle_size,
    };
    memcpy(record->bytes, way->handle, way->handle_size);
    memcpy(record->bytes + way->handle_size, way->path, way->path_size);
    record->bytes[way->handle_size + way->path_size] = 0;
    park->count++;
    return at;
}

void v9_evicted_forget(struct v9_evicted *park, uint32_t at)
{
    const struct record *record = v9_arena_at(&park->heap, at);

    v9_arena_give(&park->heap, at, record_size(record->handle_size, record->path_size));
    if (--park->count == 0)
        v9_evicted_clear_journal(park);
}

/* ---- renames -----------------------------------------------------------------------------------
 */

/* Follows a rename of the file, or of a directory that it is in. One whose text is lost, or a path
 * that becomes too long, leaves no path. */
static void apply(const struct v9_evicted *park, const struct v9_rename *rename,
                  struct v9_recipe *way)
{
    const char *old = v9_arena_at(&park->heap, rename->text), *new = old + rename->old_size + 1;
    size_t rest;

    if (!rename->text) {
        way->path_size = 0;
        return;
    }
    if (way->path_size < rename->old_size || memcmp(way->path, old, rename->old_size) ||
        (way->path[rename->old_size] && way->path[rename->old_size] != '/'))
        return;
    rest = way->path_size - rename->old_size;
    if (rename->new_size + rest >= sizeof(way->path)) {
        way->path_size = 0;
        return;
    }
    memmove(way->path + rename->new_size, way->path + rename->old_size, rest + 1);
    memcpy(way->path, new, rename->new_size);
    way->path_size = rename->new_size + (uint32_t)rest;
}

void v9_evicted_load(const struct v9_evicted *park, uint32_t at, uint32_t export,
                     struct v9_recipe *way)
{
    const struct record *record = v9_arena_at(&park->heap, at);
    const uint64_t first = park->seq - park->rename_count;
    const uint32_t from = record->seq > first ? (uint32_t)(record->seq - first) : 0;

    way->handle_type = record->handle_type;
    way->handle_size = record->handle_size;
    way->path_size = record->path_size;
    memcpy(way->handle, record->bytes, record->handle_size);
    memcpy(way->path, record->bytes + record->handle_size, record->path_size + 1u);
    for (uint32_t i = from; i < park->rename_count && way->path_size; i++)
        if (park->renames[i].export == export)
            apply(park, &park->renames[i], way);
}

/* Room for what is stored now there is always: a path that has become longer and finds none is
 * left out. */
uint32_t v9_evicted_renew(struct v9_evicted *park, uint32_t at, uint32_t export)
{
    const struct record *record = v9_arena_at(&park->heap, at);
    struct v9_recipe way;
    uint32_t renewed;

    v9_evicted_load(park, at, export, &way);
    v9_arena_give(&park->heap, at, record_size(record->handle_size, record->path_size));
    park->count--;
    renewed = v9_evicted_store(park, &way);
    if (renewed)
        return renewed;
    way.path_size = 0;
    return v9_evicted_store(park, &way);
}

void v9_evicted_renamed(struct v9_evicted *park, uint32_t export, const char *old, const char *new)
{
    struct v9_rename *rename = &park->renames[park->rename_count++];
    const size_t old_size = strlen(old), new_size = strlen(new);
    char *text;

    park->seq++;
    *rename = (struct v9_rename){
        .export = export,
        .text = v9_arena_take(&park->heap, old_size + new_size + 2),
        .old_size = (uint32_t)old_size,
        .new_size = (uint32_t)new_size,
    };
    if (!rename->text)
        return;
    text = v9_arena_at(&park->heap, rename->text);
    memcpy(text, old, old_size + 1);
    memcpy(text + old_size + 1, new, new_size + 1);
}

bool v9_evicted_is_full(const struct v9_evicted *park)
{
    return park->rename_count == V9_PARK_RENAMES;
}

void v9_evicted_clear_journal(struct v9_evicted *park)
{
    for (uint32_t i = 0; i < park->rename_count; i++) {
        const struct v9_rename *rename = &park->renames[i];
        if (rename->text)
            v9_arena_give(&park->heap, rename->text, rename->old_size + rename->new_size + 2);
    }
    park->rename_count = 0;
}

/* ---- anchors -----------------------------------------------------------------------------------
 */

struct v9_anchor *v9_evicted_anchor(struct v9_evicted *park, uint64_t mnt_id)
{
    for (int i = 0; i < V9_PARK_MOUNTS; i++)
        if (park->anchors[i].users && park->anchors[i].mnt_id == mnt_id)
            return &park->anchors[i];
    return NULL;
}

struct v9_anchor *v9_evicted_add_anchor(struct v9_evicted *park, uint64_t mnt_id, int32_t fd,
                                        bool by_handle)
{
    for (int i = 0; i < V9_PARK_MOUNTS; i++)
        if (!park->anchors[i].users) {
            park->anchors[i] = (struct v9_anchor){mnt_id, 0, fd, by_handle};
            return &park->anchors[i];
        }
    return NULL;
}

int32_t v9_evicted_leave_anchor(struct v9_evicted *park, uint64_t mnt_id)
{
    struct v9_anchor *anchor = v9_evicted_anchor(park, mnt_id);

    return --anchor->users ? -1 : anchor->fd;
}
