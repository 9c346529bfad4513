/*
 * commit: stores that a reader finds in the order of the program after its writer was killed.
 *
 * What outlives a process lies in shared memory, and the process may be killed between any two of
 * its instructions. Whoever rebuilds it (fid/recover.h) believes an entry only by its commit word,
 * which is written last. A CPU shows its own stores in order, also to who reads them after its
 * death; only the compiler may exchange them, and may not across V9_COMMIT.
 */
#ifndef V9_BASE_COMMIT_H
#define V9_BASE_COMMIT_H

/* All that was stored before is there if anything is that is stored after. */
#ifndef V9_POINTS
#define V9_COMMIT() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#else
/* A test that ends the process at each system call finds these points, too. */
#include <unistd.h>
#define V9_COMMIT() ((void)getppid())
#endif

#endif
