/*
 * Runs a workload over a ring and measures it.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "bench.h"

struct outcome {
    uint64_t ops, ns, p50, p99; /* the quantiles in ns per operation */
    uint64_t kicks, calls;      /* notifications: sent to the server, waited for from it */
};

/*
 * Begins a session of `protocol` over `ring` with MAX_LANES lanes. `ring` is null for a protocol
 * that makes its own system calls in `step`. `tree` is the directory that the server exports.
 */
void engine_open(const struct protocol *protocol, struct ring *ring, struct lane *lanes, int tree);

/* Does what `run` says. Calls engine_clock when the measured part starts and when it ends. */
struct outcome engine_run(void);
void engine_clock(bool starts);

#endif
