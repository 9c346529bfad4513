// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * Rings of all layouts whose process dies: several requests in flight, flushed ones, and those that
 * Python answers.
 */
#define _GNU_SOURCE
#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"

static void both(void)
{
    walk_to(ROOT, FID, "file");
    open_as(FID, O_WRONLY | O_APPEND);
    walk_to(ROOT, NEW, "dir");
}

static uint32_t mkdir_in_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, NEW, "made");

    put(&at, MODE, 4);
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static uint32_t walk_other(uint8_t *body)
{
    return fill_walk(body, ROOT, OTHER, "file");
}

static uint32_t nothing_to_say(uint8_t *body)
{
    return 0;
}

/* Half of the packed ring's chains have gone before: it wraps around in the middle. */
static void both_and_two(void)
{
    both();
    exchange(LAST_SLOT);
    exchange(LAST_SLOT);
}

static const struct kind kinds[] = {
    {"one", a_file, both, {{P9_TMKDIR, mkdir_in_new}}},
    {"three at once",
     a_file,
     both,
     {{P9_TWRITE, write_more}, {P9_TMKDIR, mkdir_in_new}, {P9_TWALK, walk_other}}},
    {"three around the end",
     a_file,
     both_and_two,
     {{P9_TMKDIR, mkdir_in_new}, {P9_TWRITE, write_more}, {P9_TWALK, walk_other}}},
    {"Python's", NULL, NULL, {{AT_ONCE, nothing_to_say}}},
    {"flushed", a_file, both, {{P9_TMKDIR, mkdir_in_new}}, .flushed = true},
};

static void die_in_each(void)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        CHECK(!is_chosen(&kinds[i]) || !die_once(&kinds[i]));
}

TEST(requests_of_a_split_ring_are_answered_once)
{
    die_in_each();
}

TEST(requests_of_a_split_ring_with_event_idx_are_answered_once)
{
    layout = EVENT_IDX_RING;
    die_in_each();
}

TEST(requests_of_a_packed_ring_are_answered_once)
{
    layout = PACKED_RING;
    die_in_each();
}
