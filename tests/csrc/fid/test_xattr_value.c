// sources: fid/xattr_value.c base/arena.c base/proc.c base/refusal.c
/*
 * Values of extended attributes: read, written from front to back, and counted.
 */
#define _GNU_SOURCE
#include "fid/xattr_value.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

static struct v9_xattr_values all;
static void *room;

SET_UP()
{
    room = mmap(NULL, V9_XATTR_VALUES_ROOM, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED);
    v9_xattr_values_init(&all, room);
}

TEAR_DOWN()
{
    v9_xattr_values_destroy(&all);
    munmap(room, V9_XATTR_VALUES_ROOM);
}

TEST(a_value_that_is_read_is_a_copy)
{
    char bytes[] = "value";
    struct v9_xattr_value *value = v9_xattr_value_new(&all, bytes, 5);

    bytes[0] = 'x';
    CHECK(value->size == 5 && !memcmp(value->data, "value", 5) && !value->name);
    CHECK(v9_xattr_value_append(value, 0, "y", 1) == -EBADF);
    v9_xattr_value_free(value);
    value = v9_xattr_value_new(&all, "", 0);
    CHECK(value && !value->size);
    v9_xattr_value_free(value);
}

TEST(a_value_is_written_from_front_to_back)
{
    struct v9_xattr_value *value = v9_xattr_value_announce(&all, "user.a", 5, 2);

    CHECK(!strcmp(value->name, "user.a") && value->flags == 2 && value->size == 5);
    CHECK(v9_xattr_value_append(value, 1, "x", 1) == -EINVAL);
    CHECK(v9_xattr_value_append(value, UINT64_MAX, "x", 1) == -EINVAL);
    CHECK(v9_xattr_value_append(value, 0, "", 0) == 0);
    CHECK(v9_xattr_value_append(value, 0, "abc", 3) == 0 && !v9_xattr_value_is_complete(value));
    CHECK(v9_xattr_value_append(value, 0, "abc", 3) == -EINVAL);
    CHECK(v9_xattr_value_append(value, 3, "def", 3) == -ENOSPC);
    CHECK(v9_xattr_value_append(value, 3, "def", UINT32_MAX) == -ENOSPC);
    CHECK(v9_xattr_value_append(value, 3, "de", 2) == 0 && v9_xattr_value_is_complete(value));
    CHECK(v9_xattr_value_append(value, 5, "", 0) == 0);
    CHECK(v9_xattr_value_append(value, 5, "f", 1) == -ENOSPC);
    CHECK(!memcmp(value->data, "abcde", 5) && !strcmp(value->name, "user.a"));
    v9_xattr_value_free(value);
}

TEST(an_empty_value_is_complete)
{
    struct v9_xattr_value *value = v9_xattr_value_announce(&all, "user.a", 0, 0);

    CHECK(v9_xattr_value_is_complete(value));
    CHECK(v9_xattr_value_append(value, 0, "x", 1) == -ENOSPC);
    v9_xattr_value_free(value);
}

TEST(values_are_bounded_in_number_and_bytes)
{
    const struct v9_xattr_value large = {.size = 65536, .room = 65536};
    const struct v9_xattr_value empty = {.size = 0, .room = 64};
    struct v9_xattr_values values = {.max = 2};

    CHECK(!v9_xattr_values_add(&values, &empty) && !v9_xattr_values_add(&values, &large));
    CHECK(v9_xattr_values_add(&values, &empty) == -ENOSPC);
    v9_xattr_values_remove(&values, &empty);
    CHECK(!v9_xattr_values_add(&values, &empty));
    values = (struct v9_xattr_values){.max = 0};
    for (int i = 0; i < 1024; i++)
        CHECK(!v9_xattr_values_add(&values, &large));
    CHECK(values.bytes == V9_XATTR_VALUES_BYTES);
    CHECK(v9_xattr_values_add(&values, &empty) == -ENOSPC);
    CHECK(v9_xattr_values_add(&values, &large) == -ENOSPC);
    v9_xattr_values_remove(&values, &large);
    CHECK(!v9_xattr_values_add(&values, &large));
}

/* ---- threads -----------------------------------------------------------------------------------
 */

enum { PIECES = 4000 };

static void *write_all(void *value)
{
    for (uint32_t i = 0; i < PIECES; i++) {
        const int err = v9_xattr_value_append(value, i, "x", 1);
        CHECK(err == 0 || err == -EINVAL);
    }
    return NULL;
}

/* Two requests write the same pieces, and a third looks whether all are there. */
TEST(pieces_are_written_once)
{
    struct v9_xattr_value *value = v9_xattr_value_announce(&all, "user.a", PIECES, 0);
    pthread_t other;

    CHECK(pthread_create(&other, NULL, write_all, value) == 0);
    write_all(value);
    while (!v9_xattr_value_is_complete(value))
        ;
    pthread_join(other, NULL);
    CHECK(value->written == PIECES);
    v9_xattr_value_free(value);
}
