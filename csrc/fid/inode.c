#define _GNU_SOURCE
#include "fid/inode.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/commit.h"
#include "base/sightings.h"
#include "fid/sweeper.h"
#include "quota/quota.h"

void v9_inodes_init(struct v9_inodes *inodes, struct v9_inode *entries, uint32_t max,
                    uint32_t *heads, uint32_t buckets)
{
    const size_t stride = sizeof(struct v9_inode);
    uint8_t *const bytes = (uint8_t *)entries;

    inodes->max = max;
    inodes->entries = entries;
    inodes->files = v9_hash_of(heads, buckets, bytes + offsetof(struct v9_inode, link), stride, 1);
    inodes->open = inodes->cached = v9_list_of(bytes + offsetof(struct v9_inode, lru), stride, 1);
}

/* ---- the hash by device and inode number ----------------------------------------------------- */

static uint32_t hash_of(uint64_t st_dev, uint64_t st_ino)
{
    return (uint32_t)((st_ino ^ st_dev << 40) * 0x9E3779B97F4A7C15ull >> 32);
}

uint32_t v9_inodes_of_file(struct v9_inodes *inodes, uint64_t st_dev, uint64_t st_ino,
                           uint32_t index)
{
    const struct v9_inode *inode;

    index = index ? v9_inode_at(inodes, index)->link.next
                  : *v9_hash_head(&inodes->files, hash_of(st_dev, st_ino));
    for (; index; index = inode->link.next) {
        inode = v9_inode_at(inodes, index);
        if (inode->st_ino == st_ino && inode->st_dev == st_dev)
            break;
    }
    return index;
}

/* Whether the key identifies the inode's file alone. */
static bool is_certain(const struct v9_inode *inode)
{
    return inode->path_fd >= 0 || inode->btime_conclusive;
}

bool v9_inode_is_file(const struct v9_inodes *inodes, uint32_t index, const struct v9_attr *attr)
{
    const struct v9_inode *inode = v9_inode_at(inodes, index);

    return inode->st_ino == attr->st_ino && inode->st_dev == attr->st_dev &&
           inode->mnt_id == attr->mnt_id && inode->btime == v9_attr_btime(attr) &&
           is_certain(inode);
}

bool v9_inodes_are_same(const struct v9_inodes *inodes, uint32_t one, uint32_t other)
{
    const struct v9_inode *a = v9_inode_at(inodes, one), *b = v9_inode_at(inodes, other);

    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->mnt_id == b->mnt_id &&
           a->btime == b->btime && a->export == b->export && is_certain(a) && is_certain(b);
}

static uint32_t find(struct v9_inodes *inodes, uint32_t export, const struct v9_attr *attr)
{
    const struct v9_inode *inode;
    uint32_t index = 0;

    while ((index = v9_inodes_of_file(inodes, attr->st_dev, attr->st_ino, index))) {
        inode = v9_inode_at(inodes, index);
        if (v9_inode_is_file(inodes, index, attr) && inode->export == export && inode->shared &&
            !((inode->mode ^ attr->mode) & 0170000))
            break;
    }
    return index;
}

static bool is_chained(const struct v9_inode *inode)
{
    return inode->shared || inode->path_fd < 0;
}

static void chain(struct v9_inodes *inodes, uint32_t index)
{
    const struct v9_inode *inode = v9_inode_at(inodes, index);

    v9_hash_enter(&inodes->files, index, hash_of(inode->st_dev, inode->st_ino));
}

/* ---- states ---------------------------------------------------------------------------------- */

/* Adds a reference to an inode that may be cached. */
static void refer(struct v9_inodes *inodes, uint32_t index)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);

    if (!inode->refs) {
        v9_list_remove(&inodes->cached, index);
        v9_list_append(&inodes->open, index);
        inode->walked_fids = 0;
        inode->keeps_version = false;
    }
    inode->refs++;
    inode->used_lately = true;
}

static void close_fds(struct v9_inode *inode, struct v9_deferred *deferred)
{
    v9_deferred_close(deferred, inode->path_fd);
    v9_deferred_close(deferred, inode->meta_fd);
    inode->path_fd = inode->meta_fd = -1;
}

