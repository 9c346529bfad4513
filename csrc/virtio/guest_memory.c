#define _GNU_SOURCE
#include "virtio/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/commit.h"

enum { RETIRED_TIMES = 2 }; /* of limit_bytes: so much may be retired, and more be mapped */

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

uint64_t v9_address_space(void)
{
    uint64_t here; /* the stack lies at the upper end */

    return (uint64_t)2 << (63 - __builtin_clzll((uintptr_t)&here));
}

static int check_region(const struct v9_mem *mem, const struct v9_region *new)
{
    uint64_t end, bytes = new->size;

    if (!new->size || __builtin_add_overflow(new->gpa, new->size, &end) ||
        __builtin_add_overflow(new->uva, new->size, &end) ||
        __builtin_add_overflow(new->mmap_offset, new->size, &end) || end > INT64_MAX / 2)
        return -EINVAL;
    if (mem->count == (mem->limit ? mem->limit : V9_MEM_REGIONS))
        return -ENOSPC;
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *old = &mem->regions[i];
        if (overlaps(old->gpa, old->size, new->gpa, new->size) ||
            overlaps(old->uva, old->size, new->uva, new->size))
            return -EEXIST;
        bytes += old->size; /* less than INT64_MAX / 2 each, and the sum within the limit before */
    }
    return mem->limit_bytes && bytes > mem->limit_bytes ? -ENOMEM : 0;
}

static int map_region(struct v9_mem *mem, struct v9_region *region)
{
    int err;

    if (mem->limit_bytes && mem->retired_bytes > RETIRED_TIMES * mem->limit_bytes)
        return -ENOMEM;
    region->hva = v9_mapping_begin(&mem->registry, &mem->faulted, &region->map, region->fd,
                                   region->mmap_offset, region->size, &err);
    return err;
}

int v9_mem_add(struct v9_mem *mem, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t mmap_offset,
               int fd)
{
    struct v9_region region = {.gpa = gpa, .size = size, .uva = uva, .mmap_offset = mmap_offset};
    struct stat st;
    int err = check_region(mem, &region);

    if (err)
        return err;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < mmap_offset + size)
        return -EINVAL;
    region.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (region.fd < 0)
        return -errno;
    err = map_region(mem, &region);
    if (err) {
        close(region.fd);
        return err;
    }
    mem->regions[mem->count] = region;
    V9_COMMIT();
    mem->count++;
    return 0;
}

/* The last region takes the place of the one that goes. After a death in between, a region without
 * descriptor is none, and of two that have the same one, the second is none. */
static void drop_region(struct v9_mem *mem, uint32_t index)
{
    struct v9_region *region = &mem->regions[index], gone = *region;
    struct v9_region last = mem->regions[mem->count - 1];
    const int fd = last.fd;

    region->fd = last.fd = -1;
    V9_COMMIT();
    *region = last;
    V9_COMMIT();
    region->fd = fd;
    V9_COMMIT();
    mem->count--;
    mem->recent = 0;
    v9_mapping_end(&gone.map);
    close(gone.fd);
}

int v9_mem_remove(struct v9_mem *mem, uint64_t gpa, uint64_t size, uint64_t uva)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        if (region->gpa == gpa && region->size == size && region->uva == uva) {
            drop_region(mem, i);
            return 0;
        }
    }
    return -ENOENT;
}

void v9_mem_clear(struct v9_mem *mem)
{
    while (mem->count)
        drop_region(mem, mem->count - 1);
}

void v9_mem_destroy(struct v9_mem *mem)
{
    v9_mem_clear(mem);
    if (!mem->registry)
        return;
    v9_registry_leave(mem->registry);
    mem->registry = NULL;
}

/* Whether a region was whole when the process died; those before it count. */
static bool is_whole(const struct v9_mem *mem, uint32_t index)
{
    const struct v9_region *region = &mem->regions[index];
    struct v9_mem before = {.count = index};
    bool whole = region->fd >= 0;

    memcpy(before.regions, mem->regions, index * sizeof(*region));
    for (uint32_t i = 0; i < index; i++)
        whole = whole && mem->regions[i].fd != region->fd;
    return whole && check_region(&before, region) == 0;
}

/* Whether a region's file is memory, and long enough. */
static bool has_file(const struct v9_region *region)
{
    struct stat st;

    return fstat(region->fd, &st) == 0 &&
           (!S_ISREG(st.st_mode) || (uint64_t)st.st_size >= region->mmap_offset + region->size);
}

void v9_mem_recover(struct v9_mem *mem)
{
    mem->registry = NULL;
    mem->recent = 0;
    mem->patched = false;
    mem->retired_bytes = 0;
    atomic_store(&mem->faulted, false);
    if (mem->count > V9_MEM_REGIONS)
        mem->count = V9_MEM_REGIONS;
    for (uint32_t i = mem->count; i-- > 0;) {
        struct v9_region *region = &mem->regions[i];
        const bool whole = is_whole(mem, i) && has_file(region);
        region->map = (struct v9_mapping){0}; /* it went with its process */
        if (!whole)
            region->fd = -1;
        if (!whole || map_region(mem, region) < 0)
            drop_region(mem, i);
    }
}

bool v9_mem_lost(struct v9_mem *mem)
{
    /* Called for each completion: an atomic exchange would wait until the driver's CPU has released
     * the cache line that was just published. */
    if (!atomic_load_explicit(&mem->faulted, memory_order_relaxed))
        return false;
    atomic_store(&mem->faulted, false);
    mem->patched = true;
    return true;
}

