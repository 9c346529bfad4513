#define _GNU_SOURCE
#include "inode.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fid/cached.h"

static uint32_t hash_of(uint64_t st_dev, uint64_t st_ino)
{
    return (uint32_t)((st_ino ^ st_dev << 40) * 0x9E3779B97F4A7C15ull >> 32);
}

/* Index + 1 of the first inode of a chain. */
static uint32_t first_of(const struct v9_inodes *inodes, uint64_t st_dev, uint64_t st_ino)
{
    return *v9_hash_head(&inodes->files, hash_of(st_dev, st_ino));
}

/* Whether the key stands for the inode's file alone. */
static bool is_certain(const struct v9_inode *inode)
{
    return inode->path_fd >= 0 || inode->btime_conclusive;
}

static bool is_file(const struct v9_inode *inode, const struct v9_attr *attr)
{
    return inode->st_ino == attr->st_ino && inode->st_dev == attr->st_dev &&
           inode->mnt_id == attr->mnt_id && inode->btime == v9_attr_btime(attr) &&
           is_certain(inode);
}

bool v9_inode_is(const struct v9_inodes *inodes, uint32_t index, const struct v9_attr *attr)
{
    return is_file(&inodes->entries[index - 1], attr);
}

bool v9_inodes_are_same(const struct v9_inodes *inodes, uint32_t one, uint32_t other)
{
    const struct v9_inode *a = &inodes->entries[one - 1], *b = &inodes->entries[other - 1];

    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->mnt_id == b->mnt_id &&
           a->btime == b->btime && a->export == b->export && is_certain(a) && is_certain(b);
}

static uint32_t find(struct v9_inodes *inodes, const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = first_of(inodes, attr->st_dev, attr->st_ino);

    while (index) {
        const struct v9_inode *inode = &inodes->entries[index - 1];
        if (is_file(inode, attr) && inode->export == found->export && inode->shared &&
            !((inode->mode ^ attr->mode) & 0170000))
            break;
        index = inode->link.next;
    }
    return index;
}

uint32_t v9_inodes_of(struct v9_inodes *inodes, uint64_t st_dev, uint64_t st_ino, uint32_t index)
{
    const struct v9_inode *inode;

    index = index ? inodes->entries[index - 1].link.next : first_of(inodes, st_dev, st_ino);
    for (; index; index = inode->link.next) {
        inode = &inodes->entries[index - 1];
        if (inode->st_ino == st_ino && inode->st_dev == st_dev)
            break;
    }
    return index;
}

/* ---- chains ------------------------------------------------------------------------------------
 */

static bool is_chained(const struct v9_inode *inode)
{
    return inode->shared || inode->path_fd < 0;
}

static void chain(struct v9_inodes *inodes, uint32_t index)
{
    const struct v9_inode *inode = &inodes->entries[index - 1];

    v9_hash_enter(&inodes->files, index, hash_of(inode->st_dev, inode->st_ino));
}

static void unchain(struct v9_inodes *inodes, uint32_t index)
{
    v9_hash_take_out(&inodes->files, index);
}

/* ---- the lists of inodes with descriptors -------------------------------------------------------
 */

static struct v9_inode_list *list_of(struct v9_inodes *inodes, const struct v9_inode *inode)
{
    return inode->refs ? &inodes->awake : &inodes->lingering;
}

static void append(struct v9_inodes *inodes, uint32_t index)
{
    struct v9_inode *inode = &inodes->entries[index - 1];
    struct v9_inode_list *list = list_of(inodes, inode);

    inode->older = list->newest;
    inode->newer = 0;
    *(inode->older ? &inodes->entries[inode->older - 1].newer : &list->oldest) = index;
    list->newest = index;
    list->count++;
}

static void unlink_node(struct v9_inodes *inodes, uint32_t index)
{
    const struct v9_inode *inode = &inodes->entries[index - 1];
    struct v9_inode_list *list = list_of(inodes, inode);

    *(inode->older ? &inodes->entries[inode->older - 1].newer : &list->oldest) = inode->newer;
    *(inode->newer ? &inodes->entries[inode->newer - 1].older : &list->newest) = inode->older;
    list->count--;
}

void v9_inode_renew(struct v9_inodes *inodes, uint32_t index)
{
    unlink_node(inodes, index);
    append(inodes, index);
}

/* Adds a reference to a inode that may linger. */
static void refer(struct v9_inodes *inodes, uint32_t index)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    if (!inode->refs) {
        unlink_node(inodes, index);
        inode->refs = 1;
        inode->walked = 0;
        append(inodes, index);
    } else {
        inode->refs++;
    }
    inode->recent = true;
}

