/*
 * Credentials, switched within the process.
 *
 * The raw system calls change the calling thread alone and there is only one. The saved user id
 * stays 0, which keeps the permitted capabilities while another user acts: the way back is one
 * call, and the kernel then raises the effective set again (capabilities(7), "Effect of user ID
 * changes on capabilities").
 */
#include "posix.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define KEEP ((uid_t) - 1)

static bool switched;

bool privileged(void)
{
    static const int needed[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                                 CAP_SETUID, CAP_SETGID,       CAP_MKNOD};
    static int known = -1;
    if (known >= 0)
        return known;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    known = geteuid() == 0 && syscall(SYS_capget, &header, data) == 0;
    for (size_t i = 0; i < COUNT(needed); i++)
        if (!(data[CAP_TO_INDEX(needed[i])].effective & CAP_TO_MASK(needed[i])))
            known = 0;
    return known;
}

void need_privileges(void)
{
    if (!privileged())
        skip("needs root");
}

/* A failure here is one of the machine, not of the file system: the case must not go on. */
static void must(long result)
{
    if (result < 0) {
        perror("posix: cannot switch credentials");
        _exit(2);
    }
}

static void become(uid_t real, uid_t uid, gid_t gid, size_t count, const gid_t *groups)
{
    need_privileges();
    must(syscall(SYS_setresuid, KEEP, 0, KEEP));
    must(syscall(SYS_setgroups, count, groups));
    must(syscall(SYS_setresgid, real ? gid : 0, gid, 0));
    must(syscall(SYS_setresuid, real, uid, 0));
    /* A change of user hides /proc/self from that user; the cases look there. */
    must(prctl(PR_SET_DUMPABLE, 1));
    switched = true;
}

void as(uid_t uid, gid_t gid)
{
    become(uid, uid, gid, 0, NULL);
}

void as_member(uid_t uid, gid_t gid, gid_t group)
{
    become(uid, uid, gid, 1, &group);
}

void as_effective(uid_t uid, gid_t gid)
{
    become(0, uid, gid, 0, NULL);
}

void as_self(void)
{
    if (!switched)
        return;
    become(0, 0, 0, 0, NULL);
    switched = false;
}
