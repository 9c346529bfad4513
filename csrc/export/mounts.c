#define _GNU_SOURCE
#include "export/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACES = 4096 }; /* a power of two; the kernel numbers mounts one by one */

struct v9_mounts {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    int fd;               /* mountinfo */
    uint64_t generation;
    struct v9_view *views[PLACES]; /* by mount id, of any generation */
};

v9_mounts *v9_mounts_new(int32_t mountinfo, int32_t *err)
{
    v9_mounts *mounts = calloc(1, sizeof(*mounts));

    *err = -ENOMEM;
    if (!mounts)
        return NULL;
    mounts->fd = fcntl(mountinfo, F_DUPFD_CLOEXEC, 3);
    if (mounts->fd < 0) {
        *err = -errno;
        free(mounts);
        return NULL;
    }
    pthread_mutex_init(&mounts->lock, NULL);
    *err = 0;
    return mounts;
}

void v9_mounts_free(v9_mounts *mounts)
{
    for (int i = 0; i < PLACES; i++)
        if (mounts->views[i])
            v9_view_leave(mounts->views[i]);
    pthread_mutex_destroy(&mounts->lock);
    close(mounts->fd);
    free(mounts);
}

/* ---- views ----------------------------------------------------------------------------------- */

static const char *text_of(const struct v9_view *view)
{
    return (const char *)(view->slots + view->mask + 1);
}

static uint32_t hash(const char *name, size_t length)
{
    uint64_t h = length * 0x9E3779B97F4A7C15ull, word;

    for (; length >= sizeof(word); name += sizeof(word), length -= sizeof(word)) {
        memcpy(&word, name, sizeof(word));
        h = (h ^ word) * 0xBF58476D1CE4E5B9ull;
        h ^= h >> 32;
    }
    for (word = 0; length; length--)
        word = word << 8 | (uint8_t)*name++;
    h = (h ^ word) * 0x94D049BB133111EBull;
    return (uint32_t)(h >> 32);
}

/* The name's slot, or the empty one where it belongs: tables are never more than half full. */
static const uint32_t *find(const struct v9_view *view, const char *name, size_t length)
{
    const char *text = text_of(view);
    uint32_t at = hash(name, length) & view->mask;

    while (view->slots[at] && strcmp(text + view->slots[at] - 1, name))
        at = (at + 1) & view->mask;
    return &view->slots[at];
}

bool v9_view_names(const struct v9_view *view, const char *name, size_t length)
{
    return *find(view, name, length) != 0;
}

/* `names` are NUL-terminated strings one after the other, `size` bytes in all. */
static struct v9_view *new_view(const char *names, uint32_t size)
{
    struct v9_view *view;
    uint32_t count = 0, mask = 1;
    size_t table;

    for (uint32_t i = 0; i < size; i++)
        count += !names[i];
    while (mask < 2 * (uint64_t)count)
        mask = mask << 1 | 1;
    table = sizeof(*view) + ((size_t)mask + 1) * sizeof(view->slots[0]);
    view = calloc(1, table + size);
    if (!view)
        return NULL;
    view->count = count;
    view->mask = mask;
    memcpy((char *)view + table, names, size);
    for (uint32_t at = 0; at < size; at += (uint32_t)strlen(names + at) + 1)
        *(uint32_t *)find(view, names + at, strlen(names + at)) = at + 1;
    return view;
}

void v9_view_leave(struct v9_view *view)
{
    if (__atomic_sub_fetch(&view->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(view);
}

/* ---- the table ------------------------------------------------------------------------------- */

int v9_mounts_set(v9_mounts *mounts, uint64_t mnt_id, uint64_t generation, uint32_t look,
                  const char *names, uint32_t size)
{
    struct v9_view *view, **place = &mounts->views[mnt_id % PLACES], *old;

    if (!mnt_id || look > V9_LOOK_ALL || (size && names[size - 1]))
        return -EINVAL;
    view = new_view(names, size);
    if (!view)
        return -ENOMEM;
    view->mnt_id = mnt_id;
    view->generation = generation;
    view->look = look;
    view->refs = 1;
    pthread_mutex_lock(&mounts->lock);
    old = view;
    if (generation == mounts->generation) {
        old = *place;
        *place = view;
    }
    pthread_mutex_unlock(&mounts->lock);
    if (old)
        v9_view_leave(old);
    return 0;
}

/* Begins a new generation where a mount has come or gone. [locked] */
static void look(v9_mounts *mounts)
{
    struct pollfd poller = {mounts->fd, POLLPRI, 0};
    int ready = poll(&poller, 1, 0);

    if (ready) /* also on an error: the worst is assumed */
        mounts->generation++;
}

struct v9_view *v9_mounts_view(v9_mounts *mounts, uint64_t mnt_id, uint64_t *generation)
{
    struct v9_view *view;

    pthread_mutex_lock(&mounts->lock);
    look(mounts);
    *generation = mounts->generation;
    view = mounts->views[mnt_id % PLACES];
    if (view && (view->mnt_id != mnt_id || view->generation != mounts->generation))
        view = NULL;
    if (view)
        __atomic_add_fetch(&view->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&mounts->lock);
    return view;
}

bool v9_mounts_hold(v9_mounts *mounts, const struct v9_view *view)
{
    bool hold;

    pthread_mutex_lock(&mounts->lock);
    look(mounts);
    hold = view->generation == mounts->generation;
    pthread_mutex_unlock(&mounts->lock);
    return hold;
}
