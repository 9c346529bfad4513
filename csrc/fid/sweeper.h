/*
 * sweeper: the clock by which cached inodes expire, and the thread that closes them.
 *
 * The process has one sweeper for all fid tables. It ticks every 200 ms and calls each table's
 * `expire` (base/shrinker.h); it sleeps while no table has anything cached.
 */
#ifndef V9_FID_SWEEPER_H
#define V9_FID_SWEEPER_H

#include <stdbool.h>
#include <stdint.h>

enum { V9_GRACE_TICKS = 4 }; /* that an inode stays cached, beside the one in which it began */

/* Starts the thread unless it runs; whether it runs. */
bool v9_sweeper_start(void);
/* The time in ticks. */
uint32_t v9_sweeper_now(void);
/* Wakes the thread after an inode was cached. The caller holds no lock. */
void v9_sweeper_wake(void);

#endif
