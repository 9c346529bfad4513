#define _GNU_SOURCE
#include "base/budget.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/proc.h"
#include "base/sightings.h"

enum {
    TABLE_MAX = 1 << 24, /* descriptors that are counted; the host may allow a billion */
    RESERVE_PART = 8,    /* of the limit, but */
    RESERVE_MIN = 32,
    RESERVE_MAX = 512,
    OWN = 16,        /* descriptors that the event loop has, */
    OWN_DEVICE = 14, /* and what a connection takes: its sockets, a message's, the ring's */
    FORCED_PART = 8, /* of the capacity: for guest memory, and what is never refused */
    SHARE_MIN = 16,  /* that requests can be served with */
};

/* `state`: descriptors held, and in the upper half those among them that are borrowed. */
static struct account {
    _Alignas(64) uint64_t state;
    bool taken;
} accounts[V9_ACCOUNTS_MAX + 1];

static struct {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    uint32_t devices;
    uint32_t capacity;            /* of all devices; 0: not known yet, nobody is refused */
    uint32_t share, pool, loaned; /* read without the lock */
} budget = {.lock = PTHREAD_MUTEX_INITIALIZER, .share = UINT32_MAX};

/* By number: the account that a descriptor counts to; 0: none. */
static uint16_t *owners;
static uint32_t owners_count;
_Static_assert(V9_ACCOUNTS_MAX < UINT16_MAX, "owners");

static _Thread_local struct v9_budget_charged charged;

/* ---- shares ---------------------------------------------------------------------------------- */

void v9_budget_set(uint32_t share, uint32_t pool)
{
    __atomic_store_n(&budget.share, share, __ATOMIC_RELAXED);
    __atomic_store_n(&budget.pool, pool, __ATOMIC_RELAXED);
}

/* The lock is held. */
static void divide(void)
{
    const uint32_t room = budget.capacity - budget.capacity / FORCED_PART;
    uint32_t share, divided;

    if (!budget.capacity || !budget.devices)
        return;
    divided = budget.devices == 1 ? room : budget.capacity / 2;
    share = divided / budget.devices;
    v9_budget_set(share < SHARE_MIN ? SHARE_MIN : share, room - divided);
}

