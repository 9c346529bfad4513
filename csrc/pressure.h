/*
 * pressure: how many descriptors the process holds for its guests, and who gives some up.
 *
 * Every device's fid table is a holder. All count into one sum; where that passes the high-water
 * mark, which leaves some of RLIMIT_NOFILE to sockets, locks and requests in flight, the thread
 * that notices it has the holder with the most give a batch up. So devices share fairly, and
 * without pressure it costs one comparison.
 */
#ifndef V9_PRESSURE_H
#define V9_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

struct v9_holder {
    /* Gives up to `batch` descriptors up, of those that can be had again; how many. Called from
     * any thread, without locks. */
    uint32_t (*give_up)(struct v9_holder *holder, uint32_t batch);
    struct v9_holder *next;
    uint32_t users; /* threads in give_up or a visit */
    uint64_t visit; /* the last one that it had */
    int64_t held;   /* descriptors that it may be able to give up */
};

/* Reads the limit of open files that holds from now on. Not called: there is no pressure. */
void v9_pressure_init(void);
/* Sets the high-water mark itself. */
void v9_pressure_set_mark(int64_t mark);
void v9_pressure_join(struct v9_holder *holder);
/* With `wait` returns once no thread is in its give_up any more; without, the holder has to stay.
 */
void v9_pressure_leave(struct v9_holder *holder, bool wait);
/* Has every holder visited, without locks: none goes meanwhile. */
void v9_pressure_visit(void (*visit)(struct v9_holder *holder));

extern int64_t v9_pressure_held, v9_pressure_mark;

/* Counts descriptors opened or (negative) closed. `holder` NULL: nobody can give them up. */
static inline void v9_pressure_add(struct v9_holder *holder, int64_t count)
{
    __atomic_add_fetch(&v9_pressure_held, count, __ATOMIC_RELAXED);
    if (holder)
        __atomic_add_fetch(&holder->held, count, __ATOMIC_RELAXED);
}

/* Has descriptors given up; how many. */
uint32_t v9_pressure_relieve(void);
/* To be called without locks after descriptors were added. */
void v9_pressure_check_slowly(void);
static inline void v9_pressure_check(void)
{
    if (__atomic_load_n(&v9_pressure_held, __ATOMIC_RELAXED) >
        __atomic_load_n(&v9_pressure_mark, __ATOMIC_RELAXED))
        v9_pressure_check_slowly();
}
/* Whether a call that failed with errno value `error` may be tried once more, since it lacked a
 * descriptor and some were given up. `tries` counts, from 0. */
bool v9_pressure_eased(int error, uint32_t *tries);

#endif
