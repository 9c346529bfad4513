// sources: quota/quota.c quota/change.c quota/fitting.c quota/usage.c base/proc.c base/refusal.c
/*
 * Quotas: usage equals what the host says, whatever races; limits hold to the byte where the file
 * system allocates whole blocks and nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "quota/change.h"
#include "quota/quota.h"
#include "quota/usage.h"

enum { BLOCK = 4096, THREADS = 4, ROUNDS = 400 };

enum { AGES = 3600 * 1000, A_WHILE = 20 }; /* milliseconds */

static v9_quota *set_patience(uint64_t bytes, uint64_t inodes, uint32_t accounts, uint32_t patience)
{
    struct v9_quota_conf conf = {bytes,    inodes,  memfd_create("state", 0), ENOSPC, BLOCK,
                                 accounts, patience};
    int32_t err;
    v9_quota *q;

    CHECK(v9_quota_new(&conf, &err) == NULL && err == -EINVAL); /* the file is too short */
    CHECK(ftruncate(conf.fd, V9_QUOTA_FILE) == 0);
    q = v9_quota_new(&conf, &err);
    CHECK(q && !err);
    close(conf.fd);
    return q;
}

static v9_quota *make(uint64_t bytes, uint64_t inodes, uint32_t accounts)
{
    return set_patience(bytes, inodes, accounts, AGES);
}

/* Memory: its file system allocates blocks of data at once, and nothing else. */
static int new_file(void)
{
    return memfd_create("file", 0);
}

static int64_t blocks_of(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_blocks * 512;
}

static struct v9_quota_usage usage_of(v9_quota *q)
{
    struct v9_quota_usage usage;
    v9_quota_read(q, &usage);
    return usage;
}

/* A memfd has no names; as the account of a file with names. */
static uint32_t account_of(v9_quota *q, int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return v9_quota_hold(q, st.st_dev, st.st_ino, false);
}

/* What a Twrite does. */
static int64_t put(v9_quota *q, uint32_t account, int fd, uint64_t offset, uint64_t count)
{
    static const char data[64 * BLOCK];
    const struct v9_quota_write write = {fd, false, offset, count};
    uint64_t claim;
    int64_t admitted = v9_quota_admit(q, account, &write, &claim);

    if (admitted < 0)
        return admitted;
    admitted = pwrite(fd, data, (size_t)admitted, (off_t)offset);
    v9_quota_settle_claim(q, account, fd, claim);
    return admitted;
}

static int named_file(char *path)
{
    strcpy(path, "/dev/shm/v9-quota-XXXXXX");
    return mkstemp(path);
}

TEST(writes_are_cut_at_the_limit)
{
    v9_quota *q = make(10 * BLOCK, UINT64_MAX, 10);
    char path[40];
    int fd = named_file(path);
    uint32_t a = account_of(q, fd);

    CHECK(put(q, a, fd, 0, 3 * BLOCK) == 3 * BLOCK && usage_of(q).bytes == 3 * BLOCK);
    CHECK(put(q, a, fd, 100, 200) == 200 && usage_of(q).bytes == 3 * BLOCK);
    CHECK(put(q, a, fd, 8 * BLOCK, 1) == 1 && usage_of(q).bytes == 4 * BLOCK);
    /* Blocks 2 and 8 are there; 3 to 7 and 9 are the last ones that fit. */
    CHECK(put(q, a, fd, 2 * BLOCK, 12 * BLOCK) == 8 * BLOCK && usage_of(q).bytes == 10 * BLOCK);
    CHECK(put(q, a, fd, 10 * BLOCK, 1) == -ENOSPC && usage_of(q).bytes == 10 * BLOCK);
    CHECK(put(q, a, fd, 0, 10 * BLOCK) == 10 * BLOCK); /* what is there can always be written */
    CHECK(put(q, a, fd, 10 * BLOCK - 1, 2) == 1);
    CHECK(usage_of(q).bytes == blocks_of(fd) && usage_of(q).changing == 0);
    v9_quota_release(q, a);
    CHECK(usage_of(q).bytes == 10 * BLOCK); /* it has a name */
    close(fd);
    unlink(path);
    v9_quota_free(q);
}

