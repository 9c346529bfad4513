#include "export/idmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/refusal.h"

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

static int compare_guests(const void *a, const void *b)
{
    const struct v9_id_range *one = a, *other = b;
    return one->guest < other->guest ? -1 : one->guest > other->guest;
}

static struct v9_id_range *copy(const struct v9_id_range *ranges, uint32_t count)
{
    struct v9_id_range *copied = calloc(count ? count : 1, sizeof(*copied));

    if (copied && count)
        memcpy(copied, ranges, count * sizeof(*copied));
    return copied;
}

int v9_idmap_set(struct v9_idmap *map, const struct v9_id_conf *conf)
{
    if (map->set || !is_ordered(conf->ranges, conf->count))
        return -EINVAL;
    map->ranges = copy(conf->ranges, conf->count);
    map->by_guest = copy(conf->ranges, conf->count);
    map->forbidden = copy(conf->forbidden, conf->forbidden_count);
    if (!map->ranges || !map->by_guest || !map->forbidden) {
        v9_idmap_free(map);
        return -ENOMEM;
    }
    qsort(map->by_guest, conf->count, sizeof(*map->by_guest), compare_guests);
    map->count = conf->count;
    map->forbidden_count = conf->forbidden_count;
    map->squashes = conf->squashes;
    map->squash = conf->squash;
    map->set = true;
    return 0;
}

void v9_idmap_free(struct v9_idmap *map)
{
    free(map->ranges);
    free(map->by_guest);
    free(map->forbidden);
    *map = (struct v9_idmap){0};
}

/* The range that has a host id; NULL: none. */
static const struct v9_id_range *range_of_host(const struct v9_idmap *map, uint32_t host)
{
    uint32_t low = 0, high = map->count;

    while (low < high) { /* the ranges that begin above `host` are from `high` on */
        const uint32_t middle = low + (high - low) / 2;
        if (map->ranges[middle].host <= host)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || host - map->ranges[low - 1].host >= map->ranges[low - 1].count)
        return NULL;
    return &map->ranges[low - 1];
}

static const struct v9_id_range *range_of_guest(const struct v9_idmap *map, uint32_t guest)
{
    uint32_t low = 0, high = map->count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (map->by_guest[middle].guest <= guest)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || guest - map->by_guest[low - 1].guest >= map->by_guest[low - 1].count)
        return NULL;
    return &map->by_guest[low - 1];
}

uint32_t v9_idmap_guest(const struct v9_idmap *map, uint32_t host)
{
    const struct v9_id_range *range;

    if (!map->set)
        return host;
    range = range_of_host(map, host);
    return range ? range->guest + (host - range->host) : V9_ID_NOBODY;
}

int v9_idmap_host(const struct v9_idmap *map, uint32_t guest, uint32_t *host)
{
    const struct v9_id_range *range;

    *host = guest;
    if (!map->set || guest == V9_NO_ID)
        return 0;
    for (uint32_t i = 0; i < map->forbidden_count; i++)
        if (guest >= map->forbidden[i].guest &&
            guest - map->forbidden[i].guest < map->forbidden[i].count)
            return v9_refuse(EPERM, V9_REFUSED_ID, guest);
    range = range_of_guest(map, guest);
    if (!range && !map->squashes)
        return v9_refuse(EPERM, V9_REFUSED_ID, guest);
    *host = range ? range->host + (guest - range->guest) : map->squash;
    return 0;
}

int v9_idmap_creator(const struct v9_idmap *map, uint32_t guest, uint32_t own, uint32_t *host)
{
    const struct v9_id_range *range;

    if (map->set && guest == V9_NO_ID) {
        range = range_of_host(map, own);
        guest = range ? range->guest + (own - range->host) : 0;
    }
    return v9_idmap_host(map, guest, host);
}
