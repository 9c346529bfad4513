#define _GNU_SOURCE
#include "virtio/mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    GUARD = 1 << 20,    /* bytes on either side: twice what the largest ring's descriptors take */
    BIG_PAGE = 2 << 20, /* a mapping with this alignment may use big pages */
};

/*
 * The mappings of an owner, for the SIGBUS handler: it may run at any time in any thread, so it
 * reads only atomics. An entry is valid while `start` is not 0; `start` is written last and cleared
 * first. Registries are reused and never freed, since a handler may be reading them.
 */
struct v9_known {
    _Atomic uintptr_t start;
    _Atomic size_t len, page;
};

struct v9_registry {
    struct v9_registry *next;
    bool taken;                     /* guarded by registries_lock */
    _Atomic(atomic_bool *) faulted; /* its owner's */
    _Atomic uint32_t used;          /* entries ever handed out */
    struct v9_known known[V9_MAPPINGS_MAX];
};

static _Atomic(struct v9_registry *) registries;
/* Lock order: docs/architecture.md */
static pthread_mutex_t registries_lock = PTHREAD_MUTEX_INITIALIZER;

static struct v9_registry *take_registry(atomic_bool *faulted)
{
    struct v9_registry *registry;

    pthread_mutex_lock(&registries_lock);
    registry = atomic_load(&registries);
    while (registry && registry->taken)
        registry = registry->next;
    if (!registry) {
        registry = calloc(1, sizeof(*registry));
        if (registry) {
            registry->next = atomic_load(&registries);
            atomic_store(&registries, registry);
        }
    }
    if (registry) {
        registry->taken = true;
        atomic_store(&registry->faulted, faulted);
    }
    pthread_mutex_unlock(&registries_lock);
    return registry;
}

static int enter(struct v9_registry **of, atomic_bool *faulted, struct v9_mapping *map)
{
    struct v9_registry *registry = *of;
    uint32_t i = 0, used;

    if (!registry)
        registry = *of = take_registry(faulted);
    if (!registry)
        return -ENOMEM;
    used = atomic_load(&registry->used);
    while (i < used && atomic_load(&registry->known[i].start))
        i++;
    if (i == V9_MAPPINGS_MAX)
        return -ENOSPC;
    map->known = &registry->known[i];
    atomic_store(&map->known->len, map->len);
    atomic_store(&map->known->page, map->page);
    atomic_store(&map->known->start, (uintptr_t)map->at);
    if (i == used)
        atomic_store(&registry->used, used + 1);
    return 0;
}

void v9_registry_leave(struct v9_registry *registry)
{
    pthread_mutex_lock(&registries_lock);
    registry->taken = false;
    pthread_mutex_unlock(&registries_lock);
}

static int map_zeros(void *at, size_t len)
{
    return mmap(at, len, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED
               ? -errno
               : 0;
}

/* Copies the registry's mapping that an address lies in to *found. */
static bool find_known(struct v9_registry *registry, uintptr_t at, struct v9_mapping *found)
{
    const uint32_t used = atomic_load(&registry->used);

    for (uint32_t i = 0; i < used; i++) {
        struct v9_known *known = &registry->known[i];
        const uintptr_t start = atomic_load(&known->start);
        found->at = (uint8_t *)start;
        found->len = atomic_load(&known->len);
        found->page = atomic_load(&known->page);
        /* Another thread may be replacing the entry: the values belong together only if `start` has
         * not changed. The fault was not in a mapping that is being added or removed. */
        if (start && at - start < found->len && atomic_load(&known->start) == start)
            return true;
    }
    return false;
}

/* Puts zero pages where the frontend took one away; the access that faulted is then repeated. */
static void on_sigbus(int number, siginfo_t *info, void *context)
{
    const uintptr_t at = (uintptr_t)info->si_addr;
    struct v9_registry *registry = info->si_code > 0 ? atomic_load(&registries) : NULL;
    struct v9_mapping map;
    const int saved = errno;

    (void)context;
    while (registry && !find_known(registry, at, &map))
        registry = registry->next;
    if (registry) {
        const uintptr_t lost = at / map.page * map.page;
        atomic_bool *faulted = atomic_load(&registry->faulted);
        if (map_zeros((void *)lost, (uintptr_t)map.at + map.len - lost) == 0) {
            atomic_store(faulted, true);
            errno = saved;
            return;
        }
    }
    signal(number, SIG_DFL); /* not guest memory: the repeated access ends the process */
    if (info->si_code <= 0)
        raise(number); /* sent by kill(2): no access is repeated */
    errno = saved;
}

int v9_mapping_init(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

/* The page size of this file's mappings: a huge page's on hugetlbfs. */
static size_t page_size(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) == 0 && st.f_type == HUGETLBFS_MAGIC)
        return (size_t)st.f_bsize;
    return (size_t)sysconf(_SC_PAGESIZE);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

int v9_mapping_renew(const struct v9_mapping *map, int fd)
{
    return mmap(map->at, map->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
                fd, map->offset) == MAP_FAILED
               ? -errno
               : 0;
}

void v9_mapping_end(struct v9_mapping *map)
{
    if (!map->at)
        return;
    if (map->known)
        atomic_store(&map->known->start, 0);
    munmap(map->reserved, map->reserved_len);
    *map = (struct v9_mapping){0};
}

/* Reserves addresses for map->len, with guards, and maps the file there. On failure map->at is
 * NULL. */
static int map_guarded(struct v9_registry **registry, atomic_bool *faulted, struct v9_mapping *map,
                       int fd)
{
    const size_t align =
        map->page < BIG_PAGE && map->len >= BIG_PAGE ? (size_t)BIG_PAGE : map->page;
    int err;

    map->at = NULL;
    map->known = NULL;
    map->reserved_len = map->len + align + 2 * GUARD;
    map->reserved = mmap(NULL, map->reserved_len, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map->reserved == MAP_FAILED)
        return -errno;
    map->at = (uint8_t *)map->reserved + GUARD;
    map->at += round_up((uintptr_t)map->at, align) - (uintptr_t)map->at;
    err = v9_mapping_renew(map, fd);
    if (!err)
        err = enter(registry, faulted, map);
    if (err)
        v9_mapping_end(map);
    return err;
}

uint8_t *v9_mapping_begin(struct v9_registry **registry, atomic_bool *faulted,
                          struct v9_mapping *map, int fd, uint64_t offset, uint64_t len, int *err)
{
    const size_t page = page_size(fd);
    const uint64_t from = offset / page * page;

    *map = (struct v9_mapping){
        .page = page, .offset = (int64_t)from, .len = round_up(offset + len, page) - from};
    *err = map_guarded(registry, faulted, map, fd);
    return *err ? NULL : map->at + (offset - from);
}

int v9_mapping_blank(const struct v9_mapping *map)
{
    return map_zeros(map->at, map->len);
}
