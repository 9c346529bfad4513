// sources: fs/create.c fs/ mapped/ export/ quota/ base/
/*
 * Entries created and unlinked under a quota: the count is right, whatever fails and races.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "faulty_host.h"
#include "quota/quota.h"

static v9_quota *quota_of(uint64_t inodes, int *fd)
{
    struct v9_quota_conf conf = {
        .bytes = UINT64_MAX, .inodes = inodes, .error = EDQUOT, .block = 4096, .max_accounts = 64};
    v9_quota *quota;
    int err;

    *fd = conf.fd = memfd_create("usage", 0);
    CHECK(ftruncate(conf.fd, V9_QUOTA_FILE) == 0);
    quota = v9_quota_new(&conf, &err);
    CHECK(quota && !err);
    return quota;
}

static int64_t inodes(v9_quota *quota)
{
    struct v9_quota_usage usage;
    v9_quota_read(quota, &usage);
    CHECK(usage.changing == 0);
    return usage.inodes;
}

static void count_entries(uint32_t model)
{
    int fd;
    v9_quota *quota = quota_of(1, &fd);
    v9_export *ex;

    begin();
    ex = export_of(model);
    v9_export_set_quota(ex, quota);
    for (uint32_t kind = V9_NEW_FILE; kind <= V9_NEW_LINK; kind++) {
        CHECK(make(ex, kind, O_RDWR) == 0 && inodes(quota) == 1);
        CHECK(make(ex, kind, O_RDWR) == (kind == V9_NEW_FILE ? 0 : -EEXIST) && inodes(quota) == 1);
        CHECK(mkdirat(top, "d", 0755) == 0); /* a host process's */
        CHECK(v9_unlink(ex, top, "missing", false) == -ENOENT && inodes(quota) == 1);
        CHECK(unlinkat(top, "d", AT_REMOVEDIR) == 0);
        CHECK(v9_unlink(ex, top, "n", kind == V9_NEW_DIR) == 0 && inodes(quota) == 0);
    }
    host.no_paths = true; /* what cannot be counted is not made */
    CHECK(make(ex, V9_NEW_DIR, 0) == -EMFILE && !is_there("n") && inodes(quota) == 0);
    host.no_paths = false;
    CHECK(make(ex, V9_NEW_DIR, 0) == 0);
    {
        const struct v9_new more = {.kind = V9_NEW_DIR, .mode = 0755};
        struct v9_created made;
        CHECK(v9_create(ex, top, "more", &more, &made) == -EDQUOT && !is_there("more"));
    }
    end(ex);
    v9_quota_free(quota);
    close(fd);
}

TEST(on_the_host_the_quota_counts_each_entry_once)
{
    if (geteuid())
        SKIP("only root creates for others");
    count_entries(V9_MODEL_HOST);
}

TEST(with_xattrs_the_quota_counts_each_entry_once)
{
    count_entries(V9_MODEL_XATTR);
}

TEST(with_metadata_files_the_quota_counts_each_entry_once)
{
    count_entries(V9_MODEL_FILE);
}

/* Threads that make and remove one name: every call has one of the results that it may have, and
 * the count is right in the end. */
static v9_export *shared;

static void *fight(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        const uint32_t kind = i % 3 ? V9_NEW_FILE : V9_NEW_DIR;
        int err = make(shared, kind, O_RDWR);
        CHECK(!err || err == -EEXIST || err == -EISDIR || err == -EAGAIN);
        err = v9_unlink(shared, top, "n", kind == V9_NEW_DIR);
        CHECK(!err || err == -ENOENT || err == -EISDIR || err == -ENOTDIR || err == -EPERM);
    }
    return NULL;
}

static void race_for_one_name(uint32_t model)
{
    pthread_t threads[4];
    int fd;
    v9_quota *quota = quota_of(UINT64_MAX, &fd);

    begin();
    shared = export_of(model);
    v9_export_set_quota(shared, quota);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, fight, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    if (v9_unlink(shared, top, "n", true))
        v9_unlink(shared, top, "n", false);
    CHECK(inodes(quota) == 0 && !is_there("n") && !is_there(META "/n"));
    end(shared);
    v9_quota_free(quota);
    close(fd);
}

TEST(on_the_host_racing_threads_leave_a_right_count)
{
    if (geteuid())
        SKIP("only root creates for others");
    race_for_one_name(V9_MODEL_HOST);
}

TEST(with_xattrs_racing_threads_leave_a_right_count)
{
    race_for_one_name(V9_MODEL_XATTR);
}

TEST(with_metadata_files_racing_threads_leave_a_right_count)
{
    race_for_one_name(V9_MODEL_FILE);
}
