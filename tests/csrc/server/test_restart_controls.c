// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * What a restart rests on is needed: without it, the same runs go wrong. Each case takes one thing
 * away, from the memory of a dead worker.
 */
#define _GNU_SOURCE
#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"
#include "server/kinds_of_python.h"

static const struct kind *find_kind(const struct kind *kinds, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    CHECK(!"there is such a kind");
    return kinds;
}

#define KIND(kinds, name) find_kind(kinds, COUNT(kinds), name)

/* Whether a death at some point does harm. */
static bool goes_wrong(const struct kind *kind)
{
    struct fate fate = {1, {TO_THE_END, 0}};
    char expected[OUTCOME];
    struct stops stops;
    bool wrong;

    if (!CHECK(expect(kind, expected)))
        return false;
    wrong = !ends_as(kind, &fate, expected);
    stops = outcome->stops;
    for (uint32_t point = 0; !wrong && point + 1 < stops.count; point++) {
        fate.points[0] = (int)point;
        wrong = stops.is_new[point] && !ends_as(kind, &fate, expected);
    }
    return wrong;
}

static void forget_evidence(void)
{
    for (uint32_t slot = 0; slot < dev->slots_used; slot++)
        v9_evidence_clear(&dev->slots[slot].evidence);
}

TEST(without_evidence_names_are_changed_twice)
{
    spoil = forget_evidence;
    CHECK(goes_wrong(KIND(kinds_of_names, "create")));
    CHECK(goes_wrong(KIND(kinds_of_names, "mkdir")));
    CHECK(goes_wrong(KIND(kinds_of_names, "link")));
    CHECK(goes_wrong(KIND(kinds_of_names, "unlink")));
    CHECK(goes_wrong(KIND(kinds_of_names, "renameat")));
}

TEST(without_evidence_metadata_files_are_changed_twice)
{
    model = V9_MODEL_FILE;
    spoil = forget_evidence;
    CHECK(goes_wrong(KIND(kinds_of_names, "mkdir")));
    CHECK(goes_wrong(KIND(kinds_of_names, "unlink")));
    CHECK(goes_wrong(KIND(kinds_of_names, "renameat over")));
}

/* As if pwritev(2) had appended, which leaves the position. */
static void move_back(void)
{
    for (uint32_t slot = 0; slot < dev->slots_used; slot++) {
        const struct v9_evidence *evidence = &dev->slots[slot].evidence;
        if (evidence->append_fd >= 0)
            CHECK(lseek(evidence->append_fd, evidence->append_at, SEEK_SET) >= 0);
    }
}

TEST(without_a_position_data_is_appended_twice)
{
    spoil = move_back;
    CHECK(goes_wrong(KIND(kinds_of_files, "append")));
}

static void break_promises(void)
{
    for (uint32_t slot = 0; slot < dev->slots_used; slot++)
        dev->slots[slot].changes = 0;
}

TEST(without_promises_fids_are_changed_twice)
{
    spoil = break_promises;
    CHECK(goes_wrong(KIND(kinds_of_files, "walk")));
    CHECK(goes_wrong(KIND(kinds_of_files, "open")));
    CHECK(goes_wrong(KIND(kinds_of_files, "clunk")));
    CHECK(goes_wrong(KIND(kinds_of_files, "xattr announced")));
    CHECK(goes_wrong(KIND(kinds_of_files, "xattr not created")));
    CHECK(goes_wrong(KIND(kinds_of_files, "fsync with lost writes")));
    python_answers = answer_as_python;
    CHECK(goes_wrong(KIND(kinds_of_dialect_u, "wstat of nothing, after lost writes")));
}

/* As if the process had kept the position in a directory that it had before it read on. */
static void believe_position(void)
{
    for (uint32_t index = 0; index < dev->fids.max; index++)
        if (dev->fids.entries[index].number == FID)
            v9_fids_dir(&dev->fids, &dev->fids.entries[index])->offset = read_to;
}

TEST(a_believed_position_loses_entries_of_a_directory)
{
    spoil_recovered = believe_position;
    CHECK(goes_wrong(KIND(kinds_of_files, "readdir")));
}

static void abandon_orphans(void)
{
    for (uint32_t slot = 0; slot < dev->slots_used; slot++)
        dev->slots[slot].evidence.made = -1;
}

TEST(without_its_orphan_a_file_cannot_be_opened)
{
    if (geteuid())
        SKIP("needs root, to become a user");
    unprivileged = true;
    spoil_recovered = abandon_orphans;
    CHECK(goes_wrong(KIND(kinds_without_privilege, "create without any rights")));
}

TEST(without_a_sweep_descriptors_leak)
{
    no_sweep = true;
    CHECK(goes_wrong(KIND(kinds_of_names, "create")));
}
