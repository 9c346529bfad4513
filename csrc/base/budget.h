/*
 * budget: how many descriptors each device may hold, and who counts them.
 *
 * Every descriptor that is opened for a device, of whatever class and however briefly, is counted
 * here when it is opened and when it is closed. Each device has an account. A thread that works for
 * the device charges what it opens to that; account 0 is the process itself, which is never
 * refused.
 *
 * The capacity is RLIMIT_NOFILE, less what the process has open itself and a reserve. An eighth of
 * it is for guest memory, and for what is counted but never refused. A single device has the rest
 * as its share. Several devices divide half of the capacity, and none ever gets any of another's
 * share. The other half is a pool: beyond its share a device borrows from it, and what it closes
 * goes back to the pool first. Loans are not called in: a file that could be evicted when it was
 * opened may lose its name later, and then it cannot. That is why shares are never lent. A device
 * gets EMFILE when its share is used up, the pool is empty and nothing can be evicted
 * (base/shrinker.h); no other device notices.
 *
 * A descriptor that is closed without v9_budget_close counts until its number is opened again.
 *
 * Lock-free. Counts are exact: an account is one atomic word.
 */
#ifndef V9_BASE_BUDGET_H
#define V9_BASE_BUDGET_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/api.h"

enum { V9_ACCOUNTS_MAX = 1024 };

/* Before the first descriptor: how many there may be. Not called: nothing is counted. */
void v9_budget_init(void);

/* Opens an account; its number, at least 1, or -ENOSPC. */
int v9_budget_join(void);
/* Closes it; what it still holds goes on to count. */
void v9_budget_leave(uint32_t account);
/* Sets share and pool themselves; UINT32_MAX: no limit. For tests. */
void v9_budget_set(uint32_t share, uint32_t pool);
/* What the calling thread opens from now on counts to this account: v9_device_account, or 0, the
 * process's own. */
void v9_budget_charge(uint32_t account);
/* What the calling thread opens until v9_budget_restore is charged to this account and never
 * refused: evicting something of it takes that. */
struct v9_budget_charged {
    uint32_t account;
    bool forced;
};
struct v9_budget_charged v9_budget_force(uint32_t account);
/* The same for its present account: for one descriptor, for a moment, that must not be refused. */
struct v9_budget_charged v9_budget_insist(void);
void v9_budget_restore(struct v9_budget_charged before);

/* Which account the calling thread charges. */
uint32_t v9_budget_charged_account(void);

/* Makes room for one more descriptor of the calling thread's account: 0 or -EMFILE. */
int v9_budget_take(void);
/* Enters the descriptor that room was made for; fd -1: the call failed, with errno. Returns the
 * descriptor or -errno. */
int v9_budget_enter(int fd);
/* An open descriptor counts to this account from now on. */
void v9_budget_adopt(int fd, uint32_t account);
/* The descriptor counts no more; it is closed by another call (closedir(3)). */
void v9_budget_forget(int fd);

/* Whether a result of -errno means that there was no descriptor, not that there is no such file. */
static inline bool v9_budget_lacks(int result)
{
    return result == -EMFILE || result == -ENFILE;
}

/* How many descriptors an account holds. */
uint32_t v9_budget_held(uint32_t account);
/* Whether less than half of its share is in use. */
bool v9_budget_is_ample(uint32_t account);

#endif
