#define _GNU_SOURCE
#include "guest_mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * The registry of mappings, for the SIGBUS handler: it may run at any moment in any thread, so it
 * reads atomics only. An entry is valid while `start` is not 0; `start` is written last and cleared
 * first.
 */
#define REGISTRY 4096

static struct registered {
    _Atomic uintptr_t start;
    _Atomic size_t len, page;
    _Atomic(atomic_bool *) faulted;
} registry[REGISTRY];
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;

static int enter_registry(void *map, size_t len, size_t page, atomic_bool *faulted)
{
    int err = -ENOSPC;

    pthread_mutex_lock(&registry_lock);
    for (int i = 0; i < REGISTRY && err; i++) {
        if (atomic_load(&registry[i].start))
            continue;
        atomic_store(&registry[i].len, len);
        atomic_store(&registry[i].page, page);
        atomic_store(&registry[i].faulted, faulted);
        atomic_store(&registry[i].start, (uintptr_t)map);
        err = 0;
    }
    pthread_mutex_unlock(&registry_lock);
    return err;
}

static void leave_registry(const void *map)
{
    pthread_mutex_lock(&registry_lock);
    for (int i = 0; i < REGISTRY; i++)
        if (atomic_load(&registry[i].start) == (uintptr_t)map)
            atomic_store(&registry[i].start, 0);
    pthread_mutex_unlock(&registry_lock);
}

static int map_zeros(void *at, size_t len)
{
    return mmap(at, len, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED
               ? -errno
               : 0;
}

/* Puts zero pages where the frontend took one away; the access that faulted is then repeated. */
static void on_sigbus(int number, siginfo_t *info, void *context)
{
    const uintptr_t at = (uintptr_t)info->si_addr;
    const int saved = errno;

    (void)context;
    for (int i = 0; i < REGISTRY && info->si_code > 0; i++) {
        uintptr_t start = atomic_load(&registry[i].start);
        size_t len = atomic_load(&registry[i].len), page = atomic_load(&registry[i].page);
        atomic_bool *faulted = atomic_load(&registry[i].faulted);
        if (!start || at < start || at - start >= len)
            continue;
        /* Another thread may be exchanging the entry: the four belong together only if start
         * stayed. What is being left or entered is not where we faulted. */
        if (atomic_load(&registry[i].start) != start)
            continue;
        if (map_zeros((void *)(at / page * page), start + len - at / page * page) < 0)
            break;
        atomic_store(faulted, true);
        errno = saved;
        return;
    }
    signal(number, SIG_DFL); /* not guest memory: the repeated access ends the process */
    if (info->si_code <= 0)
        raise(number); /* sent by somebody (kill): nothing is repeated */
    errno = saved;
}

int v9_mem_init(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static int check_region(const struct v9_mem *mem, const struct v9_region *new)
{
    uint64_t end;

    if (!new->size || __builtin_add_overflow(new->gpa, new->size, &end) ||
        __builtin_add_overflow(new->uva, new->size, &end) ||
        __builtin_add_overflow(new->mmap_offset, new->size, &end) || end > INT64_MAX / 2)
        return -EINVAL;
    if (mem->count == V9_MEM_REGIONS)
        return -ENOSPC;
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *old = &mem->regions[i];
        if (overlaps(old->gpa, old->size, new->gpa, new->size) ||
            overlaps(old->uva, old->size, new->uva, new->size))
            return -EEXIST;
    }
    return 0;
}

/* The size that mappings of this file are made of: a huge page's on hugetlbfs. */
static size_t page_size(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) == 0 && st.f_type == HUGETLBFS_MAGIC)
        return (size_t)st.f_bsize;
    return (size_t)sysconf(_SC_PAGESIZE);
}

static int map_region(struct v9_mem *mem, struct v9_region *region)
{
    void *map = mmap(NULL, region->map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                     region->fd, 0);
    int err;

    if (map == MAP_FAILED)
        return -errno;
    err = enter_registry(map, region->map_len, region->page, &mem->faulted);
    if (err) {
        munmap(map, region->map_len);
        return err;
    }
    region->map = map;
    region->hva = (uint8_t *)map + region->mmap_offset;
    return 0;
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
    region.page = page_size(fd);
    region.map_len = (mmap_offset + size + region.page - 1) / region.page * region.page;
    region.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (region.fd < 0)
        return -errno;
    err = map_region(mem, &region);
    if (err) {
        close(region.fd);
        return err;
    }
    mem->regions[mem->count++] = region;
    return 0;
}

static void drop_region(struct v9_mem *mem, uint32_t index)
{
    struct v9_region *region = &mem->regions[index];

    if (region->map) {
        leave_registry(region->map);
        munmap(region->map, region->map_len);
    }
    close(region->fd);
    *region = mem->regions[--mem->count];
    mem->recent = 0;
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

bool v9_mem_lost(struct v9_mem *mem)
{
    /* Asked for each completion: an exchange would wait until the driver's CPU has let go of what
     * was just published. */
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
        if (region->map &&
            mmap(region->map, region->map_len, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, region->fd, 0) == MAP_FAILED)
            map_zeros(region->map, region->map_len);
    }
    mem->patched = false;
}

/* ---- translation -------------------------------------------------------------------------------
 */

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

void *v9_mem_uva(struct v9_mem *mem, uint64_t uva, uint64_t len)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        uint64_t offset = uva - region->uva;
        if (offset < region->size && len <= region->size - offset)
            return region->hva + offset;
    }
    return NULL;
}

uint64_t v9_mem_gpa_of(const struct v9_mem *mem, const void *hva)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        const struct v9_region *region = &mem->regions[i];
        const uint64_t offset = (uint64_t)((const uint8_t *)hva - region->hva);
        if ((const uint8_t *)hva >= region->hva && offset < region->size)
            return region->gpa + offset;
    }
    return 0;
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

/* ---- cutting off -------------------------------------------------------------------------------
 */

/*
 * Exchanges one region's mapping for anonymous memory, which is left to the graveyard, and maps the
 * region elsewhere. region->map is NULL after a failure. The old range stays registered until it is
 * buried: a thread may have faulted there just before, and its handler runs just after.
 */
static int move_region(struct v9_mem *mem, struct v9_region *region, struct v9_grave **graveyard)
{
    struct v9_grave *grave = malloc(sizeof(*grave));
    void *old = region->map;
    int err;

    region->map = NULL;
    /* A failure leaves the old mapping to the late writers for good: unmapped, its addresses could
     * come to hold something of ours. */
    if (!grave)
        return -ENOMEM;
    err = map_zeros(old, region->map_len);
    if (err) {
        free(grave);
        return err;
    }
    *grave = (struct v9_grave){*graveyard, old, region->map_len};
    *graveyard = grave;
    return map_region(mem, region);
}

int v9_mem_cut_off(struct v9_mem *mem, struct v9_grave **graveyard)
{
    int err = 0;

    for (uint32_t i = mem->count; i-- > 0;) {
        int failed = move_region(mem, &mem->regions[i], graveyard);
        if (failed) {
            drop_region(mem, i);
            err = failed;
        }
    }
    return err;
}

void v9_mem_bury(struct v9_grave **graveyard)
{
    while (*graveyard) {
        struct v9_grave *grave = *graveyard;
        *graveyard = grave->next;
        leave_registry(grave->map);
        munmap(grave->map, grave->len);
        free(grave);
    }
}
