#define _GNU_SOURCE
#include "quota/usage.h"

#include <errno.h>
#include <sys/mman.h>

static uint32_t buckets_for(uint32_t max)
{
    uint32_t buckets = 1024;

    while (buckets < max)
        buckets *= 2;
    return buckets;
}

size_t v9_usages_size(uint32_t max)
{
    return buckets_for(max) * sizeof(uint32_t) + (max + 1ul) * sizeof(struct v9_usage);
}

int v9_usages_init(struct v9_usages *all, uint32_t max)
{
    const uint32_t buckets = buckets_for(max);

    *all = (struct v9_usages){.max = max, .mask = buckets - 1, .map_size = v9_usages_size(max)};
    all->map = mmap(NULL, all->map_size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all->map == MAP_FAILED)
        return -errno;
    all->buckets = all->map;
    all->entries = (struct v9_usage *)(all->buckets + buckets);
    return 0;
}

void v9_usages_destroy(struct v9_usages *all)
{
    munmap(all->map, all->map_size);
}

static uint32_t *bucket_of(const struct v9_usages *all, uint64_t st_dev, uint64_t st_ino)
{
    uint64_t mix = (st_ino ^ st_dev << 40) * 0x9E3779B97F4A7C15ull;
    return &all->buckets[(uint32_t)(mix >> 32) & all->mask];
}

uint32_t v9_usages_find(const struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone)
{
    uint32_t named = 0;

    for (uint32_t at = *bucket_of(all, st_dev, st_ino); at; at = all->entries[at].next) {
        const struct v9_usage *a = &all->entries[at];
        if (a->st_ino != st_ino || a->st_dev != st_dev)
            continue;
        if (a->gone == gone)
            return at;
        if (!a->gone)
            named = at;
    }
    return named;
}

static void leave_list(struct v9_usages *all, const struct v9_usage *a)
{
    all->entries[a->older].newer = a->newer;
    all->entries[a->newer].older = a->older;
}

void v9_usages_leave(struct v9_usages *all, uint32_t index)
{
    struct v9_usage *ends = &all->entries[0], *a = &all->entries[index];

    a->older = ends->older;
    a->newer = 0;
    all->entries[a->older].newer = index;
    ends->older = index;
}

void v9_usages_forget(struct v9_usages *all, uint32_t index)
{
    struct v9_usage *a = &all->entries[index];
    uint32_t *link = bucket_of(all, a->st_dev, a->st_ino);

    while (*link != index)
        link = &all->entries[*link].next;
    *link = a->next;
    a->next = all->free;
    all->free = index;
}

static uint32_t allocate(struct v9_usages *all)
{
    const uint32_t oldest = all->entries[0].newer;
    uint32_t index;

    if (!all->free && all->used < all->max)
        return ++all->used;
    if (!all->free && oldest) {
        leave_list(all, &all->entries[oldest]);
        v9_usages_forget(all, oldest);
    }
    index = all->free;
    if (index)
        all->free = all->entries[index].next;
    return index;
}

uint32_t v9_usages_hold(struct v9_usages *all, uint64_t st_dev, uint64_t st_ino, bool gone)
{
    uint32_t index = v9_usages_find(all, st_dev, st_ino, gone), *bucket;

    if (index) {
        if (!all->entries[index].refs++)
            leave_list(all, &all->entries[index]);
        return index;
    }
    index = allocate(all);
    if (!index)
        return 0;
    bucket = bucket_of(all, st_dev, st_ino);
    all->entries[index] = (struct v9_usage){
        .st_dev = st_dev, .st_ino = st_ino, .counted = V9_UNCOUNTED, .refs = 1, .next = *bucket};
    *bucket = index;
    return index;
}
