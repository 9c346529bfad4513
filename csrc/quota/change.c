#include "quota/change.h"

#include <string.h>

#include "quota/quota.h"

int v9_quota_change_begin(v9_quota *q, struct v9_quota_change *change)
{
    int account, err = v9_quota_begin(q, change->bytes, change->inodes);

    if (err)
        return err;
    memset(change->accounts, 0, sizeof(change->accounts));
    memset(change->gone, 0, sizeof(change->gone));
    for (int i = 0; i < V9_QUOTA_FILES; i++) {
        if (change->fds[i] < 0)
            continue;
        account = v9_quota_hold_file(q, change->fds[i], false);
        if (account < 0) {
            v9_quota_change_end(q, change);
            return account;
        }
        change->accounts[i] = (uint32_t)account;
    }
    return 0;
}

void v9_quota_change_end(v9_quota *q, const struct v9_quota_change *change)
{
    for (int i = 0; i < V9_QUOTA_FILES; i++) {
        if (!change->accounts[i])
            continue;
        v9_quota_settle(q, change->accounts[i], change->fds[i], change->gone[i]);
        v9_quota_release(q, change->accounts[i]);
    }
    v9_quota_end(q, change->bytes, change->inodes);
}

int v9_quota_count_new(v9_quota *q, int32_t fd)
{
    const int account = v9_quota_hold_file(q, fd, true);

    if (account < 0)
        return account;
    v9_quota_settle(q, (uint32_t)account, fd, false);
    v9_quota_release(q, (uint32_t)account);
    return 0;
}