/* The rest of a file's last block is there; behind a hole at its end nothing is. */
TEST(the_last_block_of_a_file_is_counted_once)
{
    v9_quota *q = make(3 * BLOCK, UINT64_MAX, 10);
    char path[40];
    int fd = named_file(path);
    uint32_t a = account_of(q, fd);
    const struct v9_quota_write append = {fd, true, 0, 3 * BLOCK};
    uint64_t claim;

    CHECK(put(q, a, fd, 0, BLOCK + 100) == BLOCK + 100 && usage_of(q).bytes == 2 * BLOCK);
    CHECK(put(q, a, fd, BLOCK + 300, 3 * BLOCK) == 2 * BLOCK - 300);
    CHECK(ftruncate(fd, BLOCK + 100) == 0);
    v9_quota_settle(q, a, fd, false);
    CHECK(usage_of(q).bytes == 2 * BLOCK);
    CHECK(v9_quota_admit(q, a, &append, &claim) == 2 * BLOCK - 100 && claim == BLOCK);
    v9_quota_settle_claim(q, a, fd, claim);
    CHECK(put(q, a, fd, BLOCK + 100, 2 * BLOCK - 100) == 2 * BLOCK - 100);
    CHECK(put(q, a, fd, 3 * BLOCK, 1) == -ENOSPC);
    CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, 50 * BLOCK + 10) == 0);
    v9_quota_settle(q, a, fd, false);
    CHECK(usage_of(q).bytes == 0);
    CHECK(put(q, a, fd, 50 * BLOCK + 5, 5 * BLOCK) == 3 * BLOCK - 5);
    CHECK(usage_of(q).bytes == 3 * BLOCK);
    v9_quota_release(q, a);
    close(fd);
    unlink(path);
    v9_quota_free(q);
}

TEST(an_unlinked_file_counts_until_its_last_close)
{
    v9_quota *q = make(UINT64_MAX, 2, 10);
    char path[40];
    int fd, account;
    uint32_t inode;

    CHECK(v9_quota_begin(q, 0, 1) == 0 && v9_quota_begin(q, 0, 1) == 0);
    CHECK(usage_of(q).changing == 2 && usage_of(q).inodes == 0);
    fd = named_file(path);
    account = v9_quota_hold_file(q, fd, true);
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    v9_quota_end(q, 0, 1);
    v9_quota_end(q, 0, 1);
    CHECK(usage_of(q).inodes == 1 && usage_of(q).bytes == 0 && usage_of(q).changing == 0);

    inode = account_of(q, fd);
    CHECK(put(q, inode, fd, 0, 5) == 5);
    CHECK(v9_quota_begin(q, 0, 0) == 0);
    account = v9_quota_hold_file(q, fd, false);
    CHECK((uint32_t)account == inode);
    unlink(path);
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    v9_quota_end(q, 0, 0);
    CHECK(usage_of(q).inodes == 1 && usage_of(q).bytes == BLOCK && usage_of(q).changing == 1);
    CHECK(put(q, inode, fd, BLOCK, 5) == 5 && usage_of(q).bytes == 2 * BLOCK);
    v9_quota_close(q, inode, fd);
    v9_quota_release(q, inode);
    CHECK(usage_of(q).inodes == 0 && usage_of(q).bytes == 0 && usage_of(q).changing == 0);
    close(fd);
    v9_quota_free(q);
}

