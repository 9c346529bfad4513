#include "idmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_ordered(const struct v9_id_range *ranges, uint32_t count)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (ranges[i].host < end || !ranges[i].count)
            return false;
        end = (uint64_t)ranges[i].host + ranges[i].count;
        if (end > UINT32_MAX || (uint64_t)ranges[i].guest + ranges[i].count > UINT32_MAX)
            return false; /* the last id stands for none (chown(2)) */
    }
    return true;
}

int v9_idmap_set(struct v9_idmap *map, const struct v9_id_range *ranges, uint32_t count)
{
    if (map->set || !is_ordered(ranges, count))
        return -EINVAL;
    map->ranges = calloc(count ? count : 1, sizeof(*ranges));
    if (!map->ranges)
        return -ENOMEM;
    memcpy(map->ranges, ranges, count * sizeof(*ranges));
    map->count = count;
    map->set = true;
    return 0;
}

void v9_idmap_free(struct v9_idmap *map)
{
    free(map->ranges);
    *map = (struct v9_idmap){0};
}

uint32_t v9_idmap_guest(const struct v9_idmap *map, uint32_t host)
{
    uint32_t low = 0, high = map->count;

    if (!map->set)
        return host;
    while (low < high) { /* the ranges that begin above `host` are from `high` on */
        uint32_t middle = low + (high - low) / 2;
        if (map->ranges[middle].host <= host)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || host - map->ranges[low - 1].host >= map->ranges[low - 1].count)
        return V9_ID_NOBODY;
    return map->ranges[low - 1].guest + (host - map->ranges[low - 1].host);
}
