#define _GNU_SOURCE
#include "linger.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "fid.h"

enum {
    TURN_NS = 200000000,
    TURNS = 4, /* that a node may linger, beside the one that it began in */
    BATCH = 64,
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    bool runs;
    bool awake; /* something may linger; read without the lock */
    uint32_t turn;
} sweeper = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER};

uint32_t v9_linger_now(void)
{
    return __atomic_load_n(&sweeper.turn, __ATOMIC_RELAXED);
}

/* ---- ending ------------------------------------------------------------------------------------
 */

/* The descriptors are closed without the lock; they alone are left of the nodes then. */
static uint32_t end(struct v9_fids *fids, uint32_t batch, bool old_only)
{
    struct v9_nodes *nodes = &fids->nodes;
    int32_t fds[BATCH];
    uint32_t count = 0;

    pthread_mutex_lock(&fids->lock);
    while (count < batch && count < BATCH && nodes->lingering.count) {
        const uint32_t index = nodes->lingering.oldest;
        struct v9_node_fds spare = V9_NODE_FDS_NONE;
        if (old_only && v9_linger_now() - nodes->entries[index - 1].left <= TURNS)
            break;
        v9_node_end(nodes, index, &spare);
        fds[count++] = spare.path_fd;
    }
    pthread_mutex_unlock(&fids->lock);
    for (uint32_t i = 0; i < count; i++)
        close(fds[i]);
    return count;
}

uint32_t v9_linger_end(struct v9_fids *fids, uint32_t batch)
{
    return end(fids, batch, false);
}

bool v9_linger_end_old(struct v9_fids *fids)
{
    bool left;

    while (end(fids, BATCH, true))
        ;
    pthread_mutex_lock(&fids->lock);
    left = fids->nodes.lingering.count > 0;
    pthread_mutex_unlock(&fids->lock);
    return left;
}

void v9_linger_lose(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino)
{
    struct v9_nodes *nodes = &fids->nodes;
    struct v9_node_fds spare;
    uint32_t index, next;

    pthread_mutex_lock(&fids->lock);
    for (index = v9_nodes_of(nodes, st_dev, st_ino, 0); index; index = next) {
        next = v9_nodes_of(nodes, st_dev, st_ino, index);
        if (nodes->entries[index - 1].refs) {
            v9_node_set_lasting(nodes, index, false);
            continue;
        }
        spare = V9_NODE_FDS_NONE;
        v9_node_end(nodes, index, &spare);
        pthread_mutex_unlock(&fids->lock);
        v9_node_fds_close(&spare);
        pthread_mutex_lock(&fids->lock);
        next = v9_nodes_of(nodes, st_dev, st_ino, 0); /* the chain may be another one by now */
    }
    pthread_mutex_unlock(&fids->lock);
}

/* ---- the thread --------------------------------------------------------------------------------
 */

static void look_at(struct v9_holder *holder)
{
    struct v9_fids *fids = (struct v9_fids *)((char *)holder - offsetof(struct v9_fids, holder));

    if (v9_linger_end_old(fids))
        v9_linger_watch();
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
        /* Before it looks: who lets a node linger after that look finds it not awake. */
        __atomic_store_n(&sweeper.awake, false, __ATOMIC_SEQ_CST);
        v9_pressure_visit(look_at);
    }
    return unused;
}

bool v9_linger_start(void)
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

void v9_linger_watch(void)
{
    if (__atomic_load_n(&sweeper.awake, __ATOMIC_SEQ_CST))
        return;
    pthread_mutex_lock(&sweeper.lock);
    __atomic_store_n(&sweeper.awake, true, __ATOMIC_SEQ_CST);
    pthread_cond_signal(&sweeper.wanted);
    pthread_mutex_unlock(&sweeper.lock);
}
