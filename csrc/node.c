#define _GNU_SOURCE
#include "node.h"

#include <fcntl.h>
#include <unistd.h>

#include "linger.h"

static uint32_t hash_of(uint64_t st_dev, uint64_t st_ino)
{
    return (uint32_t)((st_ino ^ st_dev << 40) * 0x9E3779B97F4A7C15ull >> 32);
}

/* Index + 1 of the first node of a chain. */
static uint32_t first_of(const struct v9_nodes *nodes, uint64_t st_dev, uint64_t st_ino)
{
    return *v9_buckets_head(&nodes->files, hash_of(st_dev, st_ino));
}

/* Whether the key stands for the node's file alone. */
static bool is_certain(const struct v9_node *node)
{
    return node->path_fd >= 0 || node->of_age;
}

static bool is_file(const struct v9_node *node, const struct v9_attr *attr)
{
    return node->st_ino == attr->st_ino && node->st_dev == attr->st_dev &&
           node->mnt_id == attr->mnt_id && node->born == v9_attr_born(attr) && is_certain(node);
}

bool v9_node_is(const struct v9_nodes *nodes, uint32_t index, const struct v9_attr *attr)
{
    return is_file(&nodes->entries[index - 1], attr);
}

bool v9_nodes_are_same(const struct v9_nodes *nodes, uint32_t one, uint32_t other)
{
    const struct v9_node *a = &nodes->entries[one - 1], *b = &nodes->entries[other - 1];

    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->mnt_id == b->mnt_id &&
           a->born == b->born && a->export == b->export && is_certain(a) && is_certain(b);
}

static uint32_t find(struct v9_nodes *nodes, const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = first_of(nodes, attr->st_dev, attr->st_ino);

    while (index) {
        const struct v9_node *node = &nodes->entries[index - 1];
        if (is_file(node, attr) && node->export == found->export && node->shared &&
            !((node->mode ^ attr->mode) & 0170000))
            break;
        index = node->link.next;
    }
    return index;
}

uint32_t v9_nodes_of(struct v9_nodes *nodes, uint64_t st_dev, uint64_t st_ino, uint32_t index)
{
    const struct v9_node *node;

    index = index ? nodes->entries[index - 1].link.next : first_of(nodes, st_dev, st_ino);
    for (; index; index = node->link.next) {
        node = &nodes->entries[index - 1];
        if (node->st_ino == st_ino && node->st_dev == st_dev)
            break;
    }
    return index;
}

/* ---- chains ------------------------------------------------------------------------------------
 */

static bool is_chained(const struct v9_node *node)
{
    return node->shared || node->path_fd < 0;
}

static void chain(struct v9_nodes *nodes, uint32_t index)
{
    const struct v9_node *node = &nodes->entries[index - 1];

    v9_buckets_enter(&nodes->files, index, hash_of(node->st_dev, node->st_ino));
}

static void unchain(struct v9_nodes *nodes, uint32_t index)
{
    v9_buckets_take_out(&nodes->files, index);
}

/* ---- the lists of nodes with descriptors -------------------------------------------------------
 */

static struct v9_node_list *list_of(struct v9_nodes *nodes, const struct v9_node *node)
{
    return node->refs ? &nodes->awake : &nodes->lingering;
}

static void append(struct v9_nodes *nodes, uint32_t index)
{
    struct v9_node *node = &nodes->entries[index - 1];
    struct v9_node_list *list = list_of(nodes, node);

    node->older = list->newest;
    node->newer = 0;
    *(node->older ? &nodes->entries[node->older - 1].newer : &list->oldest) = index;
    list->newest = index;
    list->count++;
}

static void unlink_node(struct v9_nodes *nodes, uint32_t index)
{
    const struct v9_node *node = &nodes->entries[index - 1];
    struct v9_node_list *list = list_of(nodes, node);

    *(node->older ? &nodes->entries[node->older - 1].newer : &list->oldest) = node->newer;
    *(node->newer ? &nodes->entries[node->newer - 1].older : &list->newest) = node->older;
    list->count--;
}

void v9_node_renew(struct v9_nodes *nodes, uint32_t index)
{
    unlink_node(nodes, index);
    append(nodes, index);
}

