/*
 * qidmap: the table behind qid.path. It decides nothing: Python installs devices, groups and files,
 * lookups here use them, as a software switch uses its flow cache.
 *
 * In:  what (st_dev, mount id) stands for; groups; the files of the fallback.
 * Out: (st_dev, mount id, st_ino) -> device index and qid.path.
 *
 * Theory. A group is (device, b, top b bits of st_ino) and owns a suffix of b bits that no other
 * suffix ends in; a file of the group has the path (st_ino << b) | suffix. A device tries the
 * lengths b that its groups have, shortest first, and the first group that fits is the file's. A
 * device's lengths only ever grow, and a group is only added for an inode that none fits, so a
 * file never changes its group. Files that came after all groups were given out are listed singly.
 *
 * Memory. One hash table (open addressing, linear probes) holds all kinds of entries. It lies in a
 * sparse memory file without any pointer in it, so a successor process can map it again, wherever
 * this one died: an entry counts once its kind is set, which is stored last, and a table that has
 * grown counts once the header names it. The lock is not in the file.
 *
 * A thread remembers the device and the group of its last file, to which the next one belongs as a
 * rule, and takes neither lock nor table then. Whatever is installed ends that, in all maps.
 */
#define _GNU_SOURCE
#include "export/qidmap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/refusal.h"

enum kind {
    EMPTY = 0,
    DEVICE,  /* (st_dev, mount id) -> flags << 32 | device index */
    LENGTHS, /* (device index, 0) -> bit b is set where the device has groups of b bits */
    GROUP,   /* (device index << 8 | b, top bits) -> suffix */
    SINGLE,  /* (device index, st_ino) -> path */
};

struct entry {
    uint64_t kind, a, b, value;
};

struct header {
    uint64_t magic; /* stored last when the file is new */
    uint64_t table; /* offset << 8 | log2 of the number of slots: one store switches tables */
};

struct v9_qidmap {
    pthread_rwlock_t lock; /* lock order: docs/architecture.md */
    int fd;
    uint8_t *base;
    uint64_t size;
    uint64_t used, devices; /* entries of any kind; of kind DEVICE */
};

/* What a thread has found last, while `changes` is the same. */
static _Thread_local struct {
    const v9_qidmap *map;
    uint64_t changes, st_dev, mnt_id;
    uint32_t device;
    struct v9_qid_group group;
} recent;

/* How often something was installed in a map, or a map began. */
static uint64_t changes;

#define MAGIC 0x3170616d64697139ull /* "9qidmap1" in memory */
#define FIRST_TABLE 4096ull

enum {
    MIN_ORDER = 10,
    MAX_ORDER = 33, /* 2^31 - 1 files and all groups, at most half full */
    /* Mount ids come and go without bound. Beyond this many the map forgets them all, and asks
     * again for those that are in use. */
    MAX_DEVICES = 65536,
};

static struct header *header_of(const v9_qidmap *map)
{
    return (struct header *)map->base;
}

static uint64_t table_offset(const v9_qidmap *map)
{
    return header_of(map)->table >> 8;
}

static unsigned table_order(const v9_qidmap *map)
{
    return header_of(map)->table & 0xff;
}

static struct entry *slots_at(const v9_qidmap *map, uint64_t offset)
{
    return (struct entry *)(map->base + offset);
}

static uint64_t table_bytes(unsigned order)
{
    return sizeof(struct entry) << order;
}