static uint32_t count_open(void)
{
    char path[V9_PROC_PATH];
    uint32_t count = 0;
    DIR *all;

    v9_proc_fds(path);
    all = opendir(path);
    if (!all)
        return 0;
    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

/* What no request can have, beside what is open. */
static uint32_t set_aside(uint32_t devices, uint32_t limit)
{
    uint32_t reserve = limit / RESERVE_PART;

    reserve = reserve < RESERVE_MIN ? RESERVE_MIN : reserve > RESERVE_MAX ? RESERVE_MAX : reserve;
    return OWN + OWN_DEVICE * devices + reserve;
}

uint32_t v9_budget_needed(uint32_t devices, uint32_t limit)
{
    return count_open() + set_aside(devices, limit) + 2 * SHARE_MIN * devices;
}

int v9_budget_begin(void)
{
    const uint32_t own = count_open();
    uint32_t needed;

    if (!owners_count)
        return 0; /* no limit */
    pthread_mutex_lock(&budget.lock);
    needed = own + set_aside(budget.devices, owners_count);
    budget.capacity = owners_count > needed ? owners_count - needed : 1;
    divide();
    needed += 2 * SHARE_MIN * budget.devices;
    pthread_mutex_unlock(&budget.lock);
    return owners_count < needed ? (int)needed : 0;
}

void v9_budget_init(void)
{
    struct rlimit limit;
    void *table;

    if (owners || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    owners_count = limit.rlim_cur < TABLE_MAX ? (uint32_t)limit.rlim_cur : TABLE_MAX;
    table = mmap(NULL, owners_count * sizeof(*owners), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        owners_count = 0;
    else
        owners = table;
}

uint32_t v9_budget_share(void)
{
    return __atomic_load_n(&budget.share, __ATOMIC_RELAXED);
}

/* ---- accounts -------------------------------------------------------------------------------- */

int v9_budget_join(void)
{
    int number = 1;

    pthread_mutex_lock(&budget.lock);
    while (number <= V9_ACCOUNTS_MAX &&
           (accounts[number].taken || v9_budget_held((uint32_t)number)))
        number++;
    if (number <= V9_ACCOUNTS_MAX) {
        accounts[number].taken = true;
        budget.devices++;
        divide();
    } else {
        number = -ENOSPC;
    }
    pthread_mutex_unlock(&budget.lock);
    return number;
}

void v9_budget_leave(uint32_t account)
{
    pthread_mutex_lock(&budget.lock);
    accounts[account].taken = false;
    budget.devices--;
    divide();
    pthread_mutex_unlock(&budget.lock);
}

void v9_budget_charge(uint32_t account)
{
    charged = (struct v9_budget_charged){account, false};
}

struct v9_budget_charged v9_budget_force(uint32_t account)
{
    const struct v9_budget_charged before = charged;

    charged = (struct v9_budget_charged){account, true};
    return before;
}

uint32_t v9_budget_charged_account(void)
{
    return charged.account;
}

struct v9_budget_charged v9_budget_insist(void)
{
    return v9_budget_force(charged.account);
}

void v9_budget_restore(struct v9_budget_charged before)
{
    charged = before;
}

uint32_t v9_budget_held(uint32_t account)
{
    return (uint32_t)__atomic_load_n(&accounts[account].state, __ATOMIC_RELAXED);
}

bool v9_budget_is_ample(uint32_t account)
{
    return v9_budget_held(account) < v9_budget_share() / 2;
}

static bool borrow(void)
{
    const uint32_t loaned = __atomic_add_fetch(&budget.loaned, 1, __ATOMIC_RELAXED);

    if (loaned <= __atomic_load_n(&budget.pool, __ATOMIC_RELAXED))
        return true;
    __atomic_sub_fetch(&budget.loaned, 1, __ATOMIC_RELAXED);
    return false;
}

static void return_loan(bool loan)
{
    if (loan)
        __atomic_sub_fetch(&budget.loaned, 1, __ATOMIC_RELAXED);
}

/* Descriptors that are not borrowed: more than the share only by those that were not refused. */
static uint32_t owned(uint64_t state)
{
    return (uint32_t)state - (uint32_t)(state >> 32);
}

int v9_budget_take(void)
{
    uint64_t *const state = &accounts[charged.account].state;
    uint64_t now = __atomic_load_n(state, __ATOMIC_RELAXED), next;
    bool loan;

    if (!charged.account)
        return 0;
    do {
        loan = !charged.forced && owned(now) >= v9_budget_share();
        if (loan && !borrow())
            return -EMFILE;
        next = now + 1 + ((uint64_t)loan << 32);
        if (__atomic_compare_exchange_n(state, &now, next, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return 0;
        return_loan(loan);
    } while (true);
}

/* A descriptor of an account is gone. */
static void discharge(uint32_t account)
{
    uint64_t *const state = &accounts[account].state;
    uint64_t now = __atomic_load_n(state, __ATOMIC_RELAXED);
    bool loan;

    if (!account)
        return;
    do
        loan = now >> 32 && owned(now) <= v9_budget_share();
    while (!__atomic_compare_exchange_n(state, &now, now - 1 - ((uint64_t)loan << 32), true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return_loan(loan);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

/* Sets whose a descriptor is; whose it was. One beyond the table is nobody's. */
static uint32_t set_owner(int fd, uint32_t account)
{
    if (fd < 0 || (uint32_t)fd >= owners_count)
        return account;
    return __atomic_exchange_n(&owners[fd], (uint16_t)account, __ATOMIC_RELAXED);
}

int v9_budget_enter(int fd)
{
    const int err = errno;

    discharge(fd < 0 ? charged.account : set_owner(fd, charged.account));
    return fd < 0 ? -err : fd;
}

void v9_budget_adopt(int fd, uint32_t account)
{
    const struct v9_budget_charged before = v9_budget_force(account);

    if (fd >= 0 && v9_budget_take() == 0)
        discharge(set_owner(fd, account));
    v9_budget_restore(before);
}

void v9_budget_forget(int fd)
{
    discharge(set_owner(fd, 0));
}

/* Its number may be another one's as soon as it is closed. */
void v9_budget_close(int32_t fd)
{
    const uint32_t account = set_owner(fd, 0);

    v9_sightings_forget(fd);
    close(fd);
    discharge(account);
}
