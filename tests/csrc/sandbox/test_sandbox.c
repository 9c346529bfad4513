// sources: base/fork.c base/proc.c sandbox/namespaces.c sandbox/root_directory.c
// sandbox/capabilities.c sandbox/landlock.c sandbox/system_calls.c
/*
 * Each part of the confinement by itself, in children. tests/sandbox shows that all of it together
 * lets nobody escape.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/proc.h"
#include "check.h"
#include "sandbox/api.h"

static int before_count, parent_count;

static void before(void)
{
    before_count++;
}

static void in_parent(void)
{
    parent_count++;
}

static void in_child(void)
{
    before_count += 10;
}

/* What `body` makes of a child: its exit code, or minus the signal that ended it. */
static int child(int (*body)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(body());
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Root for itself, so that the cases run as any user who may have a user namespace. */
static int be_root_of_namespaces(uint32_t more)
{
    return geteuid() == 0 ? v9_namespaces_unshare(more) : v9_namespaces_unshare(V9_NEW_USER | more);
}

static int namespaces_try(void)
{
    return be_root_of_namespaces(V9_NEW_MOUNTS) < 0;
}

static void need_namespaces(void)
{
    if (child(namespaces_try))
        SKIP("this host lets the user have no namespaces");
}

TEST(a_child_is_the_init_of_its_namespace)
{
    int status;
    pid_t pid;

    need_namespaces();
    pid =
        v9_namespaces_fork(V9_NEW_PID | (geteuid() ? V9_NEW_USER : 0), before, in_parent, in_child);
    if (pid == 0)
        _exit(getpid() == 1 && gettid() == 1 && before_count == 11 ? 7 : 1);
    CHECK(pid > 0 && before_count == 1 && parent_count == 1);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static char folder[] = "/tmp/v9-sandbox-XXXXXX", path[64];

static int see_mounts_only(void)
{
    const struct v9_sandbox_mount mounts[] = {{folder, "/a/b", 0}, {folder, "/c", 1}};
    const char *step;
    struct stat st;

    if (be_root_of_namespaces(V9_NEW_MOUNTS) < 0 || v9_root_pivot(mounts, 2, &step) < 0)
        return 1;
    if (stat("/a/b/file", &st) < 0 || stat("/c/file", &st) < 0 || stat("/proc/self/fd", &st) < 0)
        return 2;
    if (stat("/etc", &st) == 0 || stat("/a/b/../file", &st) == 0)
        return 3;
    if (open("/c/file", O_WRONLY) >= 0 || errno != EROFS || open("/a/b/file", O_WRONLY) < 0)
        return 4;
    return mkdir("/new", 0755) == 0 ? 5 : 0;
}

TEST(the_mounts_are_all_that_there_is)
{
    char file[64];

    need_namespaces();
    CHECK(mkdtemp(folder) != NULL);
    snprintf(file, sizeof(file), "%s/file", folder);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    CHECK(child(see_mounts_only) == 0);
    unlink(file);
    rmdir(folder);
}

static int in_new_root(void)
{
    const struct v9_sandbox_mount mounts[] = {{folder, "/a", 0}};
    const char *step;

    if (be_root_of_namespaces(V9_NEW_MOUNTS) < 0 || v9_root_pivot(mounts, 1, &step) != V9_PROC_OWN)
        return 1;
    raise(SIGSTOP);
    return 0;
}

/* One that was born into a pid namespace of its own, where another process has gone before. */
static int see_its_own_proc(void)
{
    char link[8] = "";
    struct stat st;
    int proc = v9_root_create_proc();

    if (getpid() != 1 || stat("/a/file", &st) < 0)
        return 1;
    if (proc < 0 || v9_root_replace_proc(proc) < 0 ||
        readlink("/proc/self", link, sizeof(link)) != 1)
        return 2;
    if (link[0] != '1' || open("/proc/self/comm", O_WRONLY) >= 0)
        return 3;
    proc = v9_root_create_proc();
    if (proc < 0 || umount2("/proc", MNT_DETACH) < 0)
        return 4;
    /* A process that is killed between both steps leaves none to the next one. */
    return v9_root_replace_proc(proc) == 0 && readlink("/proc/self", link, sizeof(link)) == 1 ? 0
                                                                                              : 5;
}

static int join_and_fork(int pidfd)
{
    int pid;

    if (v9_namespaces_join(pidfd, V9_NEW_MOUNTS | (geteuid() ? V9_NEW_USER : 0)) < 0)
        return 1;
    pid = v9_namespaces_fork(V9_NEW_PID | V9_AS_SIBLING, before, in_parent, in_child);
    if (pid == 0)
        _exit(see_its_own_proc());
    return pid < 0;
}

TEST(another_process_begins_where_one_has_entered)
{
    int pid, pidfd, between, status, first, second;

    need_namespaces();
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/file", folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    pid = fork();
    if (pid == 0)
        _exit(in_new_root());
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    if (!WIFSTOPPED(status))
        SKIP("this host lets the user have no /proc");
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    between = fork();
    if (between == 0)
        _exit(join_and_fork(pidfd));
    first = waitpid(between, &status, 0) == between && status == 0;
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid);
    second = wait(&status) > 0 && status == 0; /* it is a child of this process */
    CHECK(first && second);
    unlink(path);
    rmdir(folder);
}

static int name_what_lacks(void)
{
    const struct v9_sandbox_mount mounts[] = {{"/there/is/none", "/a", 0}};
    const char *step = "";

    if (be_root_of_namespaces(V9_NEW_MOUNTS) < 0)
        return 1;
    return v9_root_pivot(mounts, 1, &step) == -ENOENT && !strcmp(step, mounts[0].source) ? 0 : 2;
}

TEST(a_mount_that_fails_is_named)
{
    need_namespaces();
    CHECK(child(name_what_lacks) == 0);
}

static int change_root(void)
{
    char path[V9_PROC_PATH];
    struct stat st;

    if (geteuid() && v9_namespaces_unshare(V9_NEW_USER) < 0)
        return 1;
    if (v9_root_change("/usr") < 0 || stat("/usr", &st) == 0 || stat("/bin", &st) < 0)
        return 2;
    v9_proc_path(1, path);
    return strcmp(path, "self/fd/1") || stat(path, &st) < 0 ? 3 : 0;
}

TEST(a_changed_root_has_proc_as_the_current_directory)
{
    need_namespaces();
    CHECK(child(change_root) == 0);
}

static int drop_all_but_one(void)
{
    if (geteuid() && v9_namespaces_unshare(V9_NEW_USER) < 0)
        return 1;
    if (v9_caps_keep(1u << CAP_FOWNER) < 0 || v9_caps_effective() != 1u << CAP_FOWNER)
        return 2;
    if (prctl(PR_CAPBSET_READ, CAP_CHOWN) != 0 || prctl(PR_CAPBSET_READ, CAP_FOWNER) != 1)
        return 3;
    return prctl(PR_CAPBSET_DROP, CAP_FOWNER) < 0 ? 0 : 4;
}

TEST(capabilities_are_given_up)
{
    need_namespaces();
    CHECK(child(drop_all_but_one) == 0);
}

static int become_nobody(void)
{
    if (v9_caps_become(65534, 65533) < 0 || getuid() != 65534 || getegid() != 65533)
        return 1;
    if (!(v9_caps_effective() >> CAP_CHOWN & 1) || v9_caps_keep(1u << CAP_FOWNER) < 0)
        return 2;
    if (v9_caps_effective() != 1u << CAP_FOWNER)
        return 3;
    return prctl(PR_CAPBSET_READ, CAP_CHOWN) == 0 ? 0 : 4;
}

TEST(another_user_keeps_the_capabilities_until_they_are_given_up)
{
    if (geteuid())
        SKIP("needs root");
    CHECK(child(become_nobody) == 0);
}

static int forbid_gain(void)
{
    struct rlimit core;

    if (v9_caps_forbid_gain() < 0 || getrlimit(RLIMIT_CORE, &core) < 0)
        return 1;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && core.rlim_max <= 1 ? 0 : 2;
}

TEST(nothing_is_gained_and_no_core_is_dumped)
{
    CHECK(child(forbid_gain) == 0);
}

static int see_one_folder(void)
{
    const struct v9_landlock_path paths[] = {{"/usr", V9_LANDLOCK_READ}};

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_landlock(paths, 1) < 0)
        return 77;
    if (open("/usr", O_RDONLY) < 0)
        return 1;
    return open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 0 : 2;
}

