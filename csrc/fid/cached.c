#define _GNU_SOURCE
#include "fid/cached.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "fid/fid.h"

enum {
    TURN_NS = 200000000,
    TURNS = 4, /* that a inode may linger, beside the one that it began in */
    BATCH = 64,
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    bool runs;
    bool awake; /* something may linger; read without the lock */
    uint32_t turn;
} sweeper = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER};

uint32_t v9_cached_now(void)
{
    return __atomic_load_n(&sweeper.turn, __ATOMIC_RELAXED);
}

/* ---- ending ------------------------------------------------------------------------------------
 */

/* The descriptors are closed without the lock; they alone are left of the inodes then. */
static uint32_t end(struct v9_fids *fids, uint32_t batch, bool old_only)
{
    struct v9_inodes *inodes = &fids->inodes;
    int32_t fds[BATCH];
    uint32_t count = 0;

    pthread_mutex_lock(&fids->lock);
    while (count < batch && count < BATCH && inodes->lingering.count) {
        const uint32_t index = inodes->lingering.oldest;
        struct v9_inode_fds spare = V9_INODE_FDS_NONE;
        if (old_only && v9_cached_now() - inodes->entries[index - 1].left <= TURNS)
            break;
        v9_inode_end(inodes, index, &spare);
        fds[count++] = spare.path_fd;
    }
    pthread_mutex_unlock(&fids->lock);
    for (uint32_t i = 0; i < count; i++)
        v9_budget_close(fds[i]);
    return count;
}

uint32_t v9_cached_end(struct v9_fids *fids, uint32_t batch)
{
    return end(fids, batch, false);
}

bool v9_cached_end_old(struct v9_fids *fids)
{
    bool left;

    while (end(fids, BATCH, true))
        ;
    pthread_mutex_lock(&fids->lock);
    left = fids->inodes.lingering.count > 0;
    pthread_mutex_unlock(&fids->lock);
    return left;
}

void v9_cached_lose(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino)
{
    struct v9_inodes *inodes = &fids->inodes;
    struct v9_inode_fds spare;
    uint32_t index, next;

    pthread_mutex_lock(&fids->lock);
    for (index = v9_inodes_of(inodes, st_dev, st_ino, 0); index; index = next) {
        next = v9_inodes_of(inodes, st_dev, st_ino, index);
        if (inodes->entries[index - 1].refs) {
            v9_inode_set_lasting(inodes, index, false);
            continue;
        }
        spare = V9_INODE_FDS_NONE;
        v9_inode_end(inodes, index, &spare);
        pthread_mutex_unlock(&fids->lock);
        v9_inode_fds_close(&spare);
        pthread_mutex_lock(&fids->lock);
        next = v9_inodes_of(inodes, st_dev, st_ino, 0); /* the chain may be another one by now */
    }
    pthread_mutex_unlock(&fids->lock);
}

/* ---- the thread --------------------------------------------------------------------------------
 */

static void look_at(struct v9_shrinker *holder)
{
    struct v9_fids *fids = (struct v9_fids *)((char *)holder - offsetof(struct v9_fids, holder));

    if (v9_cached_end_old(fids))
        v9_cached_watch();
}

static void *sweep(void *unused)
{
    const struct timespec turn = {0, TURN_NS};

    while (true) {
        pthread_mutex_lock(&sweeper.lock);
        while (!sweeper.awake)
            pthread_cond_wait(&sweeper.wanted, &sweeper.lock);
        pthread_mutex_unlock(&sweeper.lock);
        nanosleep(&turn, NULL);
        __atomic_add_fetch(&sweeper.turn, 1, __ATOMIC_RELAXED);
        /* Before it looks: who lets a inode linger after that look finds it not awake. */
        __atomic_store_n(&sweeper.awake, false, __ATOMIC_SEQ_CST);
        v9_shrinker_visit(look_at);
    }
    return unused;
}

bool v9_cached_start(void)
{
    sigset_t all, old;
    pthread_t thread;
    bool runs;

    pthread_mutex_lock(&sweeper.lock);
    if (!sweeper.runs) {
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &old);
        if (pthread_create(&thread, NULL, sweep, NULL) == 0) {
            pthread_detach(thread);
            sweeper.runs = true;
        }
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    runs = sweeper.runs;
    pthread_mutex_unlock(&sweeper.lock);
    return runs;
}

void v9_cached_watch(void)
{
    if (__atomic_load_n(&sweeper.awake, __ATOMIC_SEQ_CST))
        return;
    pthread_mutex_lock(&sweeper.lock);
    __atomic_store_n(&sweeper.awake, true, __ATOMIC_SEQ_CST);
    pthread_cond_signal(&sweeper.wanted);
    pthread_mutex_unlock(&sweeper.lock);
}