/* A change settles and lets go all that it holds, also where it cannot begin. */
TEST(a_change_settles_what_it_holds_even_where_it_cannot_begin)
{
    v9_quota *q = make(4 * BLOCK, UINT64_MAX, 10);
    struct v9_quota_change change = {.bytes = BLOCK};
    char one[40], two[40];

    change.fds[0] = named_file(one);
    change.fds[1] = named_file(two);
    change.fds[2] = -1;
    CHECK(v9_quota_change_begin(q, &change) == 0);
    CHECK(usage_of(q).changing == 1);
    CHECK(change.accounts[0] && change.accounts[1] && !change.accounts[2]);
    CHECK(pwrite(change.fds[0], "x", 1, 0) == 1 && pwrite(change.fds[1], "x", 1, 0) == 1);
    v9_quota_change_end(q, &change);
    CHECK(usage_of(q).bytes == 2 * BLOCK && usage_of(q).changing == 0);

    change.bytes = 3 * BLOCK;
    CHECK(v9_quota_change_begin(q, &change) == -ENOSPC && usage_of(q).changing == 0);
    change.bytes = 2 * BLOCK;
    change.fds[2] = 1 << 20; /* no descriptor */
    CHECK(v9_quota_change_begin(q, &change) == -EBADF && usage_of(q).changing == 0);
    change.fds[2] = -1;
    CHECK(v9_quota_change_begin(q, &change) == 0); /* all was given back */
    unlink(two);
    change.gone[1] = true;
    v9_quota_change_end(q, &change);
    CHECK(usage_of(q).bytes == BLOCK && usage_of(q).changing == 0);
    close(change.fds[0]);
    close(change.fds[1]);
    unlink(one);
    v9_quota_free(q);
}

/* A guest walks to a file, and writes it, before it is counted. */
TEST(a_file_written_before_it_is_counted_counts_once)
{
    v9_quota *q = make(UINT64_MAX, UINT64_MAX, 10);
    char path[40];
    int account, fd = named_file(path);
    uint32_t inode = account_of(q, fd);

    for (int written = 0; written < 2; written++) {
        if (written)
            CHECK(put(q, inode, fd, 0, 5) == 5);
        account = v9_quota_hold_file(q, fd, true);
        CHECK(account == (int)inode);
        v9_quota_settle(q, (uint32_t)account, fd, false);
        v9_quota_release(q, (uint32_t)account);
        CHECK(usage_of(q).inodes == 1 && usage_of(q).bytes == written * BLOCK);
        CHECK(put(q, inode, fd, BLOCK, 5) == 5 && usage_of(q).bytes == (written + 1) * BLOCK);
        unlink(path);
        v9_quota_settle(q, inode, fd, true);
        v9_quota_close(q, inode, fd);
        v9_quota_release(q, inode);
        CHECK(usage_of(q).inodes == 0 && usage_of(q).bytes == 0 && usage_of(q).changing == 0);
        close(fd);
        fd = named_file(path);
        inode = account_of(q, fd);
    }
    v9_quota_release(q, inode);
    close(fd);
    unlink(path);
    v9_quota_free(q);
}

/* The file is removed, and its usage given back, before an inode has its account. */
TEST(a_file_removed_before_its_inode_is_entered_counts_nothing)
{
    v9_quota *q = make(UINT64_MAX, UINT64_MAX, 10);
    uint32_t inodes[2];
    char path[40];
    int fd = named_file(path), account;

    CHECK(pwrite(fd, "x", 1, 0) == 1);
    account = v9_quota_hold_file(q, fd, true);
    CHECK(v9_quota_acquire(q, fd) == account);
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    unlink(path);
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    CHECK(usage_of(q).inodes == 0 && usage_of(q).bytes == 0 && usage_of(q).changing == 0);

    for (int i = 0; i < 2; i++) {
        inodes[i] = (uint32_t)v9_quota_acquire(q, fd);
        CHECK(usage_of(q).inodes == 1 && usage_of(q).bytes == BLOCK && usage_of(q).changing == 1);
    }
    CHECK(inodes[0] && inodes[0] == inodes[1]);
    CHECK(put(q, inodes[0], fd, BLOCK, 5) == 5 && usage_of(q).bytes == 2 * BLOCK);
    for (int i = 0; i < 2; i++)
        v9_quota_release(q, inodes[i]);
    CHECK(usage_of(q).inodes == 0 && usage_of(q).bytes == 0 && usage_of(q).changing == 0);
    close(fd);
    v9_quota_free(q);
}

