/*
 * Runs a workload over a ring and measures it.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "bench.h"

struct outcome {
    uint64_t ops, ns;
    uint64_t mean, p50, p99; /* latency of an operation in ns */
    uint64_t kicks, calls;   /* notifications: sent to the server, waited for from it */
    int refused;             /* the errno by which the server said that it cannot do this, or 0 */
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
