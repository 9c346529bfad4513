/*
 * fitting: how much of a write fits into what a quota has left.
 *
 * The holes that it would fill are counted: allocated blocks are written at no charge, and of the
 * rest as much as fits. Holes end at block boundaries, other than the one behind the file's end:
 * the rest of its last block is there already.
 */
#ifndef V9_QUOTA_FITTING_H
#define V9_QUOTA_FITTING_H

#include <stdbool.h>
#include <stdint.h>

struct v9_quota_write {
    int fd;
    bool append; /* O_APPEND: at the file's end, wherever `offset` is */
    uint64_t offset, count;
};

static inline uint64_t v9_quota_round_up(uint64_t number, uint64_t unit)
{
    return (number + unit - 1) / unit * unit;
}

static inline uint64_t v9_quota_least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* How many bytes of a write at `start`, from its beginning, take `left` bytes of new blocks at
 * most; *claim is what they take. `block` is what the file system allocates at once, in bytes. */
uint64_t v9_quota_fitting(const struct v9_quota_write *write, uint64_t start, uint64_t block,
                          uint64_t left, uint64_t *claim);

#endif