/* Takes the descriptors, which are counted no more. */
static void give_up(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    spare->path_fd = inode->path_fd;
    spare->meta_fd = inode->meta_fd;
    inode->path_fd = inode->meta_fd = -1;
    unlink_node(inodes, index);
}

void v9_inode_park(struct v9_inodes *inodes, uint32_t index, uint32_t way,
                   struct v9_inode_fds *spare)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    inode->way = way;
    if (!is_chained(inode))
        chain(inodes, index);
    give_up(inodes, index, spare);
}

/* Forgets the way of a parked inode. */
static void forget_way(struct v9_inodes *inodes, struct v9_inode *inode, struct v9_inode_fds *spare)
{
    v9_evicted_forget(&inodes->park, inode->way);
    spare->anchor_fd = v9_evicted_leave_anchor(&inodes->park, inode->mnt_id);
    inode->way = 0;
}

void v9_inode_wake(struct v9_inodes *inodes, uint32_t index, int32_t path_fd,
                   struct v9_inode_fds *spare)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    forget_way(inodes, inode, spare);
    inode->path_fd = path_fd;
    inode->openable = false;
    if (!is_chained(inode))
        unchain(inodes, index);
    append(inodes, index);
}

/* ---- inodes -------------------------------------------------------------------------------------
 */

/* A free entry, whatever lingers; 0: there is none. */
static uint32_t allocate(struct v9_inodes *inodes, struct v9_inode_fds *spare)
{
    uint32_t index;

    if (!inodes->free && inodes->used == inodes->max && inodes->lingering.count)
        v9_inode_end(inodes, inodes->lingering.oldest, spare);
    index = inodes->free;
    if (index)
        inodes->free = inodes->entries[index - 1].link.next;
    else if (inodes->used < inodes->max)
        index = ++inodes->used;
    return index;
}

static uint64_t changed_at(const struct v9_attr *attr)
{
    return attr->ctime_sec * 1000000000u + attr->ctime_nsec;
}

/* An O_PATH descriptor's file is never of another type than it was. */
static bool is_openable(const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;

    return attr->stat_fd == found->path_fd && (S_ISREG(attr->type) || S_ISDIR(attr->type));
}

static uint32_t make(struct v9_inodes *inodes, const struct v9_found *found, uint32_t *account,
                     struct v9_inode_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = !inodes->quotas[found->export] || *account ? allocate(inodes, spare) : 0;
    struct v9_inode *inode;

    if (!index)
        return 0;
    inode = &inodes->entries[index - 1];
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
        .changed = changed_at(attr),
        .qid = attr->qid,
    };
    *account = 0;
    inodes->count++;
    if (is_chained(inode))
        chain(inodes, index);
    append(inodes, index);
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

uint32_t v9_inodes_hold(struct v9_inodes *inodes, const struct v9_found *found, uint32_t *account,
                        struct v9_inode_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = inodes->unshared ? 0 : find(inodes, found);
    struct v9_inode *inode;

    *spare = V9_INODE_FDS_NONE;
    if (!index)
        return make(inodes, found, account, spare);
    inode = &inodes->entries[index - 1];
    if (!inode->refs) { /* nobody uses what it has, which may be by another name */
        spare->path_fd = inode->path_fd;
        inode->path_fd = found->path_fd;
        inode->openable = is_openable(found);
    }
    refer(inodes, index);
    v9_inode_renew_version(inode, attr->qid.version);
    if (inode->path_fd < 0)
        v9_inode_wake(inodes, index, found->path_fd, spare);
    else if (inode->path_fd != found->path_fd)
        spare->path_fd = found->path_fd;
    spare->meta_fd = v9_inode_adopt(inode, found->meta_fd);
    if (inode->changed != changed_at(attr) && spare->path_fd == found->path_fd)
        /* The same file by its newest name, under the same number: whoever uses it stays right. */
        dup3(found->path_fd, inode->path_fd, O_CLOEXEC);
    inode->changed = changed_at(attr);
    return index;
}

/* ---- meeting ----------------------------------------------------------------------------------
 */

enum {
    MISSES = 256,   /* so many more than... */
    HIT_COUNTS = 4, /* ...this for each hit, and stats by name are mostly in vain */
    SAMPLE = 32,    /* of so many names one is tried even then */
};

static uint32_t hash_of_name(uint64_t dir, const char *name)
{
    uint32_t hash = 2166136261u ^ (uint32_t)(dir ^ dir >> 32); /* FNV-1a */

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash ^ hash >> 16;
}

