/*
 * seqcount: shows a reader, which takes no lock, whether something changed while it read.
 *
 * Several changes may go on at once. A reader begins with v9_seqcount_read_begin, reads, and starts
 * over where v9_seqcount_read_retry says so:
 *
 *     do {
 *         seq = v9_seqcount_read_begin(&count);
 *         ...
 *     } while (v9_seqcount_read_retry(&count, seq));
 */
#ifndef V9_BASE_SEQCOUNT_H
#define V9_BASE_SEQCOUNT_H

#include <stdbool.h>
#include <stdint.h>

struct v9_seqcount {
    uint32_t active, done; /* changes that go on; that have ended */
};

static inline void v9_seqcount_change(struct v9_seqcount *count, bool begin)
{
    if (begin) {
        __atomic_fetch_add(&count->active, 1, __ATOMIC_SEQ_CST);
        return;
    }
    __atomic_fetch_add(&count->done, 1, __ATOMIC_SEQ_CST); /* before active falls: no gap */
    __atomic_fetch_sub(&count->active, 1, __ATOMIC_SEQ_CST);
}

static inline uint32_t v9_seqcount_read_begin(const struct v9_seqcount *count)
{
    return __atomic_load_n(&count->done, __ATOMIC_SEQ_CST);
}

/* Whether a change goes on, or has gone on since v9_seqcount_read_begin returned `seq`. */
static inline bool v9_seqcount_read_retry(const struct v9_seqcount *count, uint32_t seq)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&count->active, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&count->done, __ATOMIC_SEQ_CST) != seq;
}

#endif
