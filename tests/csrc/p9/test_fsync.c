// sources: p9/fsync.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Tfsync: which files are synced, what fails, and which fids it takes. fsync(2) and fdatasync(2)
 * are replaced by functions that record their files.
 */
#define _GNU_SOURCE
#include "p9/device.h"
#include "p9/fsync.h"

enum { FILE_FID = 1, SYNCED_MAX = 8 };

static uint64_t synced[SYNCED_MAX]; /* inode numbers, in order */
static int synced_count, data_count;
static int failing = -1; /* index of the call that fails, with EIO */
static int interrupted;  /* calls that are interrupted before the next one succeeds */

static int record(int fd)
{
    struct stat st;

    if (interrupted && interrupted--) {
        errno = EINTR;
        return -1;
    }
    CHECK(fstat(fd, &st) == 0 && synced_count < SYNCED_MAX);
    synced[synced_count] = st.st_ino;
    errno = EIO;
    return synced_count++ == failing ? -1 : 0;
}

int fsync(int fd)
{
    return record(fd);
}

int fdatasync(int fd)
{
    data_count++;
    return record(fd);
}

static int ask_fsync(int fid, int data_only)
{
    synced_count = data_count = 0;
    return ask(P9_TFSYNC, "44", fid, data_only);
}

static void open_file(const char *name, int flags)
{
    CHECK(walk_to(FILE_FID, name) == 0);
    CHECK(ask(P9_TLOPEN, "44", FILE_FID, flags) == 0);
}

/* A sidecar of a file in the root, under mapped-file. */
static uint64_t write_sidecar(const char *path, const char *text)
{
    host_writes(path, text);
    return host_ino(path);
}

static void begin_mapped_file(void)
{
    dev.exports[0]->conf.model = V9_MODEL_FILE;
    host_makes_directory(".virtfs_metadata");
}

TEST(the_open_file_is_synced_as_the_guest_asks)
{
    host_writes("file", "text");
    open_file("file", O_RDWR);
    CHECK(ask_fsync(FILE_FID, 0) == 0);
    CHECK(synced_count == 1 && !data_count && synced[0] == host_ino("file"));
    CHECK(ask_fsync(FILE_FID, 1) == 0);
    CHECK(synced_count == 1 && data_count == 1 && synced[0] == host_ino("file"));
}

TEST(an_interrupted_call_is_repeated)
{
    host_writes("file", "text");
    open_file("file", O_RDONLY);
    interrupted = 2;
    CHECK(ask_fsync(FILE_FID, 0) == 0 && synced_count == 1 && !interrupted);
}

TEST(the_fid_has_to_be_open)
{
    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
    CHECK(ask_fsync(FILE_FID, 0) == -EBADF && ask_fsync(FILE_FID + 1, 0) == -EBADF);
    CHECK(ask(P9_TFSYNC, "4", FILE_FID) == -EINVAL && !synced_count);
}

TEST(metadata_in_a_sidecar_are_synced_too)
{
    uint64_t sidecar;

    begin_mapped_file();
    host_writes("file", "text");
    sidecar = write_sidecar(".virtfs_metadata/file", "virtfs.mode=33152\n");
    open_file("file", O_RDWR);
    CHECK(ask_fsync(FILE_FID, 0) == 0);
    CHECK(synced_count == 2 && synced[0] == host_ino("file") && synced[1] == sidecar);
    CHECK(ask_fsync(FILE_FID, 1) == 0 && synced_count == 1);
    for (failing = 0; failing < 2; failing++)
        CHECK(ask_fsync(FILE_FID, 0) == -EIO && synced_count == failing + 1);
    failing = -1;
}

TEST(a_directory_is_synced_with_the_names_of_the_sidecars)
{
    begin_mapped_file();
    host_makes_directory("d");
    open_file("d", O_RDONLY);
    CHECK(ask_fsync(FILE_FID, 0) == 0 && synced_count == 1);
    host_makes_directory("d/.virtfs_metadata");
    CHECK(ask_fsync(FILE_FID, 0) == 0);
    CHECK(synced_count == 2 && synced[0] == host_ino("d"));
    CHECK(synced[1] == host_ino("d/.virtfs_metadata"));
    failing = 1;
    CHECK(ask_fsync(FILE_FID, 0) == -EIO);
    failing = -1;
}

/* Twstat of 9P2000.u makes files durable that are not open (stat(5)). */
TEST(a_file_that_is_not_open_is_opened_for_it)
{
    struct v9_fid *fid;

    host_writes("file", "text");
    CHECK(symlink("file", host("link")) == 0);
    CHECK(walk_to(FILE_FID, "file") == 0 && walk_to(2, "link") == 0);
    synced_count = 0;
    CHECK(v9_fids_pin(&dev.fids, FILE_FID, &fid) == 0 && v9_p9_sync(&dev, fid) == 0);
    v9_fids_unpin(&dev.fids, fid);
    CHECK(synced_count == 1 && synced[0] == host_ino("file"));
    CHECK(v9_fids_pin(&dev.fids, 2, &fid) == 0 && v9_p9_sync(&dev, fid) == 0);
    v9_fids_unpin(&dev.fids, fid);
    CHECK(synced_count == 1);
}
