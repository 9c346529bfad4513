// sources: fid/ fs/ mapped/ export/ quota/ base/
/*
 * What write-back has lost is reported by the next sync of each fid that could write, or had no
 * descriptor when another one reported it. sync_file_range(2) is replaced.
 */
#define _GNU_SOURCE
#include "fid/lost_writes.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/sys.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "host_files.h"

static v9_export *export, *exports[V9_EXPORTS_MAX];
static v9_qidmap *qidmap;
static struct v9_fids fids;
static int root_fd, flushed, failure;

int sync_file_range(int fd, off_t offset, off_t size, unsigned flags)
{
    flushed++;
    CHECK(!offset && !size && flags & SYNC_FILE_RANGE_WAIT_AFTER);
    errno = failure;
    return failure ? -1 : 0;
}

SET_UP()
{
    struct v9_export_conf conf = {.root_fd = -1};
    int32_t err;

    qidmap = v9_qidmap_new();
    host_begins();
    conf.root_fd = root_fd = open(top, O_PATH | O_CLOEXEC);
    export = exports[0] = v9_export_new(&conf, qidmap, &err);
    v9_budget_init();
    CHECK(export && v9_fids_init(&fids, 100, v9_fid_table_map(100), exports, &v9_evict_ops) == 0);
    v9_budget_charge(fids.inodes.account);
}

TEAR_DOWN()
{
    v9_fids_destroy(&fids);
    v9_export_free(export);
    v9_qidmap_free(qidmap);
    close(root_fd);
    host_ends();
}

/* A fid of a file, open with these flags. */
static void enter(uint32_t number, const char *name, int flags)
{
    struct v9_fid_new as = {number, 0, 0, -1, flags, NULL, NULL};
    struct v9_found file = {-1, -1, 0, NULL};
    struct v9_attr attr;
    int err;

    file.path_fd = v9_sys_reach(AT_FDCWD, host(name), 0);
    err = v9_attr_read(export, file.path_fd, "", &attr);
    CHECK(err == 0 || err == -V9_NO_DEVICE);
    file.attr = &attr;
    as.io_fd = v9_export_open(export, file.path_fd, flags);
    CHECK(v9_fids_enter(&fids, &as, &file, NULL) == 0);
}

/* Evicts all that can be; more than once, since what was used lately is spared. */
static void evict_all(void)
{
    for (int i = 0; i < 4; i++)
        while (v9_evict_ops.evict(&fids.shrinker, 16))
            ;
    CHECK(!fids.open_io.count);
}

/* What a sync of a fid reports, which the host answers with `err`. */
static int report(uint32_t number, int err)
{
    struct v9_fid *fid;

    CHECK(v9_fids_pin(&fids, number, &fid) == 0 && fid->io_fd >= 0);
    err = v9_lost_writes_found(&fids, fid, err);
    CHECK(v9_lost_writes_found(&fids, fid, 0) == err); /* once more, after a death */
    if (err)
        v9_lost_writes_reported(&fids, fid);
    v9_fids_unpin(&fids, fid);
    return err;
}

TEST(what_is_lost_before_an_eviction_is_reported_once)
{
    static const int errors[] = {EIO, ENOSPC, EDQUOT};

    if (geteuid())
        SKIP("only root's files are evicted that can write");
    host_writes("file", "text");
    enter(1, "file", O_RDWR);
    for (int i = 0; i < 3; i++) {
        failure = errors[i];
        evict_all();
        CHECK(report(1, 0) == -errors[i] && report(1, 0) == 0);
    }
    failure = 0;
    evict_all();
    CHECK(report(1, 0) == 0 && flushed == 4);
}

TEST(the_hosts_own_report_stands_for_it)
{
    if (geteuid())
        SKIP("only root's files are evicted that can write");
    host_writes("file", "text");
    enter(1, "file", O_RDWR);
    failure = EIO;
    evict_all();
    CHECK(report(1, -ENOSPC) == -ENOSPC && report(1, 0) == 0);
}

TEST(a_file_system_without_the_call_has_lost_nothing)
{
    host_writes("file", "text");
    enter(1, "file", O_RDONLY);
    failure = ESPIPE;
    evict_all();
    CHECK(report(1, 0) == 0 && !flushed); /* what cannot write has nothing to flush */
    if (geteuid())
        return;
    enter(2, "file", O_WRONLY);
    evict_all();
    CHECK(report(2, 0) == 0 && flushed == 1);
}

TEST(an_error_that_one_fid_reports_reaches_evicted_ones)
{
    host_writes("file", "text");
    host_writes("other", "text");
    enter(1, "file", O_RDONLY);
    enter(2, "file", O_RDONLY);
    enter(3, "other", O_RDONLY);
    enter(1000, "file", O_RDONLY); /* a stray */
    evict_all();
    CHECK(report(1, -EIO) == -EIO && report(1, 0) == 0);
    CHECK(report(2, 0) == -EIO && report(2, 0) == 0);
    CHECK(report(1000, 0) == -EIO && report(3, 0) == 0);
    CHECK(report(1, -EIO) == -EIO && report(2, 0) == 0); /* the host reports it itself */
}
