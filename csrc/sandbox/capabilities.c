/*
 * capabilities: what is left of root's rights (capabilities(7)).
 *
 * A capability that is out of the bounding set cannot come back: by a program with capabilities of
 * its own, or by one that root executes. The secure bits end root's special role for good; those
 * for setfsuid stay as they are, since files are created as the guest's user
 * (export/credentials.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/api.h"

static int read_caps(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return syscall(SYS_capget, &header, data) < 0 ? -errno : 0;
}

static bool has(const struct __user_cap_data_struct data[2], unsigned capability)
{
    return data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

uint64_t v9_caps_effective(void)
{
    struct __user_cap_data_struct data[2];

    return read_caps(data) < 0 ? 0 : (uint64_t)data[1].effective << 32 | data[0].effective;
}

static int drop_bounding(uint64_t kept)
{
    for (unsigned each = 0; prctl(PR_CAPBSET_READ, each, 0, 0, 0) >= 0; each++)
        if (!(kept >> each & 1) && prctl(PR_CAPBSET_DROP, each, 0, 0, 0) < 0)
            return -errno;
    return 0;
}

static int set_secure_bits(void)
{
    const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                               SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED;

    return prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0 ? -errno : 0;
}

int v9_caps_keep(uint64_t kept)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    int err = read_caps(data);

    /* A user namespace may forbid it (user_namespaces(7)). */
    if (!err && has(data, CAP_SETGID) && setgroups(0, NULL) < 0 && errno != EPERM)
        err = -errno;
    if (!err && has(data, CAP_SETPCAP))
        err = drop_bounding(kept);
    if (!err && has(data, CAP_SETPCAP))
        err = set_secure_bits();
    if (!err && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        err = -errno;
    if (err)
        return err;
    for (int i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(kept >> 32 * i);
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int v9_caps_become(uint32_t uid, uint32_t gid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    int err;

    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(uid, uid, uid) < 0)
        return -errno;
    err = read_caps(data);
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted;
    return err ? err : syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* An ordinary user's process stays open to its own /proc (the watchdog reads there). With a limit
 * of 1 the kernel starts no program that takes cores either (core(5)), other than with 0. */
int v9_caps_forbid_gain(void)
{
    const struct rlimit no_core = {1, 1};
    struct rlimit now;

    if (getrlimit(RLIMIT_CORE, &now) < 0)
        return -errno;
    if (now.rlim_max && setrlimit(RLIMIT_CORE, &no_core) < 0)
        return -errno;
    if (geteuid() == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}
