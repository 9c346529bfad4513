/*
 * key lock: a lock for each key that somebody uses, in this process.
 *
 * A key is two numbers, whatever they stand for. Whoever holds it holds up only those who want the
 * same one: so it may be held over system calls that hang. A waiting thread sleeps, which the
 * watchdog takes for what it is (server/workers.c). One thread may take two keys only at once.
 */
#ifndef V9_BASE_KEY_LOCK_H
#define V9_BASE_KEY_LOCK_H

#include <stdint.h>

struct v9_key {
    uint64_t a, b;
};
/* The `b` of an append to the file `a` (p9/io.c); less: a hash of a name in the directory `a`
 * (base/evidence.c). */
#define V9_KEY_APPEND (UINT64_C(1) << 32)

/* The caller's, until it is unlocked. */
struct v9_key_lock {
    struct v9_key key;
    struct v9_key_lock *next;
};

/* Waits until nobody holds any of so many keys, and takes them all. */
void v9_key_lock(struct v9_key_lock *locks, uint32_t count);
void v9_key_unlock(struct v9_key_lock *locks, uint32_t count);

#endif
