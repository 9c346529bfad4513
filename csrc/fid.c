#define _GNU_SOURCE
#include "fid.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t round_up(size_t size)
{
    const size_t page = 4096;
    return (size + page - 1) / page * page;
}

/* The arena is sparse: pages that no fid has touched cost nothing. */
int v9_fids_init(struct v9_fids *fids, uint32_t max)
{
    uint32_t buckets = 1024;
    size_t head;

    while (buckets < max)
        buckets *= 2;
    head = round_up(buckets * sizeof(uint32_t));
    memset(fids, 0, sizeof(*fids));
    fids->max = max;
    fids->mask = buckets - 1;
    fids->map_size = head + round_up((size_t)max * sizeof(struct v9_fid));
    fids->fd = memfd_create("vhost9p-fids", MFD_CLOEXEC);
    if (fids->fd < 0)
        return -errno;
    if (ftruncate(fids->fd, (off_t)fids->map_size) < 0)
        goto fail;
    fids->map = mmap(NULL, fids->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fids->fd, 0);
    if (fids->map == MAP_FAILED)
        goto fail;
    fids->buckets = fids->map;
    fids->entries = (struct v9_fid *)((uint8_t *)fids->map + head);
    pthread_mutex_init(&fids->lock, NULL);
    return 0;
fail:
    close(fids->fd);
    return -errno;
}

void v9_fids_destroy(struct v9_fids *fids)
{
    v9_fids_clear(fids);
    munmap(fids->map, fids->map_size);
    close(fids->fd);
    pthread_mutex_destroy(&fids->lock);
}

static uint32_t *find_link(struct v9_fids *fids, uint32_t number)
{
    uint32_t *link = &fids->buckets[number & fids->mask];
    while (*link && fids->entries[*link - 1].number != number)
        link = &fids->entries[*link - 1].next;
    return link;
}

struct v9_fid *v9_fids_pin(struct v9_fids *fids, uint32_t number)
{
    struct v9_fid *fid = NULL;
    uint32_t index;

    pthread_mutex_lock(&fids->lock);
    index = *find_link(fids, number);
    if (index) {
        fid = &fids->entries[index - 1];
        fid->refs++;
    }
    pthread_mutex_unlock(&fids->lock);
    return fid;
}

/* Drops one reference under the lock. A dead entry's descriptors are handed out, to be closed once
 * the lock is released: close(2) may take long. */
static void drop(struct v9_fids *fids, struct v9_fid *fid, int32_t closing[2])
{
    closing[0] = closing[1] = -1;
    if (--fid->refs)
        return;
    closing[0] = fid->path_fd;
    closing[1] = fid->io_fd;
    pthread_mutex_destroy(&fid->dir_lock);
    fid->next = fids->free;
    fids->free = (uint32_t)(fid - fids->entries) + 1;
}

static void close_both(const int32_t closing[2])
{
    for (int i = 0; i < 2; i++)
        if (closing[i] >= 0)
            close(closing[i]);
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    int32_t closing[2];
    pthread_mutex_lock(&fids->lock);
    drop(fids, fid, closing);
    pthread_mutex_unlock(&fids->lock);
    close_both(closing);
}

static struct v9_fid *allocate(struct v9_fids *fids)
{
    struct v9_fid *fid;
    if (fids->free) {
        fid = &fids->entries[fids->free - 1];
        fids->free = fid->next;
        return fid;
    }
    return fids->used < fids->max ? &fids->entries[fids->used++] : NULL;
}

int v9_fids_enter(struct v9_fids *fids, const struct v9_fid *from, struct v9_fid *instead)
{
    int32_t closing[2] = {-1, -1};
    struct v9_fid *fid;
    uint32_t *link;
    int err = 0;

    if (from->number == UINT32_MAX) /* NOFID */
        return -EBADF;
    pthread_mutex_lock(&fids->lock);
    link = find_link(fids, from->number);
    if (instead ? !*link || &fids->entries[*link - 1] != instead : *link != 0) {
        err = -EBADF;
        goto out;
    }
    fid = allocate(fids);
    if (!fid) {
        err = -EMFILE;
        goto out;
    }
    if (instead)
        *link = instead->next;
    else
        fids->count++;
    *fid = *from;
    fid->refs = 1;
    pthread_mutex_init(&fid->dir_lock, NULL);
    link = &fids->buckets[fid->number & fids->mask];
    fid->next = *link;
    *link = (uint32_t)(fid - fids->entries) + 1;
    if (instead)
        drop(fids, instead, closing);
out:
    pthread_mutex_unlock(&fids->lock);
    close_both(closing);
    return err;
}

int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags)
{
    int err = -EBADF;
    pthread_mutex_lock(&fids->lock);
    if (fid->io_fd < 0) {
        fid->io_flags = io_flags;
        __atomic_store_n(&fid->io_fd, io_fd, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_remove(struct v9_fids *fids, uint32_t number)
{
    int32_t closing[2] = {-1, -1};
    uint32_t *link;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    link = find_link(fids, number);
    if (*link) {
        struct v9_fid *fid = &fids->entries[*link - 1];
        *link = fid->next;
        fids->count--;
        drop(fids, fid, closing);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    close_both(closing);
    return err;
}

void v9_fids_clear(struct v9_fids *fids)
{
    for (uint32_t bucket = 0; bucket <= fids->mask && fids->count; bucket++)
        while (fids->buckets[bucket])
            v9_fids_remove(fids, fids->entries[fids->buckets[bucket] - 1].number);
}

struct v9_fid v9_fid_of(uint32_t number, int32_t path_fd, uint32_t uid, const struct v9_attr *attr)
{
    return (struct v9_fid){
        .number = number,
        .uid = uid,
        .mode = attr->mode,
        .path_fd = path_fd,
        .io_fd = -1,
        .qid = attr->qid,
        .st_dev = attr->st_dev,
        .st_ino = attr->st_ino,
    };
}
