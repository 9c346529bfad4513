#define _GNU_SOURCE
#include "node.h"

#include <fcntl.h>
#include <unistd.h>

static uint64_t born_of(const struct v9_attr *attr)
{
    return attr->has_btime ? attr->btime_sec * 1000000000u + attr->btime_nsec : 0;
}

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
            node->born == born_of(attr) && !((node->mode ^ attr->mode) & 0170000))
            break;
        index = node->next;
    }
    return index;
}

static uint32_t allocate(struct v9_nodes *nodes)
{
    uint32_t index = nodes->free;

    if (index)
        nodes->free = nodes->entries[index - 1].next;
    else if (nodes->used < nodes->max)
        index = ++nodes->used;
    return index;
}

static uint32_t make(struct v9_nodes *nodes, const struct v9_found *found)
{
    const struct v9_attr *attr = found->attr;
    v9_quota *quota = nodes->quotas[found->export];
    uint32_t account = 0, index, *bucket;
    struct v9_node *node;

    if (quota)
        account = v9_quota_hold(quota, attr->st_dev, attr->st_ino, !attr->nlink);
    index = !quota || account ? allocate(nodes) : 0;
    if (!index) {
        if (account)
            v9_quota_release(quota, account);
        return 0;
    }
    node = &nodes->entries[index - 1];
    *node = (struct v9_node){
        .st_dev = attr->st_dev,
        .st_ino = attr->st_ino,
        .mnt_id = attr->mnt_id,
        .born = born_of(attr),
        .export = found->export,
        .refs = 1,
        .mode = attr->mode,
        .listed = !nodes->unshared,
        .path_fd = found->path_fd,
        .meta_fd = found->meta_fd,
        .account = account,
        .nlink = attr->nlink,
        .qid = attr->qid,
    };
    nodes->count++;
    if (node->listed) {
        bucket = bucket_of(nodes, node->st_dev, node->st_ino);
        node->next = *bucket;
        *bucket = index;
    }
    return index;
}

int32_t v9_node_adopt(struct v9_node *node, int32_t meta_fd)
{
    int32_t none = -1;

    if (meta_fd >= 0 && __atomic_compare_exchange_n(&node->meta_fd, &none, meta_fd, false,
                                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return -1;
    return meta_fd;
}

uint32_t v9_nodes_hold(struct v9_nodes *nodes, const struct v9_found *found,
                       struct v9_node_fds *spare)
{
    const struct v9_attr *attr = found->attr;
    uint32_t index = nodes->unshared ? 0 : find(nodes, found);
    struct v9_node *node;

    *spare = (struct v9_node_fds){-1, -1, 0, NULL};
    if (!index)
        return make(nodes, found);
    node = &nodes->entries[index - 1];
    node->refs++;
    node->qid.version = attr->qid.version;
    spare->path_fd = found->path_fd;
    spare->meta_fd = v9_node_adopt(node, found->meta_fd);
    if (node->nlink != attr->nlink) {
        node->nlink = attr->nlink;
        /* The same file by its newest name, under the same number: whoever uses it stays right. */
        dup3(found->path_fd, node->path_fd, O_CLOEXEC);
    }
    return index;
}

void v9_nodes_drop(struct v9_nodes *nodes, uint32_t index, struct v9_node_fds *spare)
{
    struct v9_node *node = &nodes->entries[index - 1];
    uint32_t *link;

    *spare = (struct v9_node_fds){-1, -1, 0, NULL};
    if (--node->refs)
        return;
    *spare = (struct v9_node_fds){node->path_fd, node->meta_fd, node->account,
                                  nodes->quotas[node->export]};
    if (node->listed) {
        link = bucket_of(nodes, node->st_dev, node->st_ino);
        while (*link != index)
            link = &nodes->entries[*link - 1].next;
        *link = node->next;
    }
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
    if (spare->account)
        v9_quota_release(spare->quota, spare->account);
}
