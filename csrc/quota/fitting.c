#define _GNU_SOURCE
#include "quota/fitting.h"

#include <errno.h>
#include <unistd.h>

uint64_t v9_quota_fitting(const struct v9_quota_write *write, uint64_t start, uint64_t block,
                          uint64_t left, uint64_t *claim)
{
    const uint64_t end = start + write->count;
    uint64_t at = start / block * block;

    *claim = 0;
    while (at < end) {
        const off_t data = lseek(write->fd, (off_t)at, SEEK_DATA);
        const uint64_t until =
            v9_quota_round_up(v9_quota_least(data < 0 ? end : (uint64_t)data, end), block);
        const uint64_t hole = until - at;
        if (data < 0 && errno != ENXIO)
            return 0;
        if (data >= 0 && (uint64_t)data <= at) {
            const off_t next = lseek(write->fd, (off_t)at, SEEK_HOLE);
            if (next <= (off_t)at)
                return 0;
            at = v9_quota_round_up((uint64_t)next, block);
            continue;
        }
        if (hole > left) {
            *claim += left / block * block;
            at += left / block * block;
            break;
        }
        *claim += hole;
        left -= hole;
        at = until;
    }
    return at <= start ? 0 : v9_quota_least(at, end) - start;
}
