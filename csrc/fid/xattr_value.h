/*
 * xattr value: the value behind the fid of an extended attribute.
 *
 * Txattrwalk enters a fid with a value, or a list of names, that the guest reads. Txattrcreate
 * gives a value to be written to a fid that stands for a file. The value is the fid's from then on,
 * and is freed with it, in whatever way the fid ends. A value that is read never changes; one that
 * is written grows from front to back, and is set by Tclunk.
 *
 * The values of a device lie in an arena of their own, which the fid table's memory has room for.
 */
#ifndef V9_FID_XATTR_VALUE_H
#define V9_FID_XATTR_VALUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"

struct v9_xattr_values;

struct v9_xattr_value {
    struct v9_xattr_values *among;
    uint32_t room;    /* bytes that it takes in the arena */
    uint32_t size;    /* in bytes, also before all are written */
    uint32_t written; /* of one that is written: so far */
    int flags;        /* setxattr(2)'s */
    char *name;       /* the guest's, of one that is written; NULL: it is read */
    /* Of one that is written: guards `written` and data; lock order: docs/architecture.md */
    pthread_mutex_t lock;
    uint8_t data[]; /* never changes once it is whole: after a death it is set once more */
};

/* A thousand of the largest values. A guest that leaks more gets ENOSPC. */
enum { V9_XATTR_VALUES_BYTES = 64 << 20 };

/* The values of a device's fids. The fid table's lock guards what is counted. */
struct v9_xattr_values {
    uint32_t max; /* how many there may be; 0: as many as V9_XATTR_VALUES_BYTES allows */
    uint32_t count;
    uint64_t bytes;       /* of memory: an empty value takes some, too */
    pthread_mutex_t lock; /* of the arena; lock order: docs/architecture.md */
    struct v9_arena arena;
};

/* Room for twice as many as may be counted: some are made that are refused then. */
enum { V9_XATTR_VALUES_ROOM = 2 * V9_XATTR_VALUES_BYTES };
/* `base` is V9_XATTR_VALUES_ROOM zeros. */
void v9_xattr_values_init(struct v9_xattr_values *values, void *base);
void v9_xattr_values_destroy(struct v9_xattr_values *values);
/* A value that is read, copied; NULL: no memory. */
struct v9_xattr_value *v9_xattr_value_new(struct v9_xattr_values *values, const void *data,
                                          uint32_t size);
/* A value of so many bytes that is to be written, and then set under the guest's name `name`. */
struct v9_xattr_value *v9_xattr_value_announce(struct v9_xattr_values *values, const char *name,
                                               uint32_t size, int flags);
void v9_xattr_value_free(struct v9_xattr_value *value);
/* Writes the next piece of a value. -EBADF for one that is read, -EINVAL if the offset is not its
 * end so far, -ENOSPC beyond the announced size. */
int v9_xattr_value_append(struct v9_xattr_value *value, uint64_t offset, const void *data,
                          uint32_t count);
/* Whether just so many bytes of one that is written were written so far. */
bool v9_xattr_value_ends_at(struct v9_xattr_value *value, uint64_t end);
/* Whether all of it was written: then it does not change any more. */
bool v9_xattr_value_is_complete(struct v9_xattr_value *value);
/* Counts a value; -ENOSPC where there are too many. */
int v9_xattr_values_add(struct v9_xattr_values *values, const struct v9_xattr_value *value);
void v9_xattr_values_remove(struct v9_xattr_values *values, const struct v9_xattr_value *value);
/* Returns to the kernel what is not needed now. */
void v9_xattr_values_trim(struct v9_xattr_values *values);

/* ---- after a death (fid/recover.h) ---- */

/* Forgets all values. */
void v9_xattr_values_recover(struct v9_xattr_values *values);
/* Counts a value and marks it in `marks` (base/arena.h); false where it is not whole. */
bool v9_xattr_value_recover(struct v9_xattr_values *values, struct v9_arena_marks *marks,
                            struct v9_xattr_value *value);

#endif
