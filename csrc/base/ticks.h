/*
 * ticks: a clock that costs next to nothing, for how long a look at a name is believed.
 *
 * Where the CPU's own counter is at hand it will do, being read in no time: they run at 1 to 5 GHz.
 * One that jumps ends a belief.
 */
#ifndef V9_BASE_TICKS_H
#define V9_BASE_TICKS_H

#include <stdint.h>
#include <time.h>

/* V9_TICKS: some 50 µs. */
#if defined(__x86_64__)
enum { V9_TICKS = 120000 };
static inline uint64_t v9_ticks_now(void)
{
    return __builtin_ia32_rdtsc();
}
#else
enum { V9_TICKS = 50000 };
static inline uint64_t v9_ticks_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif

#endif
