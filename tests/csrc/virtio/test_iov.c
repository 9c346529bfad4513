// sources: virtio/iov.c
/*
 * iov: gathering, scattering and slicing agree with a flat copy, wherever the pieces are cut.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "virtio/iov.h"

SET_UP()
{
    srand(1);
}

enum { SIZE = 97, ROUNDS = 20000 };

/* Cuts flat memory into pieces, some of them empty. */
static uint32_t cut(uint8_t *flat, size_t size, struct iovec *iov)
{
    uint32_t count = 0;
    size_t at = 0;

    while (at < size) {
        size_t length = (size_t)rand() % 17;
        if (length > size - at)
            length = size - at;
        iov[count++] = (struct iovec){flat + at, length};
        at += length;
    }
    return count;
}

static size_t size_of(const struct iovec *iov, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

TEST(segments_agree_with_a_flat_copy)
{
    uint8_t flat[SIZE], copy[SIZE * 2], expected[SIZE];
    struct iovec iov[SIZE * 20], part[SIZE * 20];

    for (size_t i = 0; i < SIZE; i++)
        flat[i] = (uint8_t)i;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t count = cut(flat, SIZE, iov), parts;
        size_t offset = (size_t)rand() % (SIZE + 20), length = (size_t)rand() % (SIZE + 20);
        size_t there = offset < SIZE ? least(length, SIZE - offset) : 0;

        CHECK(size_of(iov, count) == SIZE);
        CHECK(v9_iov_gather(iov, count, offset, copy, length) == there);
        CHECK(!there || !memcmp(copy, flat + offset, there));
        parts = v9_iov_slice(iov, count, offset, length, part);
        CHECK(parts <= count && size_of(part, parts) == there);
        CHECK(v9_iov_gather(part, parts, 0, copy, sizeof(copy)) == there);
        CHECK(!there || !memcmp(copy, flat + offset, there));

        memcpy(expected, flat, SIZE);
        for (size_t i = 0; i < length; i++)
            copy[i] = (uint8_t)rand();
        if (there)
            memcpy(expected + offset, copy, there);
        CHECK(v9_iov_scatter(iov, count, offset, copy, length) == there);
        CHECK(!memcmp(flat, expected, SIZE));
    }
}

TEST(no_segments_hold_nothing)
{
    uint8_t byte = 7;
    struct iovec none[1] = {{NULL, 0}};

    CHECK(v9_iov_gather(none, 0, 0, &byte, 1) == 0);
    CHECK(v9_iov_scatter(none, 0, 0, &byte, 1) == 0);
    CHECK(v9_iov_slice(none, 0, 0, 1, none) == 0);
    CHECK(byte == 7);
}
