#include "fid/deferred.h"

#include "base/budget.h"
#include "fid/sweeper.h"
#include "quota/quota.h"

void v9_deferred_finish(const struct v9_deferred *deferred)
{
    for (uint32_t i = 0; i < deferred->fd_count; i++)
        v9_budget_close(deferred->fds[i]);
    /* Last: a file's blocks may change when what it was written by is closed. */
    for (uint32_t i = 0; i < deferred->account_count; i++) {
        const struct v9_deferred_account *account = &deferred->accounts[i];
        if (account->path_fd >= 0) {
            v9_quota_close(account->quota, account->number, account->path_fd);
            v9_budget_close(account->path_fd);
        }
        v9_quota_release(account->quota, account->number);
    }
    v9_xattr_value_free(deferred->value);
    if (deferred->cached)
        v9_sweeper_wake();
}