void v9_inode_evict(struct v9_inodes *inodes, uint32_t index, uint32_t recipe,
                    struct v9_deferred *deferred)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);

    inode->recipe = recipe;
    V9_COMMIT();
    if (!is_chained(inode))
        chain(inodes, index);
    v9_list_remove(&inodes->open, index);
    close_fds(inode, deferred);
}

static void forget_recipe(struct v9_inodes *inodes, struct v9_inode *inode,
                          struct v9_deferred *deferred)
{
    v9_recipes_remove(&inodes->recipes, inode->recipe);
    v9_deferred_close(deferred, v9_recipes_leave_anchor(&inodes->recipes, inode->mnt_id));
    inode->recipe = 0;
}

void v9_inode_restore(struct v9_inodes *inodes, uint32_t index, int32_t path_fd,
                      struct v9_deferred *deferred)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);

    inode->openable = false;
    inode->path_fd = path_fd;
    V9_COMMIT();
    forget_recipe(inodes, inode, deferred);
    if (!is_chained(inode))
        v9_hash_take_out(&inodes->files, index);
    v9_list_append(&inodes->open, index);
}

void v9_inode_set_cacheable(struct v9_inodes *inodes, uint32_t index, bool cacheable)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);
    uint32_t *count = &inodes->cacheable[S_ISDIR(inode->mode) ? 1 : 0];

    if (inode->cacheable != cacheable)
        *count = cacheable ? *count + 1 : *count - 1;
    inode->cacheable = cacheable;
}

/* ---- acquiring ------------------------------------------------------------------------------- */

/* A free entry, perhaps that of a cached inode; 0: there is none. */
static uint32_t allocate(struct v9_inodes *inodes, struct v9_deferred *deferred)
{
    uint32_t index;

    if (!inodes->free && inodes->used == inodes->max && inodes->cached.count)
        v9_inode_uncache(inodes, inodes->cached.first, deferred);
    index = inodes->free;
    if (index)
        inodes->free = v9_inode_at(inodes, index)->link.next;
    else if (inodes->used < inodes->max)
        index = ++inodes->used;
    return index;
}

static uint64_t ctime_of(const struct v9_attr *attr)
{
    return attr->ctime_sec * 1000000000u + attr->ctime_nsec;
}

/* The type of the file that an O_PATH descriptor names never changes. */
static bool is_openable(const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;

    return attr->stat_fd == found->path_fd && (S_ISREG(attr->type) || S_ISDIR(attr->type));
}

static uint32_t make(struct v9_inodes *inodes, const struct v9_found *found, uint32_t *account,
                     struct v9_deferred *deferred)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = !inodes->quotas[found->export] || *account ? allocate(inodes, deferred) : 0;
    struct v9_inode *inode;

    if (!index)
        return 0;
    inode = v9_inode_at(inodes, index);
    *inode = (struct v9_inode){
        .st_dev = attr->st_dev,
        .st_ino = attr->st_ino,
        .mnt_id = attr->mnt_id,
        .btime = v9_attr_btime(attr),
        .export = found->export,
        .refs = 1,
        .shared = !inodes->unshared,
        .mode = attr->mode,
        .path_fd = found->path_fd,
        .meta_fd = found->meta_fd,
        .openable = is_openable(found),
        .account = *account,
        .ctime = ctime_of(attr),
        .qid = attr->qid,
    };
    *account = 0;
    inodes->count++;
    if (is_chained(inode))
        chain(inodes, index);
    v9_list_append(&inodes->open, index);
    return index;
}

