// sources: base/ctime.c
/*
 * When a ctime counts: long past, by the precision that it has.
 */
#define _GNU_SOURCE
#include "base/ctime.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

#define S 1000000000ll

static uint64_t settled(int64_t ctime, int64_t now)
{
    const struct v9_attr attr = {.ctime_sec = (uint64_t)(ctime / S),
                                 .ctime_nsec = (uint64_t)(ctime % S)};
    return v9_ctime_settled(&attr, now);
}

TEST(a_recent_ctime_may_hide_a_second_change)
{
    CHECK(settled(10 * S + 1, 10 * S + 1) == 0);
    CHECK(settled(10 * S + 1, 10 * S + 40000000) == 0);
    CHECK(settled(10 * S + 1, 10 * S + 60000000) == 10 * S + 1);
}

TEST(whole_seconds_take_longer)
{
    CHECK(settled(10 * S, 11 * S) == 0 && settled(10 * S, 12 * S) == 10 * S);
}

TEST(a_ctime_in_the_future_or_of_no_time_never_counts)
{
    CHECK(settled(20 * S + 1, 10 * S) == 0 && settled(0, 100 * S) == 0);
}

TEST(only_known_file_systems_are_reliable)
{
    const int tmpfs = memfd_create("file", MFD_CLOEXEC), proc = open("/proc/self", O_PATH);

    CHECK(v9_ctime_is_reliable(tmpfs) && !v9_ctime_is_reliable(proc) && !v9_ctime_is_reliable(-1));
    CHECK(v9_ctime_shows_renames(tmpfs) && !v9_ctime_shows_renames(proc));
    CHECK(!v9_ctime_shows_renames(-1) && v9_ctime_now() > 1600000000 * S);
    close(tmpfs);
    close(proc);
}