/* splitmix64's finaliser over the three parts of the key. */
static uint64_t hash(enum kind kind, uint64_t a, uint64_t b)
{
    uint64_t x = (a + kind * 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;

    x = ((x ^ x >> 32) + b) * 0x94D049BB133111EBull;
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9ull;
    return x ^ x >> 32;
}

/* The key's entry, or the empty slot where it belongs: tables are never more than half full. */
static struct entry *probe(struct entry *slots, unsigned order, enum kind kind, uint64_t a,
                           uint64_t b)
{
    uint64_t mask = (1ull << order) - 1, at = hash(kind, a, b) & mask;

    while (slots[at].kind != EMPTY &&
           (slots[at].kind != kind || slots[at].a != a || slots[at].b != b))
        at = (at + 1) & mask;
    return &slots[at];
}

static const struct entry *find(const v9_qidmap *map, enum kind kind, uint64_t a, uint64_t b)
{
    const struct entry *entry =
        probe(slots_at(map, table_offset(map)), table_order(map), kind, a, b);
    return entry->kind == EMPTY ? NULL : entry;
}

uint64_t v9_qidmap_memory(uint64_t entries)
{
    unsigned order = MIN_ORDER;

    while ((entries + MAX_DEVICES) * 2 > 1ull << order)
        order++;
    return table_bytes(order) + table_bytes(order - 1); /* while it grows */
}

/* ---- growing --------------------------------------------------------------------------------- */

static int resize(v9_qidmap *map, uint64_t size)
{
    void *base;

    if (size <= map->size)
        return 0;
    if (ftruncate(map->fd, (off_t)size) < 0)
        return -errno;
    base = mremap(map->base, map->size, size, MREMAP_MAYMOVE);
    if (base == MAP_FAILED)
        return -errno;
    map->base = base;
    map->size = size;
    return 0;
}

/* Makes a range read as zeros and costs no memory. */
static int clear(const v9_qidmap *map, uint64_t offset, uint64_t bytes)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return fallocate(map->fd, mode, (off_t)offset, (off_t)bytes) < 0 ? -errno : 0;
}

/* Copies the entries, without the devices if `forget`, to a new table and switches to it. */
static int rebuild(v9_qidmap *map, unsigned order, bool forget)
{
    uint64_t old = table_offset(map), old_bytes = table_bytes(table_order(map));
    uint64_t bytes = table_bytes(order), used = 0, devices = 0;
    /* Before the old table where there is room, else behind it: the file stays small. */
    uint64_t offset = old - FIRST_TABLE >= bytes ? FIRST_TABLE : old + old_bytes;
    int err = order > MAX_ORDER ? -ENOMEM : resize(map, offset + bytes);

    if (!err)
        err = clear(map, offset, bytes); /* a predecessor may have died amid copying */
    if (err)
        return err;
    for (const struct entry *from = slots_at(map, old); from < slots_at(map, old + old_bytes);
         from++) {
        if (from->kind == EMPTY || (forget && from->kind == DEVICE))
            continue;
        *probe(slots_at(map, offset), order, from->kind, from->a, from->b) = *from;
        used++;
        devices += from->kind == DEVICE;
    }
    map->used = used;
    map->devices = devices;
    __atomic_store_n(&header_of(map)->table, offset << 8 | order, __ATOMIC_RELEASE);
    clear(map, old, old_bytes); /* only to save memory */
    return 0;
}

/* Enters or replaces. */
static int put(v9_qidmap *map, enum kind kind, uint64_t a, uint64_t b, uint64_t value)
{
    struct entry *entry = probe(slots_at(map, table_offset(map)), table_order(map), kind, a, b);
    int err;

    if (entry->kind != EMPTY) {
        entry->value = value;
        return 0;
    }
    if ((map->used + 1) * 2 > 1ull << table_order(map)) {
        err = rebuild(map, table_order(map) + 1, false);
        if (err)
            return err;
        entry = probe(slots_at(map, table_offset(map)), table_order(map), kind, a, b);
    }
    entry->a = a;
    entry->b = b;
    entry->value = value;
    __atomic_store_n(&entry->kind, kind, __ATOMIC_RELEASE);
    map->used++;
    map->devices += kind == DEVICE;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool is_sane(const v9_qidmap *map)
{
    uint64_t offset = table_offset(map), order = table_order(map);

    return header_of(map)->magic == MAGIC && order >= MIN_ORDER && order <= MAX_ORDER &&
           offset >= FIRST_TABLE && offset % sizeof(struct entry) == 0 && offset <= map->size &&
           table_bytes((unsigned)order) <= map->size - offset;
}

static void count(v9_qidmap *map)
{
    const struct entry *slots = slots_at(map, table_offset(map));

    for (uint64_t i = 0; i < 1ull << table_order(map); i++) {
        map->used += slots[i].kind != EMPTY;
        map->devices += slots[i].kind == DEVICE;
    }
}

static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;

    pthread_rwlockattr_init(&attr);
    /* Lookups never end under load; a decision must get in between. */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &attr);
    pthread_rwlockattr_destroy(&attr);
}