int32_t v9_inode_adopt(struct v9_inode *inode, int32_t meta_fd)
{
    int32_t none = -1;

    return meta_fd < 0 || !__atomic_compare_exchange_n(&inode->meta_fd, &none, meta_fd, false,
                                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
               ? meta_fd
               : -1;
}

uint32_t v9_inodes_acquire(struct v9_inodes *inodes, const struct v9_found *found,
                           uint32_t *account, struct v9_deferred *deferred)
{
    const uint64_t ctime = ctime_of(found->attr);
    uint32_t index = inodes->unshared ? 0 : find(inodes, found->export, found->attr);
    struct v9_inode *inode;

    if (!index)
        return make(inodes, found, account, deferred);
    inode = v9_inode_at(inodes, index);
    if (!inode->refs) { /* nobody uses the cached descriptor, which may be by another name */
        v9_deferred_close(deferred, inode->path_fd);
        inode->path_fd = found->path_fd;
        inode->openable = is_openable(found);
    }
    refer(inodes, index);
    v9_inode_renew_version(inode, found->attr->qid.version);
    if (inode->path_fd < 0)
        v9_inode_restore(inodes, index, found->path_fd, deferred);
    if (inode->path_fd != found->path_fd) {
        if (inode->ctime != ctime) { /* the newest name under the same number, which users keep */
            v9_sightings_forget(inode->path_fd);
            dup3(found->path_fd, inode->path_fd, O_CLOEXEC);
        }
        v9_deferred_close(deferred, found->path_fd);
    }
    v9_deferred_close(deferred, v9_inode_adopt(inode, found->meta_fd));
    inode->ctime = ctime;
    return index;
}

/* ---- looking up by a stat -------------------------------------------------------------------- */

enum {
    MISSES = 256,   /* misses, less... */
    HIT_COUNTS = 4, /* ...this for each hit: lookups mostly fail */
    SAMPLE = 32,    /* of so many names one is looked up even then */
};

static uint32_t hash_of_name(uint64_t dir, const char *name)
{
    uint32_t hash = 2166136261u ^ (uint32_t)(dir ^ dir >> 32); /* FNV-1a */

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash ^ hash >> 16;
}

bool v9_inodes_worth_lookup(const struct v9_inodes *inodes, uint32_t export, uint64_t dir,
                            const char *name)
{
    return v9_inodes_may_cache(inodes, export) &&
           (__atomic_load_n(&inodes->misses, __ATOMIC_RELAXED) < MISSES ||
            hash_of_name(dir, name) % SAMPLE == 0);
}

bool v9_inodes_has_one_name(const struct v9_attr *attr)
{
    return S_ISDIR(attr->mode) || attr->nlink <= 1;
}

uint32_t v9_inodes_lookup(struct v9_inodes *inodes, uint32_t export, const struct v9_attr *attr)
{
    uint32_t index = find(inodes, export, attr), misses = inodes->misses;
    const struct v9_inode *inode = index ? v9_inode_at(inodes, index) : NULL;

    if (!inode || inode->path_fd < 0 || inode->ctime != ctime_of(attr) ||
        !v9_inodes_has_one_name(attr)) {
        misses += misses < MISSES;
        index = 0;
    } else {
        misses -= misses < HIT_COUNTS ? misses : HIT_COUNTS;
        refer(inodes, index);
        v9_inode_set_cacheable(inodes, index, true);
    }
    __atomic_store_n(&inodes->misses, misses, __ATOMIC_RELAXED);
    return index;
}

/* ---- releasing ------------------------------------------------------------------------------- */

/* Frees the entry of an inode that is in no list any more. */
static void set_free(struct v9_inodes *inodes, uint32_t index)
{
    v9_inode_set_cacheable(inodes, index, false);
    v9_inode_at(inodes, index)->link.next = inodes->free;
    inodes->free = index;
    inodes->count--;
}

void v9_inode_uncache(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred)
{
    v9_hash_take_out(&inodes->files, index); /* only shared ones are cached */
    v9_list_remove(&inodes->cached, index);
    close_fds(v9_inode_at(inodes, index), deferred);
    set_free(inodes, index);
}

static bool may_cache(const struct v9_inodes *inodes, const struct v9_inode *inode)
{
    return v9_inodes_may_cache(inodes, inode->export) &&
           inode->mnt_id == inodes->cached_mounts[inode->export] && inode->shared &&
           inode->path_fd >= 0 && inode->meta_fd < 0 && !inode->account && inode->cacheable &&
           v9_budget_is_ample(inodes->account);
}

/* Caches an inode whose last reference goes, perhaps in the place of another. */
static void cache(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);

    v9_list_remove(&inodes->open, index);
    inode->refs = 0;
    inode->cached_since = v9_sweeper_now();
    v9_list_append(&inodes->cached, index);
    if (inodes->cached.count > V9_CACHED_MAX)
        v9_inode_uncache(inodes, inodes->cached.first, deferred);
    deferred->cached = true;
}

