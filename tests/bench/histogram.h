/*
 * Durations by their logarithm: 64 steps an octave, so that a quantile is right to 1.6 %; and
 * their mean.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <string.h>

enum { STEPS = 64, OCTAVES = 40 };

struct histogram {
    uint64_t count, sum, bins[STEPS * OCTAVES];
};

static inline void histogram_clear(struct histogram *all)
{
    memset(all, 0, sizeof(*all));
}

/* Durations below STEPS ns have a bin each; above, a bin is an octave's 64th. */
static inline void histogram_add(struct histogram *all, uint64_t ns)
{
    unsigned octave = ns < STEPS ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 5;
    uint64_t bin = octave ? STEPS * octave + (ns >> (octave - 1)) - STEPS : ns;

    if (bin >= STEPS * OCTAVES)
        bin = STEPS * OCTAVES - 1;
    all->bins[bin]++;
    all->count++;
    all->sum += ns;
}

static inline uint64_t histogram_mean(const struct histogram *all)
{
    return all->count ? all->sum / all->count : 0;
}

/* The duration in ns that `share` of all do not exceed. */
static inline uint64_t histogram_quantile(const struct histogram *all, double share)
{
    uint64_t seen = 0, bin;

    for (bin = 0; bin + 1 < STEPS * OCTAVES; bin++) {
        seen += all->bins[bin];
        if ((double)seen >= share * (double)all->count)
            break;
    }
    return bin < STEPS ? bin : (bin % STEPS + STEPS) << (bin / STEPS - 1);
}

#endif