static int list_all_folders(void)
{
    const struct v9_landlock_path paths[] = {{"/usr", V9_LANDLOCK_READ}, {"/", V9_LANDLOCK_LIST}};

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_landlock(paths, 2) < 0)
        return 77;
    if (open("/etc", O_RDONLY | O_DIRECTORY) < 0)
        return 1;
    return open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 0 : 2;
}

static int see_files_as_before(void)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_landlock(NULL, 0) < 0)
        return 77;
    return open("/etc/passwd", O_RDONLY) < 0;
}

TEST(landlock_leaves_one_folder)
{
    const int found = child(see_one_folder);

    if (found == 77)
        SKIP("the kernel has no Landlock");
    CHECK(found == 0 && child(list_all_folders) == 0 && child(see_files_as_before) == 0);
}

static int create_socket(void)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_syscalls_limit(V9_SYSCALLS_KILL) < 0)
        return 77;
    return socket(AF_UNIX, SOCK_STREAM, 0) < 0;
}

static int create_datagram_sockets(void)
{
    int pair[2];

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_syscalls_limit(V9_SYSCALLS_KILL) < 0)
        return 77;
    return socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0;
}

static int call_what_serving_takes(void)
{
    const int streams = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int pair[2];

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_syscalls_limit(V9_SYSCALLS_KILL) < 0)
        return 77;
    return open("/etc/passwd", O_RDONLY) < 0 || socketpair(AF_UNIX, streams, 0, pair) < 0;
}

static int create_socket_logged(void)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return v9_syscalls_limit(V9_SYSCALLS_LOG) < 0 || socket(AF_UNIX, SOCK_STREAM, 0) < 0;
}

static int call_a_future_one(void)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (v9_syscalls_limit(V9_SYSCALLS_KILL) < 0)
        return 1;
    return syscall(480) == -1 && errno == ENOSYS ? 0 : 2;
}

TEST(other_system_calls_end_the_process)
{
    if (v9_syscalls_load() < 0)
        SKIP("libseccomp is not installed");
    CHECK(child(create_socket) == -SIGSYS);
    CHECK(child(create_datagram_sockets) == -SIGSYS);
    CHECK(child(call_what_serving_takes) == 0);
    CHECK(child(create_socket_logged) == 0);
    CHECK(child(call_a_future_one) == 0);
}