void v9_inodes_release(struct v9_inodes *inodes, uint32_t index, struct v9_deferred *deferred)
{
    struct v9_inode *inode = v9_inode_at(inodes, index);

    if (inode->refs > 1) {
        inode->refs--;
        return;
    }
    if (may_cache(inodes, inode)) {
        cache(inodes, index, deferred);
        return;
    }
    if (is_chained(inode))
        v9_hash_take_out(&inodes->files, index);
    if (inode->path_fd < 0)
        forget_recipe(inodes, inode, deferred);
    else
        v9_list_remove(&inodes->open, index);
    if (inode->account) {
        v9_deferred_release(deferred, inodes->quotas[inode->export], inode->account,
                            inode->path_fd);
        inode->path_fd = -1;
    }
    close_fds(inode, deferred);
    inode->refs = 0;
    set_free(inodes, index);
}

void v9_inodes_trim(struct v9_inodes *inodes)
{
    if (inodes->count)
        return;
    v9_memory_return(inodes->entries, &inodes->entries[inodes->used]);
    inodes->used = inodes->free = 0;
}

/* ---- after a death --------------------------------------------------------------------------- */

void v9_inodes_recover_begin(struct v9_inodes *inodes)
{
    if (inodes->used > inodes->max)
        inodes->used = inodes->max;
    v9_hash_clear(&inodes->files);
    inodes->open = inodes->cached = v9_list_of(inodes->open.links, sizeof(struct v9_inode), 1);
    inodes->count = inodes->free = inodes->misses = 0;
    inodes->cacheable[0] = inodes->cacheable[1] = 0;
    for (uint32_t index = 1; index <= inodes->used; index++)
        v9_inode_at(inodes, index)->refs = 0;
}

/* Whether the descriptor is the file's, or a recipe stands for it. */
static bool is_whole(struct v9_inodes *inodes, struct v9_arena_marks *marks,
                     const struct v9_inode *inode)
{
    struct stat st;

    if (!v9_inodes_has_export(inodes, inode->export))
        return false;
    if (inode->path_fd < 0)
        return v9_recipe_recover(&inodes->recipes, marks, inode->recipe, inode->mnt_id);
    return fstat(inode->path_fd, &st) == 0 && st.st_ino == inode->st_ino;
}

/* Whether a descriptor may be of a file with metadata (mapped/sidecar.h). */
static bool is_metadata(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

bool v9_inode_recover(struct v9_inodes *inodes, struct v9_arena_marks *marks, uint32_t index)
{
    uint8_t shared, conclusive; /* flags in memory that may hold anything */
    struct v9_inode *inode;

    if (!index || index > inodes->used)
        return false;
    inode = v9_inode_at(inodes, index);
    if (inode->refs) {
        inode->refs++;
        return true;
    }
    memcpy(&shared, &inode->shared, sizeof(shared));
    memcpy(&conclusive, &inode->btime_conclusive, sizeof(conclusive));
    if (!is_whole(inodes, marks, inode))
        return false;
    inode->shared = shared & 1;
    inode->btime_conclusive = conclusive & 1;
    inode->refs = 1;
    inode->pins = inode->open_fids = inode->walked_fids = 0;
    inode->resizing = 0;
    inode->account = 0;    /* v9_inodes_hold_accounts */
    inode->known_size = 0; /* the reply that reported it may not have been sent */
    inode->evicting = inode->restoring = inode->openable = inode->cacheable = false;
    if (inode->path_fd >= 0)
        inode->recipe = 0;
    if (!is_metadata(inode->meta_fd))
        inode->meta_fd = -1;
    inodes->count++;
    if (is_chained(inode))
        chain(inodes, index);
    if (inode->path_fd >= 0)
        v9_list_append(&inodes->open, index);
    return true;
}

void v9_inodes_hold_accounts(struct v9_inodes *inodes, uint32_t export)
{
    v9_quota *quota = inodes->quotas[export];

    for (uint32_t i = 0; quota && i < inodes->used; i++) {
        struct v9_inode *inode = &inodes->entries[i];
        int held;

        if (!inode->refs || inode->export != export || inode->account)
            continue;
        held = inode->path_fd >= 0 ? v9_quota_acquire(quota, inode->path_fd)
                                   : (int)v9_quota_hold(quota, inode->st_dev, inode->st_ino, false);
        inode->account = held > 0 ? (uint32_t)held : 0;
    }
}

void v9_inodes_recover_end(struct v9_inodes *inodes)
{
    for (uint32_t index = inodes->used; index; index--)
        if (!v9_inode_at(inodes, index)->refs) {
            v9_inode_at(inodes, index)->link.next = inodes->free;
            inodes->free = index;
        }
}