/* Adds a reference to a node that may linger. */
static void refer(struct v9_nodes *nodes, uint32_t index)
{
    struct v9_node *node = &nodes->entries[index - 1];

    if (!node->refs) {
        unlink_node(nodes, index);
        node->refs = 1;
        node->walked = 0;
        append(nodes, index);
    } else {
        node->refs++;
    }
    node->recent = true;
}

/* Takes the descriptors, which are counted no more. */
static void give_up(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    spare->path_fd = node->path_fd;
    spare->meta_fd = node->meta_fd;
    node->path_fd = node->meta_fd = -1;
    unlink_node(nodes, index);
}

void v9_node_park(struct v9_nodes *nodes, uint32_t index, uint32_t way, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    node->way = way;
    if (!is_chained(node))
        chain(nodes, index);
    give_up(nodes, index, spare);
}

/* Forgets the way of a parked node. */
static void forget_way(struct v9_nodes *nodes, struct v9_node *node, struct v9_node_fds *spare)
{
    v9_park_forget(&nodes->park, node->way);
    spare->anchor_fd = v9_park_leave_anchor(&nodes->park, node->mnt_id);
    node->way = 0;
}

void v9_node_wake(struct v9_nodes *nodes, uint32_t index, int32_t path_fd,
                  struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    forget_way(nodes, node, spare);
    node->path_fd = path_fd;
    node->openable = false;
    if (!is_chained(node))
        unchain(nodes, index);
    append(nodes, index);
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

/* A free entry, whatever lingers; 0: there is none. */
static uint32_t allocate(struct v9_nodes *nodes, struct v9_node_fds *spare)
{
    uint32_t index;

    if (!nodes->free && nodes->used == nodes->max && nodes->lingering.count)
        v9_node_end(nodes, nodes->lingering.oldest, spare);
    index = nodes->free;
    if (index)
        nodes->free = nodes->entries[index - 1].link.next;
    else if (nodes->used < nodes->max)
        index = ++nodes->used;
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

    return attr->told_by == found->path_fd && (S_ISREG(attr->type) || S_ISDIR(attr->type));
}

static uint32_t make(struct v9_nodes *nodes, const struct v9_found *found, uint32_t *account,
                     struct v9_node_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = !nodes->quotas[found->export] || *account ? allocate(nodes, spare) : 0;
    struct v9_node *node;

    if (!index)
        return 0;
    node = &nodes->entries[index - 1];
    *node = (struct v9_node){
        .st_dev = attr->st_dev,
        .st_ino = attr->st_ino,
        .mnt_id = attr->mnt_id,
        .born = v9_attr_born(attr),
        .export = found->export,
        .refs = 1,
        .shared = !nodes->unshared,
        .mode = attr->mode,
        .path_fd = found->path_fd,
        .meta_fd = found->meta_fd,
        .openable = is_openable(found),
        .account = *account,
        .changed = changed_at(attr),
        .qid = attr->qid,
    };
    *account = 0;
    nodes->count++;
    if (is_chained(node))
        chain(nodes, index);
    append(nodes, index);
    return index;
}

int32_t v9_node_adopt(struct v9_node *node, int32_t meta_fd)
{
    int32_t none = -1;

    return meta_fd < 0 || !__atomic_compare_exchange_n(&node->meta_fd, &none, meta_fd, false,
                                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
               ? meta_fd
               : -1;
}

uint32_t v9_nodes_hold(struct v9_nodes *nodes, const struct v9_found *found, uint32_t *account,
                       struct v9_node_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = nodes->unshared ? 0 : find(nodes, found);
    struct v9_node *node;

    *spare = V9_NODE_FDS_NONE;
    if (!index)
        return make(nodes, found, account, spare);
    node = &nodes->entries[index - 1];
    if (!node->refs) { /* nobody uses what it has, which may be by another name */
        spare->path_fd = node->path_fd;
        node->path_fd = found->path_fd;
        node->openable = is_openable(found);
    }
    refer(nodes, index);
    v9_node_renew_version(node, attr->qid.version);
    if (node->path_fd < 0)
        v9_node_wake(nodes, index, found->path_fd, spare);
    else if (node->path_fd != found->path_fd)
        spare->path_fd = found->path_fd;
    spare->meta_fd = v9_node_adopt(node, found->meta_fd);
    if (node->changed != changed_at(attr) && spare->path_fd == found->path_fd)
        /* The same file by its newest name, under the same number: whoever uses it stays right. */
        dup3(found->path_fd, node->path_fd, O_CLOEXEC);
    node->changed = changed_at(attr);
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

bool v9_nodes_may_meet(const struct v9_nodes *nodes, uint32_t export, uint64_t dir,
                       const char *name)
{
    return v9_nodes_keep(nodes, export) &&
           (__atomic_load_n(&nodes->misses, __ATOMIC_RELAXED) < MISSES ||
            hash_of_name(dir, name) % SAMPLE == 0);
}

bool v9_nodes_has_one_name(const struct v9_attr *attr)
{
    return S_ISDIR(attr->mode) || attr->nlink <= 1;
}

uint32_t v9_nodes_meet(struct v9_nodes *nodes, uint32_t export, const struct v9_attr *attr)
{
    const struct v9_found found = {-1, -1, export, attr};
    uint32_t index = find(nodes, &found), misses = nodes->misses;
    const struct v9_node *node = index ? &nodes->entries[index - 1] : NULL;

    if (!node || node->path_fd < 0 || node->changed != changed_at(attr) ||
        !v9_nodes_has_one_name(attr)) {
        misses += misses < MISSES;
        index = 0;
    } else {
        misses -= misses < HIT_COUNTS ? misses : HIT_COUNTS;
        refer(nodes, index);
        v9_node_set_lasting(nodes, index, true);
    }
    __atomic_store_n(&nodes->misses, misses, __ATOMIC_RELAXED);
    return index;
}

void v9_node_set_lasting(struct v9_nodes *nodes, uint32_t index, bool lasting)
{
    struct v9_node *node = &nodes->entries[index - 1];
    uint32_t *count = &nodes->lasting[S_ISDIR(node->mode) ? 1 : 0];

    if (node->lasting != lasting)
        *count = lasting ? *count + 1 : *count - 1;
    node->lasting = lasting;
}

/* ---- the end ----------------------------------------------------------------------------------
 */

/* Removes a node without references from the table, that is no longer in a chain. */
static void bury(struct v9_nodes *nodes, uint32_t index)
{
    struct v9_node *node = &nodes->entries[index - 1];

    v9_node_set_lasting(nodes, index, false);
    node->link.next = nodes->free;
    nodes->free = index;
    nodes->count--;
}

void v9_node_end(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    unchain(nodes, index); /* only shared ones linger */
    give_up(nodes, index, spare);
    bury(nodes, index);
}

static bool may_linger(const struct v9_nodes *nodes, const struct v9_node *node)
{
    return v9_nodes_keep(nodes, node->export) && node->mnt_id == nodes->keeps[node->export] &&
           node->shared && node->path_fd >= 0 && node->meta_fd < 0 && !node->account &&
           node->lasting && v9_budget_is_ample(nodes->account);
}

/* A node whose last reference is about to go lingers, perhaps in the place of another. */
static void let_linger(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    unlink_node(nodes, index);
    node->refs = 0;
    node->left = v9_linger_now();
    append(nodes, index);
    if (nodes->lingering.count > V9_LINGER_MAX)
        v9_node_end(nodes, nodes->lingering.oldest, spare);
    spare->lingers = true;
}

void v9_nodes_drop(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    *spare = V9_NODE_FDS_NONE;
    if (node->refs > 1) {
        node->refs--;
        return;
    }
    if (may_linger(nodes, node)) {
        let_linger(nodes, index, spare);
        return;
    }
    spare->account = node->account;
    spare->quota = nodes->quotas[node->export];
    if (is_chained(node))
        unchain(nodes, index);
    if (node->path_fd >= 0)
        give_up(nodes, index, spare);
    else
        forget_way(nodes, node, spare);
    node->refs = 0;
    bury(nodes, index);
}

void v9_node_fds_close(const struct v9_node_fds *spare)
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
        v9_linger_watch();
}