bool v9_inodes_may_meet(const struct v9_inodes *inodes, uint32_t export, uint64_t dir,
                        const char *name)
{
    return v9_inodes_keep(inodes, export) &&
           (__atomic_load_n(&inodes->misses, __ATOMIC_RELAXED) < MISSES ||
            hash_of_name(dir, name) % SAMPLE == 0);
}

bool v9_inodes_has_one_name(const struct v9_attr *attr)
{
    return S_ISDIR(attr->mode) || attr->nlink <= 1;
}

uint32_t v9_inodes_meet(struct v9_inodes *inodes, uint32_t export, const struct v9_attr *attr)
{
    const struct v9_found found = {-1, -1, export, attr};
    uint32_t index = find(inodes, &found), misses = inodes->misses;
    const struct v9_inode *inode = index ? &inodes->entries[index - 1] : NULL;

    if (!inode || inode->path_fd < 0 || inode->changed != changed_at(attr) ||
        !v9_inodes_has_one_name(attr)) {
        misses += misses < MISSES;
        index = 0;
    } else {
        misses -= misses < HIT_COUNTS ? misses : HIT_COUNTS;
        refer(inodes, index);
        v9_inode_set_lasting(inodes, index, true);
    }
    __atomic_store_n(&inodes->misses, misses, __ATOMIC_RELAXED);
    return index;
}

void v9_inode_set_lasting(struct v9_inodes *inodes, uint32_t index, bool lasting)
{
    struct v9_inode *inode = &inodes->entries[index - 1];
    uint32_t *count = &inodes->lasting[S_ISDIR(inode->mode) ? 1 : 0];

    if (inode->lasting != lasting)
        *count = lasting ? *count + 1 : *count - 1;
    inode->lasting = lasting;
}

/* ---- the end ----------------------------------------------------------------------------------
 */

/* Removes a inode without references from the table, that is no longer in a chain. */
static void bury(struct v9_inodes *inodes, uint32_t index)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    v9_inode_set_lasting(inodes, index, false);
    inode->link.next = inodes->free;
    inodes->free = index;
    inodes->count--;
}

void v9_inode_end(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare)
{
    unchain(inodes, index); /* only shared ones linger */
    give_up(inodes, index, spare);
    bury(inodes, index);
}

static bool may_linger(const struct v9_inodes *inodes, const struct v9_inode *inode)
{
    return v9_inodes_keep(inodes, inode->export) && inode->mnt_id == inodes->keeps[inode->export] &&
           inode->shared && inode->path_fd >= 0 && inode->meta_fd < 0 && !inode->account &&
           inode->lasting && v9_budget_is_ample(inodes->account);
}

/* A inode whose last reference is about to go lingers, perhaps in the place of another. */
static void let_linger(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    unlink_node(inodes, index);
    inode->refs = 0;
    inode->left = v9_cached_now();
    append(inodes, index);
    if (inodes->lingering.count > V9_LINGER_MAX)
        v9_inode_end(inodes, inodes->lingering.oldest, spare);
    spare->lingers = true;
}

void v9_inodes_drop(struct v9_inodes *inodes, uint32_t index, struct v9_inode_fds *spare)
{
    struct v9_inode *inode = &inodes->entries[index - 1];

    *spare = V9_INODE_FDS_NONE;
    if (inode->refs > 1) {
        inode->refs--;
        return;
    }
    if (may_linger(inodes, inode)) {
        let_linger(inodes, index, spare);
        return;
    }
    spare->account = inode->account;
    spare->quota = inodes->quotas[inode->export];
    if (is_chained(inode))
        unchain(inodes, index);
    if (inode->path_fd >= 0)
        give_up(inodes, index, spare);
    else
        forget_way(inodes, inode, spare);
    inode->refs = 0;
    bury(inodes, index);
}

void v9_inode_fds_close(const struct v9_inode_fds *spare)
{
    if (spare->account && spare->path_fd >= 0)
        v9_quota_close(spare->quota, spare->account, spare->path_fd);
    if (spare->path_fd >= 0)
        v9_budget_close(spare->path_fd);
    if (spare->meta_fd >= 0)
        v9_budget_close(spare->meta_fd);
    if (spare->anchor_fd >= 0)
        v9_budget_close(spare->anchor_fd);
    if (spare->account)
        v9_quota_release(spare->quota, spare->account);
    if (spare->lingers)
        v9_cached_watch();
}
