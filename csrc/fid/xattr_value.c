#define _GNU_SOURCE
#include "fid/xattr_value.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "export/xattr_ids.h"

/* A value with `more` bytes behind it. */
static struct v9_xattr_value *allocate(uint32_t size, size_t more)
{
    struct v9_xattr_value *value = malloc(sizeof(*value) + size + V9_XATTR_IDS_MORE + more);

    if (!value)
        return NULL;
    value->size = size;
    value->written = 0;
    value->flags = 0;
    value->name = NULL;
    pthread_mutex_init(&value->lock, NULL);
    return value;
}

struct v9_xattr_value *v9_xattr_value_new(const void *data, uint32_t size)
{
    struct v9_xattr_value *value = allocate(size, 0);

    if (value)
        memcpy(value->data, data, size);
    return value;
}

struct v9_xattr_value *v9_xattr_value_announce(const char *name, uint32_t size, int flags)
{
    struct v9_xattr_value *value = allocate(size, strlen(name) + 1);

    if (!value)
        return NULL;
    value->flags = flags;
    value->name = strcpy((char *)value->data + size + V9_XATTR_IDS_MORE, name);
    return value;
}

void v9_xattr_value_free(struct v9_xattr_value *value)
{
    if (value)
        pthread_mutex_destroy(&value->lock);
    free(value);
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
        value->written += count;
    }
    pthread_mutex_unlock(&value->lock);
    return err;
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
        return -ENOSPC;
    if (values->bytes + value->size > V9_XATTR_VALUES_BYTES)
        return -ENOSPC;
    values->count++;
    values->bytes += value->size;
    return 0;
}

void v9_xattr_values_remove(struct v9_xattr_values *values, const struct v9_xattr_value *value)
{
    values->count--;
    values->bytes -= value->size;
}