v9_qidmap *v9_qidmap_attach(int fd, int *err)
{
    v9_qidmap *map = calloc(1, sizeof(*map));
    struct stat st;

    *err = -ENOMEM;
    if (!map)
        return NULL;
    if (fstat(fd, &st) < 0)
        goto fail_errno;
    *err = -EINVAL;
    if (st.st_size < (off_t)FIRST_TABLE)
        goto fail;
    map->fd = fd;
    map->size = (uint64_t)st.st_size;
    map->base = mmap(NULL, map->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map->base == MAP_FAILED)
        goto fail_errno;
    if (!is_sane(map)) {
        munmap(map->base, map->size);
        goto fail;
    }
    count(map);
    init_lock(&map->lock);
    __atomic_add_fetch(&changes, 1, __ATOMIC_RELEASE); /* another map was at this address */
    *err = 0;
    return map;
fail_errno:
    *err = -errno;
fail:
    free(map);
    return NULL;
}

v9_qidmap *v9_qidmap_new(void)
{
    struct header header = {.magic = MAGIC, .table = FIRST_TABLE << 8 | MIN_ORDER};
    int err, fd = memfd_create("v9_qidmap", MFD_CLOEXEC);
    v9_qidmap *map = NULL;

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, (off_t)(FIRST_TABLE + table_bytes(MIN_ORDER))) == 0 &&
        pwrite(fd, &header, sizeof(header), 0) == sizeof(header))
        map = v9_qidmap_attach(fd, &err);
    if (!map)
        close(fd);
    return map;
}

void v9_qidmap_free(v9_qidmap *map)
{
    if (!map)
        return;
    pthread_rwlock_destroy(&map->lock);
    munmap(map->base, map->size);
    close(map->fd);
    free(map);
}

/* ---- installing ------------------------------------------------------------------------------ */

static void begin_change(v9_qidmap *map)
{
    pthread_rwlock_wrlock(&map->lock);
    __atomic_add_fetch(&changes, 1, __ATOMIC_RELEASE);
}

int v9_qidmap_set_device(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint32_t device,
                         uint32_t flags)
{
    int err = 0;

    if (flags & ~(uint32_t)(V9_DEV_IDENTITY | V9_DEV_DENY))
        return -EINVAL;
    begin_change(map);
    if (map->devices >= MAX_DEVICES && !find(map, DEVICE, st_dev, mnt_id))
        err = rebuild(map, table_order(map), true);
    if (!err)
        err = put(map, DEVICE, st_dev, mnt_id, (uint64_t)flags << 32 | device);
    pthread_rwlock_unlock(&map->lock);
    return err;
}

int v9_qidmap_forget_devices(v9_qidmap *map)
{
    int err;

    begin_change(map);
    err = map->devices ? rebuild(map, table_order(map), true) : 0;
    pthread_rwlock_unlock(&map->lock);
    return err;
}

static uint64_t group_key(uint32_t device, unsigned bits)
{
    return (uint64_t)device << 8 | bits;
}

int v9_qidmap_add_group(v9_qidmap *map, uint32_t device, uint32_t bits, uint64_t top,
                        uint64_t suffix)
{
    const struct entry *lengths;
    int err;

    if (bits < 1 || bits > 63 || top >> bits || suffix >> bits)
        return -EINVAL;
    begin_change(map);
    err = put(map, GROUP, group_key(device, bits), top, suffix);
    if (!err) {
        lengths = find(map, LENGTHS, device, 0);
        err = put(map, LENGTHS, device, 0, (lengths ? lengths->value : 0) | 1ull << bits);
    }
    pthread_rwlock_unlock(&map->lock);
    return err;
}

