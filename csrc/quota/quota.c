#define _GNU_SOURCE
#include "quota/quota.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/refusal.h"
#include "quota/fitting.h"
#include "quota/usage.h"

enum {
    STAT_UNIT = 512, /* of st_blocks (inode(7)) */
};
struct v9_quota {
    struct v9_quota_conf conf;
    struct v9_quota_usage *usage;
    void *page; /* what `usage` is in */
    uint64_t seq;
    pthread_mutex_t lock; /* everything below; lock order: docs/architecture.md */
    struct v9_usages accounts;
    uint64_t claimed_bytes, claimed_inodes;
    uint32_t waiting;
    pthread_cond_t given_back;
};

/* ---- set-up ---------------------------------------------------------------------------------- */

v9_quota *v9_quota_new(const struct v9_quota_conf *conf, int32_t *err)
{
    v9_quota *q = calloc(1, sizeof(*q));
    struct stat st;

    *err = -ENOMEM;
    if (!q)
        return NULL;
    q->conf = *conf;
    *err = -EINVAL;
    if (!conf->block || fstat(conf->fd, &st) < 0 || st.st_size < V9_QUOTA_FILE)
        goto fail;
    q->page = mmap(NULL, V9_QUOTA_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, conf->fd, 0);
    *err = -errno;
    if (q->page == MAP_FAILED)
        goto fail;
    q->usage = (struct v9_quota_usage *)((uint8_t *)q->page + V9_QUOTA_USAGE);
    *err = v9_usages_init(&q->accounts, conf->max_accounts);
    if (*err)
        goto fail_page;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->given_back, NULL);
    return q;
fail_page:
    munmap(q->page, V9_QUOTA_FILE);
fail:
    free(q);
    return NULL;
}

uint64_t v9_quota_memory(uint32_t max_accounts)
{
    return v9_usages_size(max_accounts);
}

void v9_quota_read(v9_quota *q, struct v9_quota_usage *out)
{
    pthread_mutex_lock(&q->lock);
    *out = *q->usage;
    pthread_mutex_unlock(&q->lock);
}

void v9_quota_free(v9_quota *q)
{
    struct v9_quota_usage usage;

    v9_quota_read(q, &usage);
    if (usage.changing)
        return;
    munmap(q->page, V9_QUOTA_FILE);
    v9_usages_destroy(&q->accounts);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->given_back);
    free(q);
}

/* ---- accounts; with the lock held unless their names are public ------------------------------ */

/* Usage never shows less than nothing: files that others have put there may go. */
static void add(int64_t *number, int64_t change)
{
    const int64_t sum = *number + change;
    __atomic_store_n(number, sum < 0 ? 0 : sum, __ATOMIC_RELAXED);
}

/* After a crash the numbers count as right if this is zero, so everything that it covers stays
 * between its two steps. */
static void add_changing(v9_quota *q, int64_t change)
{
    __atomic_fetch_add(&q->usage->changing, (uint64_t)change, __ATOMIC_SEQ_CST);
}

static void retire(v9_quota *q, uint32_t index)
{
    add(&q->usage->bytes, -q->accounts.entries[index].counted);
    add(&q->usage->inodes, -1);
    v9_usages_forget(&q->accounts, index);
}

static void drop(v9_quota *q, uint32_t index)
{
    struct v9_usage *a = &q->accounts.entries[index];

    if (--a->refs)
        return;
    if (a->gone) {
        retire(q, index);
        add_changing(q, -1);
    } else if (a->counted == V9_UNCOUNTED) {
        v9_usages_forget(&q->accounts, index);
    } else {
        v9_usages_leave(&q->accounts, index);
    }
}

static void doom(v9_quota *q, struct v9_usage *a)
{
    if (a->gone)
        return;
    a->gone = true;
    add_changing(q, 1); /* until it is given back */
}

/* Drops the account of a file that somebody else removed, whose number a new file has now. If the
 * account is held, it is the new file's already: a walk has found it. */
static void lose(v9_quota *q, uint64_t st_dev, uint64_t st_ino)
{
    uint32_t index = v9_usages_find(&q->accounts, st_dev, st_ino, false);

    if (!index || q->accounts.entries[index].refs)
        return;
    v9_usages_hold(&q->accounts, st_dev, st_ino, false);
    if (q->accounts.entries[index].counted == V9_UNCOUNTED)
        q->accounts.entries[index].counted = 0;
    doom(q, &q->accounts.entries[index]);
    drop(q, index);
}

uint32_t v9_quota_hold(v9_quota *q, uint64_t st_dev, uint64_t st_ino, bool gone)
{
    uint32_t index;

    pthread_mutex_lock(&q->lock);
    index = v9_usages_hold(&q->accounts, st_dev, st_ino, gone);
    pthread_mutex_unlock(&q->lock);
    return index;
}

void v9_quota_release(v9_quota *q, uint32_t account)
{
    pthread_mutex_lock(&q->lock);
    drop(q, account);
    pthread_mutex_unlock(&q->lock);
}

/* ---- looking at files ------------------------------------------------------------------------ */

