// sources: p9/readdir.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Treaddir: every entry once, however small the replies are, with the qid that a walk to it
 * reports.
 */
#define _GNU_SOURCE
#include "p9/api.h"
#include "p9/device.h"

#include <dirent.h>
#include <sys/syscall.h>

#include "export/hidden_names.h"

enum { FILES = 40, SMALL = 100, ENTRY_SIZE = P9_QID_SIZE + 8 + 1 + 2 };

/* An entry of a reply. */
struct entry {
    uint64_t ino, offset;
    uint8_t qid_type, type;
    char name[P9_NAME_MAX + 1];
};

/* What was listed: how often, and the last of that name. */
struct listing {
    const char *name;
    unsigned count, all;
    struct entry entry;
};

/* Decodes the entry of the reply at `at`; returns where the next one is. */
static uint32_t decode(uint32_t at, struct entry *entry)
{
    const uint32_t size = (uint32_t)reply_number(at + ENTRY_SIZE - 2, 2);

    entry->qid_type = reply[at];
    entry->ino = reply_number(at + 5, 8);
    entry->offset = reply_number(at + P9_QID_SIZE, 8);
    entry->type = reply[at + P9_QID_SIZE + 8];
    memcpy(entry->name, reply + at + ENTRY_SIZE, size);
    entry->name[size] = 0;
    return at + ENTRY_SIZE + size;
}

/* Looks for a name in the whole directory, by replies of so many bytes. */
static struct listing look_for(int fid, const char *name, int count)
{
    struct listing listing = {.name = name};
    struct entry entry = {.offset = 0};

    for (;;) {
        uint32_t at = P9_IO_SIZE, end;
        if (!CHECK(ask(P9_TREADDIR, "4q4", fid, entry.offset, count) == 0))
            break;
        end = at + (uint32_t)reply_number(P9_HEADER_SIZE, 4);
        CHECK(end <= P9_IO_SIZE + (uint32_t)count);
        if (at == end)
            break;
        while (at < end) {
            at = decode(at, &entry);
            listing.all++;
            if (strcmp(entry.name, name))
                continue;
            listing.count++;
            listing.entry = entry;
        }
    }
    return listing;
}

static void open_root(void)
{
    CHECK(ask(P9_TLOPEN, "44", ROOT, O_RDONLY) == 0);
}

static void fill_root(void)
{
    char name[32];

    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "file-%d", i);
        host_writes(name, "");
    }
    open_root();
}

TEST(however_small_the_replies_are_each_entry_is_listed_once)
{
    char name[32];

    fill_root();
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "file-%d", i);
        const struct listing listing = look_for(ROOT, name, SMALL);
        CHECK(listing.count == 1 && listing.all == FILES + 2);
        CHECK(listing.entry.ino == host_ino(name));
    }
}

TEST(entries_have_the_types_of_their_files)
{
    struct listing listing;

    host_writes("file", "");
    host_makes_directory("directory");
    CHECK(symlink("file", host("link")) == 0);
    open_root();
    listing = look_for(ROOT, "file", MSIZE);
    CHECK(listing.entry.type == DT_REG && listing.entry.qid_type == 0);
    listing = look_for(ROOT, "directory", MSIZE);
    CHECK(listing.entry.type == DT_DIR && listing.entry.qid_type == 0x80);
    listing = look_for(ROOT, "link", MSIZE);
    CHECK(listing.entry.type == DT_LNK && listing.entry.qid_type == 0x02);
}

TEST(seen_from_below_what_is_above_the_root_is_the_root)
{
    struct listing listing;

    open_root();
    listing = look_for(ROOT, "..", MSIZE);
    CHECK(listing.count == 1 && listing.entry.ino == host_ino(""));
}

TEST(a_reply_without_room_for_one_entry_is_an_error)
{
    open_root();
    CHECK(ask(P9_TREADDIR, "4q4", ROOT, (uint64_t)0, ENTRY_SIZE) == -EINVAL);
}

TEST(a_listing_that_begins_again_shows_what_has_come)
{
    host_writes("one", "");
    open_root();
    CHECK(look_for(ROOT, "two", MSIZE).count == 0);
    host_writes("two", "");
    CHECK(look_for(ROOT, "two", MSIZE).count == 1);
}

TEST(only_open_directories_are_listed)
{
    host_writes("file", "");
    CHECK(ask(P9_TREADDIR, "4q4", ROOT, (uint64_t)0, MSIZE) == -EBADF);
    CHECK(walk_to(1, "file") == 0 && ask(P9_TLOPEN, "44", 1, O_RDONLY) == 0);
    CHECK(ask(P9_TREADDIR, "4q4", 1, (uint64_t)0, MSIZE) == -ENOTDIR);
}

TEST(the_directory_of_metadata_files_is_not_listed)
{
    dev.exports[0]->conf.model = V9_MODEL_FILE;
    host_makes_directory(v9_hidden_name(V9_META_DIR));
    host_writes("file", "");
    open_root();
    CHECK(look_for(ROOT, v9_hidden_name(V9_META_DIR), MSIZE).count == 0);
    CHECK(look_for(ROOT, "file", MSIZE).count == 1);
}

TEST(without_stats_an_entry_has_the_number_that_its_directory_says)
{
    dev.exports[0]->conf.stat_entries = false;
    host_writes("file", "");
    open_root();
    CHECK(look_for(ROOT, "file", MSIZE).entry.ino == host_ino("file"));
}

/* ---- for Python --------------------------------------------------------------------------------
 */

TEST(python_reads_a_directory_from_where_it_was)
{
    struct v9_fid *fid;
    uint64_t handle;
    int got;

    fill_root();
    CHECK(v9_fids_pin(&dev.fids, ROOT, &fid) == 0);
    handle = v9_fids_handle(&dev.fids, fid);
    got = v9_fid_read_dir(&dev, handle, 0, reply, 64);
    CHECK(got > 0 && got <= 64);
    got = v9_fid_read_dir(&dev, handle, v9_fids_dir(&dev.fids, fid)->offset, reply, MSIZE);
    CHECK(got > 0);
    CHECK(v9_fid_read_dir(&dev, handle, v9_fids_dir(&dev.fids, fid)->offset, reply, MSIZE) == 0);
    v9_fids_unpin(&dev.fids, fid);
}

TEST(python_lists_only_open_directories_as_well)
{
    struct v9_fid *fid;

    CHECK(v9_fids_pin(&dev.fids, ROOT, &fid) == 0);
    CHECK(v9_fid_read_dir(&dev, v9_fids_handle(&dev.fids, fid), 0, reply, MSIZE) == -EBADF);
    v9_fids_unpin(&dev.fids, fid);
}
