// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * A request that has created something and fails then takes it back, and truncates nothing, at
 * whichever point its process dies. statx(2) is replaced, which the last step of a creation takes.
 * What cannot be looked at after a death is not taken for done.
 */
#define _GNU_SOURCE
#include <sys/sysmacros.h>

#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"

static bool no_values_again;   /* requests that are run again can read no extended attributes */
static bool fails_once;        /* not if the request is run again */
static const char *unreadable; /* the name of what has no attributes that can be read, */
static uint32_t new_device;    /* not even once it is known that it is on this device; 0: on none */

/* Whether a request is in flight that is to fail, and not one that looks at what has become. */
static bool is_due(void)
{
    bool due = false;

    for (uint32_t slot = 0; slot < dev->slots_used; slot++) {
        const struct v9_request *r = &dev->slots[slot];
        due = due || (r->state != V9_FREE && r->type != P9_TGETATTR && !(fails_once && r->again));
    }
    return due;
}

static bool is_unreadable(int dir_fd, const char *name)
{
    char link[64], path[512] = "";
    const char *last = name;

    if (!unreadable || !is_due())
        return false;
    if (!*name) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
        if (readlink(link, path, sizeof(path) - 1) > 0)
            last = strrchr(path, '/') + 1;
    }
    return !strcmp(last, unreadable);
}

/* Whether Python has been asked about the device. */
static bool is_known(const struct statx *st)
{
    uint32_t device;
    uint64_t path;

    return v9_qidmap_lookup(qidmap, makedev(st->stx_dev_major, new_device), st->stx_mnt_id,
                            st->stx_ino, &device, &path) == 0;
}

int statx(int dir_fd, const char *restrict name, int flags, unsigned mask,
          struct statx *restrict st)
{
    if (syscall(SYS_statx, dir_fd, name, flags, mask, st))
        return -1;
    if (!is_unreadable(dir_fd, name))
        return 0;
    if (!new_device || is_known(st)) {
        errno = EIO;
        return -1;
    }
    st->stx_dev_minor = new_device;
    return 0;
}

ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
    for (uint32_t slot = 0; no_values_again && slot < dev->slots_used; slot++)
        if (dev->slots[slot].state == V9_RUNNING && dev->slots[slot].again) {
            errno = EIO;
            return -1;
        }
    return syscall(SYS_getxattr, path, name, value, size);
}

static const struct kind kinds[] = {
    {"create", a_file, walked_dir, {{P9_TLCREATE, lcreate}}},
    {"create for writing", a_file, walked_dir, {{P9_TLCREATE, lcreate_writable}}},
    {"mkdir", a_file, walked_dir, {{P9_TMKDIR, mkdir_new}}},
    {"symlink", a_file, walked_dir, {{P9_TSYMLINK, symlink_new}}},
    {"mknod", a_file, walked_dir, {{P9_TMKNOD, mknod_new}}},
};
static const struct kind truncation = {
    "create and truncate", a_file, walked_dir, {{P9_TLCREATE, lcreate_truncated}}};

/* A successor may do what its predecessor could not: then all of it. How many runs go wrong. */
static uint32_t die_where_it_fails_once(const struct kind *kind)
{
    char done[OUTCOME], undone[OUTCOME];
    struct fate fate = {1, {TO_THE_END, 0}};
    struct stops stops;
    uint32_t wrong = 0, successes = 0;

    unreadable = NULL;
    CHECK(expect(kind, done));
    unreadable = "new";
    CHECK(expect(kind, undone) && run_apart(run_here, kind, &fate));
    stops = outcome->stops;
    for (uint32_t point = 0; point + 1 < stops.count; point++) {
        fate.points[0] = (int)point;
        if (!stops.is_new[point])
            continue;
        successes += run_apart(run_here, kind, &fate) && !strcmp(outcome->text, done);
        wrong += strcmp(outcome->text, done) && strcmp(outcome->text, undone);
    }
    CHECK(successes);
    return wrong;
}

static void die_in_each(void)
{
    char expected[OUTCOME];

    for (size_t i = 0; i < COUNT(kinds); i++) {
        unreadable = "new";
        if (!is_chosen(&kinds[i]))
            continue;
        CHECK(expect(&kinds[i], expected) && strstr(expected, "reply -5 of"));
        CHECK(!strstr(expected, "/new"));
        CHECK(!die_once(&kinds[i]));
    }
    unreadable = "inner";
    CHECK(expect(&truncation, expected) && strstr(expected, "reply -5 of"));
    CHECK(strstr(expected, "'inner'"));
    CHECK(!die_once(&truncation));
}

TEST(what_a_failed_request_has_created_is_removed)
{
    die_in_each();
}

TEST(what_a_failed_request_has_created_is_removed_with_metadata_in_attributes)
{
    model = V9_MODEL_XATTR;
    die_in_each();
}

TEST(what_a_failed_request_has_created_is_removed_with_metadata_in_files)
{
    model = V9_MODEL_FILE;
    die_in_each();
}

TEST(what_a_failed_request_has_created_is_removed_after_python_was_asked)
{
    new_device = 77;
    die_in_each();
}

TEST(what_a_failed_request_has_created_is_removed_without_privilege)
{
    unprivileged = geteuid() == 0;
    unreadable = "new";
    for (size_t i = 0; i < COUNT(kinds_without_privilege); i++)
        CHECK(!die_once(&kinds_without_privilege[i]));
}

TEST(what_fails_once_is_done_or_undone)
{
    const uint32_t models[] = {V9_MODEL_HOST, V9_MODEL_XATTR, V9_MODEL_FILE};

    fails_once = true;
    for (int i = 0; i < 6; i++) {
        model = models[i % 3];
        new_device = i < 3 ? 0 : 77;
        for (size_t j = 0; j < COUNT(kinds); j++)
            CHECK(!is_chosen(&kinds[j]) || !die_where_it_fails_once(&kinds[j]));
    }
}

TEST(a_value_that_cannot_be_read_was_not_removed)
{
    const struct kind kind = {"xattr removed", named_value, xattr_removed, {{P9_TCLUNK, number}}};
    struct fate fate = {1, {TO_THE_END, 0}};
    char expected[OUTCOME];
    struct stops stops;

    no_values_again = true;
    CHECK(expect(&kind, expected) && !strstr(expected, "before"));
    CHECK(run_apart(run_here, &kind, &fate));
    stops = outcome->stops;
    for (uint32_t point = 0; point + 1 < stops.count; point++) {
        fate.points[0] = (int)point;
        if (stops.is_new[point])
            CHECK(run_apart(run_here, &kind, &fate) && !strstr(outcome->text, "before"));
    }
}