int v9_qidmap_add_file(v9_qidmap *map, uint32_t device, uint64_t ino, uint64_t path)
{
    int err;

    begin_change(map);
    err = put(map, SINGLE, device, ino, path);
    pthread_rwlock_unlock(&map->lock);
    return err;
}

/* ---- looking up ------------------------------------------------------------------------------ */

/* The group that an inode fits into: no other group of the device has it, since a group is only
 * made for an inode that none has, and never with fewer bits than those before it. */
static bool find_group(const v9_qidmap *map, uint32_t device, uint64_t ino,
                       struct v9_qid_group *group)
{
    const struct entry *entry = find(map, LENGTHS, device, 0);
    uint32_t bits;

    for (uint64_t left = entry ? entry->value : 0; left; left &= left - 1) {
        bits = (uint32_t)__builtin_ctzll(left);
        entry = find(map, GROUP, group_key(device, bits), ino >> (64 - bits));
        if (entry) {
            *group = (struct v9_qid_group){ino >> (64 - bits), entry->value, bits, true};
            return true;
        }
    }
    return false;
}

static int find_path(const v9_qidmap *map, uint32_t device, uint64_t ino, uint64_t *path,
                     struct v9_qid_group *group)
{
    const struct entry *entry;

    if (find_group(map, device, ino, group)) {
        *path = v9_qid_group_path(group, ino);
        return 0;
    }
    entry = find(map, SINGLE, device, ino);
    if (!entry)
        return -V9_NO_GROUP;
    *path = entry->value;
    return 0;
}

int v9_qidmap_find(v9_qidmap *map, uint32_t device, uint64_t ino, uint64_t *path)
{
    struct v9_qid_group group;
    int err;

    pthread_rwlock_rdlock(&map->lock);
    err = find_path(map, device, ino, path, &group);
    pthread_rwlock_unlock(&map->lock);
    return err;
}

static bool is_recent(const v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino)
{
    return recent.map == map && recent.st_dev == st_dev && recent.mnt_id == mnt_id &&
           recent.changes == __atomic_load_n(&changes, __ATOMIC_ACQUIRE) &&
           v9_qid_group_fits(&recent.group, ino);
}

/* Looks in the tables, and notes the group in `recent`. The lock is held. */
static int find_near(const v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino,
                     uint32_t *device, uint64_t *path)
{
    const struct entry *entry = find(map, DEVICE, st_dev, mnt_id);
    struct v9_qid_group group = {0};
    uint32_t flags;
    int err = 0;

    if (!entry)
        return -V9_NO_DEVICE;
    *device = (uint32_t)entry->value;
    flags = (uint32_t)(entry->value >> 32);
    if (flags & V9_DEV_DENY)
        return v9_refuse(ENODEV, V9_REFUSED_DEVICE, 0);
    if (flags & V9_DEV_IDENTITY) {
        group.known = true;
        *path = ino;
    } else {
        err = find_path(map, *device, ino, path, &group);
    }
    recent.map = map;
    recent.changes = __atomic_load_n(&changes, __ATOMIC_RELAXED);
    recent.st_dev = st_dev;
    recent.mnt_id = mnt_id;
    recent.device = *device;
    recent.group = group;
    return err;
}

int v9_qidmap_near(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino, uint32_t *device,
                   uint64_t *path, struct v9_qid_group *group)
{
    int err = 0;

    if (is_recent(map, st_dev, mnt_id, ino)) {
        *device = recent.device;
        *path = v9_qid_group_path(&recent.group, ino);
    } else {
        pthread_rwlock_rdlock(&map->lock);
        err = find_near(map, st_dev, mnt_id, ino, device, path);
        pthread_rwlock_unlock(&map->lock);
    }
    if (!err && recent.group.known)
        *group = recent.group;
    return err;
}

int v9_qidmap_lookup(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino,
                     uint32_t *device, uint64_t *path)
{
    struct v9_qid_group group;
    return v9_qidmap_near(map, st_dev, mnt_id, ino, device, path, &group);
}