/* An inode's next owner is not taken for its last one, who still has somebody to hold it. */
TEST(a_reused_inode_number_is_another_file)
{
    struct v9_usages all;
    uint32_t old, young;
    char path[40];
    int fd = named_file(path), account;
    v9_quota *q = make(UINT64_MAX, UINT64_MAX, 10);

    CHECK(v9_usages_init(&all, 10) == 0);
    old = v9_usages_hold(&all, 1, 5, false);
    all.entries[old].gone = true;
    young = v9_usages_hold(&all, 1, 5, false);
    CHECK(young && young != old);
    CHECK(v9_usages_find(&all, 1, 5, true) == old && v9_usages_find(&all, 1, 5, false) == young);
    v9_usages_forget(&all, old);
    CHECK(v9_usages_find(&all, 1, 5, true) == young); /* without names, and not known as such */
    v9_usages_destroy(&all);

    /* Made by the guest, removed on the host, and the number is a new file's. */
    for (int i = 0; i < 2; i++) {
        account = v9_quota_hold_file(q, fd, true);
        CHECK(account > 0);
        CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, "x", 1, i * BLOCK) == 1);
        v9_quota_settle(q, (uint32_t)account, fd, false);
        v9_quota_release(q, (uint32_t)account);
        CHECK(usage_of(q).inodes == 1 && usage_of(q).bytes == BLOCK && usage_of(q).changing == 0);
    }
    close(fd);
    unlink(path);
    v9_quota_free(q);
}

TEST(the_oldest_account_makes_room)
{
    struct v9_usages all;
    uint32_t held[3];

    CHECK(v9_usages_init(&all, 3) == 0);
    for (uint32_t i = 0; i < 3; i++)
        held[i] = v9_usages_hold(&all, 1, i, false);
    CHECK(v9_usages_hold(&all, 1, 3, false) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        all.entries[held[i]].refs = 0;
        v9_usages_leave(&all, held[i]);
    }
    CHECK(v9_usages_hold(&all, 1, 0, false) == held[0]); /* no longer the oldest */
    CHECK(v9_usages_hold(&all, 1, 3, false) == held[1]);
    CHECK(v9_usages_find(&all, 1, 1, false) == 0 && v9_usages_find(&all, 1, 2, false) == held[2]);
    v9_usages_destroy(&all);
}

TEST(removing_an_uncounted_file_takes_nothing_off)
{
    v9_quota *q = make(UINT64_MAX, UINT64_MAX, 10);
    char path[40];
    int fd = named_file(path), account;

    CHECK(pwrite(fd, "x", 1, 0) == 1);
    account = v9_quota_hold_file(q, fd, false); /* the usage does not have it */
    unlink(path);
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    CHECK(usage_of(q).bytes == 0 && usage_of(q).inodes == 0 && usage_of(q).changing == 0);
    close(fd);
    v9_quota_free(q);
}

TEST(statfs_shows_the_tighter_of_quota_and_host)
{
    v9_quota *q = make(10 * BLOCK, 7, 10), *small = make(BLOCK, UINT64_MAX, 10);
    const struct statfs host = {.f_bsize = BLOCK,
                                .f_frsize = BLOCK,
                                .f_blocks = 1000,
                                .f_bfree = 500,
                                .f_bavail = 5,
                                .f_files = 300,
                                .f_ffree = 200};
    struct statfs st = host;
    int fd = new_file();
    uint32_t a = account_of(q, fd);

    CHECK(put(q, a, fd, 0, 2 * BLOCK) == 2 * BLOCK);
    v9_quota_statfs(q, &st);
    CHECK(st.f_blocks == 10 && st.f_bfree == 8 && st.f_bavail == 5);
    CHECK(st.f_files == 7 && st.f_ffree == 7);
    st = host; /* less is free on the host: used is what is used */
    st.f_bfree = 4;
    st.f_ffree = 3;
    v9_quota_statfs(q, &st);
    CHECK(st.f_blocks == 6 && st.f_bfree == 4 && st.f_files == 3 && st.f_ffree == 3);
    st = host; /* btrfs has no number of inodes */
    st.f_files = st.f_ffree = 0;
    v9_quota_statfs(q, &st);
    CHECK(st.f_files == 7 && st.f_ffree == 7);
    st = host;
    v9_quota_statfs(small, &st); /* no limit on inodes */
    CHECK(st.f_blocks == 1 && st.f_files == 300 && st.f_ffree == 200);
    CHECK(pwrite(fd, "x", 1, 20 * BLOCK) == 1 && ftruncate(fd, 40 * BLOCK) == 0);
    CHECK(posix_fallocate(fd, 0, 12 * BLOCK) == 0);
    v9_quota_settle(q, a, fd, false);
    st = host;
    v9_quota_statfs(q, &st); /* beyond the limit, somehow */
    CHECK(st.f_blocks == 13 && st.f_bfree == 0 && st.f_bavail == 0);
    v9_quota_release(q, a);
    v9_quota_free(q);
    v9_quota_free(small);
    close(fd);
}

