#define _GNU_SOURCE
#include "node.h"

#include <fcntl.h>
#include <unistd.h>

static uint32_t *bucket_of(struct v9_nodes *nodes, uint64_t st_dev, uint64_t st_ino)
{
    uint64_t mix = (st_ino ^ st_dev << 40) * 0x9E3779B97F4A7C15ull;
    return &nodes->buckets[(uint32_t)(mix >> 32) & nodes->mask];
}

static uint32_t find(struct v9_nodes *nodes, const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = *bucket_of(nodes, attr->st_dev, attr->st_ino);

    while (index) {
        const struct v9_node *node = &nodes->entries[index - 1];
        if (node->st_ino == attr->st_ino && node->st_dev == attr->st_dev &&
            node->mnt_id == attr->mnt_id && node->export == found->export &&
            node->born == v9_attr_born(attr) && !((node->mode ^ attr->mode) & 0170000) &&
            node->shared && (node->path_fd >= 0 || node->of_age))
            break;
        index = node->next;
    }
    return index;
}

uint32_t v9_nodes_of(struct v9_nodes *nodes, uint64_t st_dev, uint64_t st_ino, uint32_t index)
{
    const struct v9_node *node;

    index = index ? nodes->entries[index - 1].next : *bucket_of(nodes, st_dev, st_ino);
    for (; index; index = node->next) {
        node = &nodes->entries[index - 1];
        if (node->st_ino == st_ino && node->st_dev == st_dev)
            break;
    }
    return index;
}

/* ---- the list of nodes with descriptors --------------------------------------------------------
 */

static void append(struct v9_nodes *nodes, uint32_t index)
{
    struct v9_node *node = &nodes->entries[index - 1];

    node->older = nodes->newest;
    node->newer = 0;
    *(node->older ? &nodes->entries[node->older - 1].newer : &nodes->oldest) = index;
    nodes->newest = index;
    nodes->awake++;
}

static void unlink_node(struct v9_nodes *nodes, uint32_t index)
{
    const struct v9_node *node = &nodes->entries[index - 1];

    *(node->older ? &nodes->entries[node->older - 1].newer : &nodes->oldest) = node->newer;
    *(node->newer ? &nodes->entries[node->newer - 1].older : &nodes->newest) = node->older;
    nodes->awake--;
}

void v9_node_renew(struct v9_nodes *nodes, uint32_t index)
{
    unlink_node(nodes, index);
    append(nodes, index);
}

/* Takes the descriptors, which are counted no more. */
static void give_up(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];

    spare->path_fd = node->path_fd;
    spare->meta_fd = node->meta_fd;
    node->path_fd = node->meta_fd = -1;
    unlink_node(nodes, index);
    v9_pressure_add(nodes->holder, -1);
    if (spare->meta_fd >= 0)
        v9_pressure_add(NULL, -1);
}

void v9_node_park(struct v9_nodes *nodes, uint32_t index, uint32_t way, struct v9_node_fds *spare)
{
    nodes->entries[index - 1].way = way;
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
    append(nodes, index);
    v9_pressure_add(nodes->holder, 1);
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

static uint32_t allocate(struct v9_nodes *nodes)
{
    uint32_t index = nodes->free;

    if (index)
        nodes->free = nodes->entries[index - 1].next;
    else if (nodes->used < nodes->max)
        index = ++nodes->used;
    return index;
}

static uint64_t changed_at(const struct v9_attr *attr)
{
    return attr->ctime_sec * 1000000000u + attr->ctime_nsec;
}

static uint32_t make(struct v9_nodes *nodes, const struct v9_found *found, uint32_t *account)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = !nodes->quotas[found->export] || *account ? allocate(nodes) : 0, *bucket;
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
        .account = *account,
        .changed = changed_at(attr),
        .qid = attr->qid,
    };
    *account = 0;
    nodes->count++;
    bucket = bucket_of(nodes, node->st_dev, node->st_ino);
    node->next = *bucket;
    *bucket = index;
    append(nodes, index);
    v9_pressure_add(nodes->holder, 1);
    if (node->meta_fd >= 0)
        v9_pressure_add(NULL, 1);
    return index;
}

int32_t v9_node_adopt(struct v9_node *node, int32_t meta_fd)
{
    int32_t none = -1;

    if (meta_fd < 0 || !__atomic_compare_exchange_n(&node->meta_fd, &none, meta_fd, false,
                                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return meta_fd;
    v9_pressure_add(NULL, 1);
    return -1;
}

uint32_t v9_nodes_hold(struct v9_nodes *nodes, const struct v9_found *found, uint32_t *account,
                       struct v9_node_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = nodes->unshared ? 0 : find(nodes, found);
    struct v9_node *node;

    *spare = V9_NODE_FDS_NONE;
    if (!index)
        return make(nodes, found, account);
    node = &nodes->entries[index - 1];
    node->refs++;
    node->recent = true;
    node->qid.version = attr->qid.version;
    if (node->path_fd < 0)
        v9_node_wake(nodes, index, found->path_fd, spare);
    else
        spare->path_fd = found->path_fd;
    spare->meta_fd = v9_node_adopt(node, found->meta_fd);
    if (node->changed != changed_at(attr) && spare->path_fd >= 0)
        /* The same file by its newest name, under the same number: whoever uses it stays right. */
        dup3(found->path_fd, node->path_fd, O_CLOEXEC);
    node->changed = changed_at(attr);
    return index;
}

void v9_nodes_drop(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];
    uint32_t *link;

    *spare = V9_NODE_FDS_NONE;
    if (--node->refs)
        return;
    spare->account = node->account;
    spare->quota = nodes->quotas[node->export];
    if (node->path_fd >= 0)
        give_up(nodes, index, spare);
    else
        forget_way(nodes, node, spare);
    link = bucket_of(nodes, node->st_dev, node->st_ino);
    while (*link != index)
        link = &nodes->entries[*link - 1].next;
    *link = node->next;
    node->next = nodes->free;
    nodes->free = index;
    nodes->count--;
}

void v9_node_fds_close(const struct v9_node_fds *spare)
{
    if (spare->account && spare->path_fd >= 0)
        v9_quota_close(spare->quota, spare->account, spare->path_fd);
    if (spare->path_fd >= 0)
        close(spare->path_fd);
    if (spare->meta_fd >= 0)
        close(spare->meta_fd);
    if (spare->anchor_fd >= 0)
        close(spare->anchor_fd);
    if (spare->account)
        v9_quota_release(spare->quota, spare->account);
}