void v9_mem_restore(struct v9_mem *mem)
{
    v9_mem_lost(mem);
    for (uint32_t i = 0; mem->patched && i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        if (region->map.at && v9_mapping_renew(&region->map, region->fd) < 0)
            v9_mapping_blank(&region->map);
    }
    mem->patched = false;
}

/* ---- translation ----------------------------------------------------------------------------- */

static struct v9_region *find_gpa(struct v9_mem *mem, uint64_t gpa)
{
    if (mem->recent < mem->count &&
        gpa - mem->regions[mem->recent].gpa < mem->regions[mem->recent].size)
        return &mem->regions[mem->recent];
    for (uint32_t i = 0; i < mem->count; i++) {
        if (gpa - mem->regions[i].gpa < mem->regions[i].size) {
            mem->recent = i;
            return &mem->regions[i];
        }
    }
    return NULL;
}

void *v9_mem_gpa(struct v9_mem *mem, uint64_t gpa, uint64_t len)
{
    struct v9_region *region = find_gpa(mem, gpa);

    if (!region || len > region->size - (gpa - region->gpa))
        return NULL;
    return region->hva + (gpa - region->gpa);
}

static const struct v9_region *find_uva(const struct v9_mem *mem, uint64_t uva, uint64_t len)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        const uint64_t offset = uva - region->uva;
        if (offset < region->size && len <= region->size - offset)
            return region;
    }
    return NULL;
}

void *v9_mem_window(struct v9_mem *mem, uint64_t uva, uint64_t len, struct v9_mapping *window)
{
    const struct v9_region *region = find_uva(mem, uva, len);
    int err;

    *window = (struct v9_mapping){0};
    if (!region)
        return NULL;
    return v9_mapping_begin(&mem->registry, &mem->faulted, window, region->fd,
                            region->mmap_offset + (uva - region->uva), len, &err);
}

static const struct v9_region *find_hva(const struct v9_mem *mem, const void *hva)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        if ((uintptr_t)hva - (uintptr_t)region->hva < region->size)
            return region;
    }
    return NULL;
}

bool v9_mem_has(const struct v9_mem *mem, const void *hva)
{
    return find_hva(mem, hva) != NULL;
}

uint64_t v9_mem_gpa_of(const struct v9_mem *mem, const void *hva)
{
    const struct v9_region *region = find_hva(mem, hva);

    return region ? region->gpa + (uint64_t)((const uint8_t *)hva - region->hva) : 0;
}

int v9_mem_iov(struct v9_mem *mem, uint64_t gpa, uint64_t len, struct iovec *iov, uint32_t *count,
               uint32_t max, uint32_t fresh)
{
    uint32_t at = *count;
    size_t grown = 0; /* bytes that were added to the element before *count */

    while (len) {
        struct v9_region *region = find_gpa(mem, gpa);
        uint64_t here = region ? region->size - (gpa - region->gpa) : 0;
        uint8_t *hva = region ? region->hva + (gpa - region->gpa) : NULL;
        struct iovec *last = at > fresh ? &iov[at - 1] : NULL;
        int err = !region ? -EFAULT : 0;

        if (here > len)
            here = len;
        if (!err && last && (uint8_t *)last->iov_base + last->iov_len == hva) {
            last->iov_len += here;
            grown += at == *count ? here : 0;
        } else if (!err && at < max) {
            iov[at++] = (struct iovec){hva, here};
        } else {
            if (grown)
                iov[*count - 1].iov_len -= grown;
            return err ? err : -E2BIG;
        }
        gpa += here;
        len -= here;
    }
    *count = at;
    return 0;
}

/* ---- cutting off ----------------------------------------------------------------------------- */

/*
 * Replaces one region's mapping by anonymous memory, which joins the retired mappings, and maps the
 * region elsewhere. After a failure it has no mapping. The old range stays registered until it is
 * retired: a thread may have faulted there just before, and its handler runs just after.
 */
static int move_region(struct v9_mem *mem, struct v9_region *region,
                       struct v9_retired_mapping **retired)
{
    struct v9_retired_mapping *entry = malloc(sizeof(*entry));
    const struct v9_mapping old = region->map;
    int err;

    region->map = (struct v9_mapping){0};
    /* After a failure the old mapping stays for the late writers: if it were unmapped, a mapping of
     * ours could take its addresses. */
    if (!entry)
        return -ENOMEM;
    err = v9_mapping_blank(&old);
    if (err) {
        free(entry);
        return err;
    }
    *entry = (struct v9_retired_mapping){*retired, old};
    *retired = entry;
    mem->retired_bytes += old.len;
    return map_region(mem, region);
}

int v9_mem_cut_off(struct v9_mem *mem, struct v9_retired_mapping **retired)
{
    int err = 0;

    for (uint32_t i = mem->count; i-- > 0;) {
        int failed = move_region(mem, &mem->regions[i], retired);
        if (failed) {
            drop_region(mem, i);
            err = failed;
        }
    }
    return err;
}

void v9_mem_retire(struct v9_mem *mem, struct v9_retired_mapping **retired)
{
    mem->retired_bytes = 0;
    while (*retired) {
        struct v9_retired_mapping *entry = *retired;
        *retired = entry->next;
        v9_mapping_end(&entry->map);
        free(entry);
    }
}