/* ---- threads -------------------------------------------------------------------------------- */

struct race {
    v9_quota *q;
    uint32_t account;
    int fd;
    uint64_t seed, span;
};

static void *write_about(void *argument)
{
    const struct race *race = argument;
    uint64_t random = race->seed;

    for (int i = 0; i < ROUNDS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const uint64_t offset = (random >> 33) % race->span, count = 1 + (random >> 20) % BLOCK;
        const int64_t wrote = put(race->q, race->account, race->fd, offset, count);
        CHECK(wrote == -ENOSPC || (wrote > 0 && wrote <= (int64_t)count));
        CHECK(blocks_of(race->fd) <= 200 * BLOCK);
    }
    return NULL;
}

/* Writers of one file: the usage is the file's blocks at the end, and at no time are there more
 * blocks than the limit; `span` decides whether it is reached. */
static void race_on_one_file(uint64_t span, int64_t expected)
{
    v9_quota *q = make(200 * BLOCK, UINT64_MAX, 10);
    char path[40];
    int fd = named_file(path);
    struct race races[THREADS];
    pthread_t threads[THREADS];
    uint32_t a = account_of(q, fd);

    for (int i = 0; i < THREADS; i++) {
        races[i] = (struct race){q, a, fd, (uint64_t)i + 1, span};
        CHECK(pthread_create(&threads[i], NULL, write_about, &races[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(usage_of(q).bytes == blocks_of(fd) && usage_of(q).changing == 0);
    CHECK(blocks_of(fd) == expected);
    v9_quota_release(q, a);
    close(fd);
    unlink(path);
    v9_quota_free(q);
}

TEST(racing_writers_of_one_file_are_counted_exactly)
{
    race_on_one_file(100 * BLOCK - BLOCK, 100 * BLOCK);
}

TEST(racing_writers_of_one_file_stop_at_the_limit)
{
    race_on_one_file(1000 * BLOCK, 200 * BLOCK);
}

static void *claim_one(void *argument)
{
    struct race *race = argument;
    CHECK(v9_quota_begin(race->q, BLOCK, 0) == 0);
    v9_quota_end(race->q, BLOCK, 0);
    return NULL;
}

/* What others may give back is waited for. */
TEST(claims_that_others_may_return_are_waited_for)
{
    v9_quota *q = make(BLOCK, UINT64_MAX, 10), *hasty;
    struct race race = {.q = q};
    pthread_t thread;

    CHECK(v9_quota_begin(q, BLOCK, 0) == 0);
    CHECK(pthread_create(&thread, NULL, claim_one, &race) == 0);
    usleep(50000);
    v9_quota_end(q, BLOCK, 0);
    pthread_join(thread, NULL);
    v9_quota_free(q);
    hasty = set_patience(BLOCK, UINT64_MAX, 10, A_WHILE);
    CHECK(v9_quota_begin(hasty, BLOCK, 0) == 0);
    CHECK(v9_quota_begin(hasty, 1, 0) == -ENOSPC); /* not for ever */
    CHECK(v9_quota_begin(hasty, 0, 0) == 0);       /* what takes nothing is always allowed */
    v9_quota_free(hasty);                          /* two changes hang: it stays */
    CHECK(usage_of(hasty).changing == 2);
    v9_quota_end(hasty, BLOCK, 0);
    v9_quota_end(hasty, 0, 0);
    v9_quota_free(hasty);
}