static int64_t bytes_of(const struct stat *st)
{
    return (int64_t)st->st_blocks * STAT_UNIT;
}

/* Before the first change of a held file: sets what it counts for. */
static int look(v9_quota *q, uint32_t account, int32_t fd)
{
    struct v9_usage *a = &q->accounts.entries[account];
    struct stat st;

    if (__atomic_load_n(&a->counted, __ATOMIC_RELAXED) != V9_UNCOUNTED)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    pthread_mutex_lock(&q->lock);
    /* Else somebody else has looked first, and may have changed it since. */
    if (a->counted == V9_UNCOUNTED)
        __atomic_store_n(&a->counted, bytes_of(&st), __ATOMIC_RELAXED);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

/* With the lock held. Whoever removes a file that has an account looks at it first. */
static void count_again(v9_quota *q, struct v9_usage *a, const struct stat *st)
{
    if (a->gone || a->counted != V9_UNCOUNTED)
        return;
    __atomic_store_n(&a->counted, bytes_of(st), __ATOMIC_RELAXED);
    add(&q->usage->bytes, bytes_of(st));
    add(&q->usage->inodes, 1);
    doom(q, a);
}

int v9_quota_acquire(v9_quota *q, int32_t fd)
{
    struct stat st;
    uint32_t index;

    if (fstat(fd, &st) < 0)
        return -errno;
    index = v9_quota_hold(q, st.st_dev, st.st_ino, !st.st_nlink);
    if (index && st.st_nlink && fstat(fd, &st) == 0 && !st.st_nlink) {
        v9_quota_release(q, index); /* perhaps too late */
        index = v9_quota_hold(q, st.st_dev, st.st_ino, true);
    }
    if (!index || st.st_nlink)
        return index ? (int)index : -EMFILE;
    pthread_mutex_lock(&q->lock);
    count_again(q, &q->accounts.entries[index], &st);
    pthread_mutex_unlock(&q->lock);
    return (int)index;
}

/* With the lock held. */
static void believe(v9_quota *q, struct v9_usage *a, uint64_t seq, const struct stat *st)
{
    if (a->counted != V9_UNCOUNTED && seq > a->looked) {
        add(&q->usage->bytes, bytes_of(st) - a->counted);
        __atomic_store_n(&a->counted, bytes_of(st), __ATOMIC_RELAXED);
        a->looked = seq;
    }
    if (!st->st_nlink)
        doom(q, a);
}

static uint64_t next_seq(v9_quota *q)
{
    return __atomic_add_fetch(&q->seq, 1, __ATOMIC_SEQ_CST);
}

/* Looks at a file that was changed. Returns with the lock held. */
static void look_and_lock(v9_quota *q, uint32_t account, int fd)
{
    const uint64_t seq = next_seq(q);
    struct stat st;
    const bool seen = fstat(fd, &st) == 0;

    pthread_mutex_lock(&q->lock);
    if (seen)
        believe(q, &q->accounts.entries[account], seq, &st);
    else
        add_changing(q, 1); /* for ever: the next process counts all files anew */
}

void v9_quota_settle(v9_quota *q, uint32_t account, int32_t fd, bool gone)
{
    look_and_lock(q, account, fd);
    if (gone)
        doom(q, &q->accounts.entries[account]);
    pthread_mutex_unlock(&q->lock);
}

void v9_quota_close(v9_quota *q, uint32_t account, int32_t fd)
{
    if (__atomic_load_n(&q->accounts.entries[account].counted, __ATOMIC_RELAXED) != V9_UNCOUNTED)
        v9_quota_settle(q, account, fd, false);
}

int v9_quota_hold_file(v9_quota *q, int32_t fd, bool created)
{
    struct stat st;
    uint32_t index;
    int err;

    if (fstat(fd, &st) < 0)
        return -errno;
    pthread_mutex_lock(&q->lock);
    if (created)
        lose(q, st.st_dev, st.st_ino);
    index = v9_usages_hold(&q->accounts, st.st_dev, st.st_ino, !st.st_nlink);
    if (index && created) {
        if (q->accounts.entries[index].counted == V9_UNCOUNTED)
            q->accounts.entries[index].counted = 0;
        add(&q->usage->inodes, 1);
    }
    pthread_mutex_unlock(&q->lock);
    if (!index)
        return -ENFILE;
    err = look(q, index, fd);
    if (err)
        v9_quota_release(q, index);
    return err ? err : (int)index;
}

uint32_t v9_quota_block(const v9_quota *q)
{
    return q->conf.block;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static uint64_t room(uint64_t limit, int64_t used, uint64_t claimed)
{
    const uint64_t taken = (uint64_t)used + claimed;
    return taken < limit ? limit - taken : 0;
}

/* With the lock held: sets aside what there is room for. Begins a change. */
static bool take(v9_quota *q, uint64_t bytes, uint64_t inodes)
{
    if (bytes > room(q->conf.bytes, q->usage->bytes, q->claimed_bytes) ||
        inodes > room(q->conf.inodes, q->usage->inodes, q->claimed_inodes))
        return false;
    q->claimed_bytes += bytes;
    q->claimed_inodes += inodes;
    add_changing(q, 1);
    return true;
}

/* With the lock held: ends a change. */
static void give_back(v9_quota *q, uint64_t bytes, uint64_t inodes)
{
    q->claimed_bytes -= bytes;
    q->claimed_inodes -= inodes;
    add_changing(q, -1);
    if (q->waiting)
        pthread_cond_broadcast(&q->given_back);
}

static struct timespec patience(const v9_quota *q)
{
    const int64_t second = 1000000000;
    struct timespec until;
    int64_t ns;

    clock_gettime(CLOCK_MONOTONIC, &until);
    ns = until.tv_nsec + (int64_t)q->conf.patience_ms * 1000000;
    return (struct timespec){until.tv_sec + ns / second, ns % second};
}

/* With the lock held: false where nothing more is to be expected. */
static bool wait_for_others(v9_quota *q, const struct timespec *until)
{
    int err;

    if (!q->claimed_bytes && !q->claimed_inodes)
        return false;
    q->waiting++;
    err = pthread_cond_clockwait(&q->given_back, &q->lock, CLOCK_MONOTONIC, until);
    q->waiting--;
    return !err;
}

/* `bytes`, and more or less inodes, were too much. */
static int refuse(const v9_quota *q, uint64_t bytes)
{
    const int64_t used = __atomic_load_n(&q->usage->bytes, __ATOMIC_RELAXED);
    const bool of_bytes = bytes && bytes > room(q->conf.bytes, used, 0);

    return v9_refuse(q->conf.error, of_bytes ? V9_REFUSED_BYTES : V9_REFUSED_INODES, 0);
}

int v9_quota_begin(v9_quota *q, uint64_t bytes, uint64_t inodes)
{
    const struct timespec until = patience(q);
    bool taken;

    pthread_mutex_lock(&q->lock);
    do
        taken = take(q, bytes, inodes);
    while (!taken && wait_for_others(q, &until));
    pthread_mutex_unlock(&q->lock);
    return taken ? 0 : refuse(q, bytes);
}

void v9_quota_end(v9_quota *q, uint64_t bytes, uint64_t inodes)
{
    pthread_mutex_lock(&q->lock);
    give_back(q, bytes, inodes);
    pthread_mutex_unlock(&q->lock);
}

void v9_quota_settle_claim(v9_quota *q, uint32_t account, int fd, uint64_t claim)
{
    look_and_lock(q, account, fd);
    give_back(q, claim, 0);
    pthread_mutex_unlock(&q->lock);
}

/* ---- writes ---------------------------------------------------------------------------------- */

/* A write that may take more than there is. */
static int64_t admit_closely(v9_quota *q, const struct v9_quota_write *write, uint64_t *claim)
{
    const struct timespec until = patience(q);
    uint64_t start = write->offset, count, left;
    struct stat st;
    bool taken, again;

    do {
        if (write->append) {
            if (fstat(write->fd, &st) < 0)
                return -errno;
            start = (uint64_t)st.st_size;
        }
        pthread_mutex_lock(&q->lock);
        left = room(q->conf.bytes, q->usage->bytes, q->claimed_bytes);
        pthread_mutex_unlock(&q->lock);
        count = v9_quota_fitting(write, start, q->conf.block, left, claim);
        pthread_mutex_lock(&q->lock);
        taken = count && take(q, *claim, 0);
        again = !taken && wait_for_others(q, &until);
        pthread_mutex_unlock(&q->lock);
    } while (again);
    return taken ? (int64_t)count : refuse(q, *claim + 1);
}

int64_t v9_quota_admit(v9_quota *q, uint32_t account, const struct v9_quota_write *write,
                       uint64_t *claim)
{
    const int err = look(q, account, write->fd);
    bool taken;

    if (err)
        return err;
    *claim = (write->count / q->conf.block + 2) * q->conf.block;
    pthread_mutex_lock(&q->lock);
    taken = take(q, *claim, 0);
    pthread_mutex_unlock(&q->lock);
    return taken ? (int64_t)write->count : admit_closely(q, write, claim);
}

/* ---- statfs ---------------------------------------------------------------------------------- */

void v9_quota_statfs(v9_quota *q, struct statfs *st)
{
    const uint64_t unit = (uint64_t)(st->f_frsize ? st->f_frsize : st->f_bsize);
    struct v9_quota_usage usage;
    uint64_t left;

    v9_quota_read(q, &usage);
    if (q->conf.bytes != UINT64_MAX) {
        left = room(q->conf.bytes, usage.bytes, 0) / unit;
        st->f_bfree = v9_quota_least(left, st->f_bfree);
        st->f_bavail = v9_quota_least(st->f_bfree, st->f_bavail);
        st->f_blocks = v9_quota_round_up((uint64_t)usage.bytes, unit) / unit + st->f_bfree;
    }
    if (q->conf.inodes != UINT64_MAX) {
        left = room(q->conf.inodes, usage.inodes, 0);
        /* No number of inodes: as many as there are blocks for. */
        st->f_ffree = st->f_files ? v9_quota_least(left, st->f_ffree) : left;
        st->f_files = (uint64_t)usage.inodes + st->f_ffree;
    }
}
