#define _GNU_SOURCE
#include "fid/xattr_value.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
#include "base/refusal.h"

enum { UNUSED = 4 }; /* bytes behind each value, which saved states have */

void v9_xattr_values_init(struct v9_xattr_values *values, void *base)
{
    *values = (struct v9_xattr_values){0};
    pthread_mutex_init(&values->lock, NULL);
    v9_arena_init(&values->arena, base, V9_XATTR_VALUES_ROOM);
}

void v9_xattr_values_destroy(struct v9_xattr_values *values)
{
    pthread_mutex_destroy(&values->lock);
}

/* A value with `more` bytes behind it. */
static struct v9_xattr_value *allocate(struct v9_xattr_values *values, uint32_t size, size_t more)
{
    const size_t room = sizeof(struct v9_xattr_value) + size + UNUSED + more;
    struct v9_xattr_value *value;
    uint32_t at;

    pthread_mutex_lock(&values->lock);
    at = v9_arena_take(&values->arena, room);
    pthread_mutex_unlock(&values->lock);
    if (!at)
        return NULL;
    value = v9_arena_at(&values->arena, at);
    *value = (struct v9_xattr_value){.among = values, .room = (uint32_t)room, .size = size};
    pthread_mutex_init(&value->lock, NULL);
    return value;
}

struct v9_xattr_value *v9_xattr_value_new(struct v9_xattr_values *values, const void *data,
                                          uint32_t size)
{
    struct v9_xattr_value *value = allocate(values, size, 0);

    if (value)
        memcpy(value->data, data, size);
    return value;
}

struct v9_xattr_value *v9_xattr_value_announce(struct v9_xattr_values *values, const char *name,
                                               uint32_t size, int flags)
{
    struct v9_xattr_value *value = allocate(values, size, strlen(name) + 1);

    if (!value)
        return NULL;
    value->flags = flags;
    value->name = strcpy((char *)value->data + size + UNUSED, name);
    return value;
}

static uint32_t place_of(const struct v9_xattr_values *values, const struct v9_xattr_value *value)
{
    return (uint32_t)(((const uint8_t *)value - values->arena.base) / V9_ARENA_UNIT);
}

void v9_xattr_value_free(struct v9_xattr_value *value)
{
    struct v9_xattr_values *values = value ? value->among : NULL;

    if (!value)
        return;
    pthread_mutex_destroy(&value->lock);
    pthread_mutex_lock(&values->lock);
    v9_arena_give(&values->arena, place_of(values, value), value->room);
    pthread_mutex_unlock(&values->lock);
}

int v9_xattr_value_append(struct v9_xattr_value *value, uint64_t offset, const void *data,
                          uint32_t count)
{
    int err = 0;

    if (!value->name)
        return -EBADF;
    pthread_mutex_lock(&value->lock);
    if (offset != value->written)
        err = -EINVAL;
    else if (count > value->size - value->written)
        err = -ENOSPC;
    if (!err) {
        memcpy(value->data + offset, data, count);
        V9_COMMIT();
        value->written += count;
    }
    pthread_mutex_unlock(&value->lock);
    return err;
}

bool v9_xattr_value_ends_at(struct v9_xattr_value *value, uint64_t end)
{
    bool ends;

    pthread_mutex_lock(&value->lock);
    ends = value->name && value->written == end;
    pthread_mutex_unlock(&value->lock);
    return ends;
}

bool v9_xattr_value_is_complete(struct v9_xattr_value *value)
{
    bool complete;

    pthread_mutex_lock(&value->lock);
    complete = value->written == value->size;
    pthread_mutex_unlock(&value->lock);
    return complete;
}

int v9_xattr_values_add(struct v9_xattr_values *values, const struct v9_xattr_value *value)
{
    if (values->max && values->count >= values->max)
        return v9_refuse(ENOSPC, V9_REFUSED_XATTRS_OPEN, values->max);
    if (values->bytes + value->room > V9_XATTR_VALUES_BYTES)
        return v9_refuse(ENOSPC, V9_REFUSED_XATTRS_OPEN, 0);
    values->count++;
    values->bytes += value->room;
    return 0;
}

void v9_xattr_values_remove(struct v9_xattr_values *values, const struct v9_xattr_value *value)
{
    values->count--;
    values->bytes -= value->room;
}

void v9_xattr_values_trim(struct v9_xattr_values *values)
{
    pthread_mutex_lock(&values->lock);
    v9_arena_trim(&values->arena);
    pthread_mutex_unlock(&values->lock);
}

/* ---- after a death --------------------------------------------------------------------------- */

void v9_xattr_values_recover(struct v9_xattr_values *values)
{
    pthread_mutex_init(&values->lock, NULL);
    values->count = 0;
    values->bytes = 0;
}

/* Whether its parts lie in the room that it has. Of one that is written, the name is the rest. */
static bool is_whole(const struct v9_xattr_value *value)
{
    const uint64_t least = sizeof(*value) + (uint64_t)value->size + UNUSED;
    const char *name = (const char *)value->data + value->size + UNUSED;

    if (value->room < least || value->written > value->size)
        return false;
    return !value->name ||
           (value->name == name && value->room > least && !((const char *)value)[value->room - 1]);
}

bool v9_xattr_value_recover(struct v9_xattr_values *values, struct v9_arena_marks *marks,
                            struct v9_xattr_value *value)
{
    const uintptr_t offset = (uintptr_t)value - (uintptr_t)values->arena.base;
    const uint32_t at = (uint32_t)(offset / V9_ARENA_UNIT);

    if (offset >= V9_XATTR_VALUES_ROOM || offset % V9_ARENA_UNIT ||
        !v9_arena_holds(&values->arena, at, sizeof(*value)) ||
        !v9_arena_holds(&values->arena, at, value->room) || !is_whole(value) ||
        !v9_arena_mark(&values->arena, marks, at, value->room))
        return false;
    value->among = values;
    pthread_mutex_init(&value->lock, NULL);
    values->count++;
    values->bytes += value->room;
    return true;
}
