/*
 * Workers of a device, which this process clones as their keeper, and which share its descriptors.
 */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include "fid/evict.h"
#include "request/state.h"
#include "server/served.h"
#include "server/usage.h"

enum { OTHER = 3, NOBODY = 65534 }; /* the fid of the second export's root; a user */

static uint32_t model = V9_MODEL_HOST;
static bool unprivileged, two_exports, no_sweep, dialect_u;
static bool tries;                       /* deaths are faults, and suspects are tried */
static void (*spoil_recovered)(void);    /* done to the memory of a dead worker */
static void (*configure)(v9_export *ex); /* done to an export before it is served */
static pid_t worker_pid;
static int ready_fd, go_fd, command_fd, keeper_fds[16];

static inline void nothing(void)
{
}

/* The keeper's own, of its worker, whose number the worker does not know. */
static inline bool is_pidfd(const char *number)
{
    char path[300], target[64] = "";

    snprintf(path, sizeof(path), "/proc/self/fd/%s", number);
    return readlink(path, target, sizeof(target) - 1) > 0 && !strcmp(target, "anon_inode:[pidfd]");
}

/* What the requests have created, but for what the device has or the keeper. */
static inline void adopt_orphans(void)
{
    enum { KEPT = sizeof(keeper_fds) / sizeof(*keeper_fds) };
    int32_t owned[256];
    const uint32_t count = v9_device_descriptors(dev, owned + KEPT, 256 - KEPT);

    CHECK(count <= 256 - KEPT);
    memcpy(owned, keeper_fds, sizeof(keeper_fds));
    v9_device_adopt_orphans(dev, owned, KEPT + count);
}

static inline void sweep(void)
{
    int32_t owned[256];
    const uint32_t count = v9_device_descriptors(dev, owned, 256);
    DIR *all = opendir("/proc/self/fd");
    const struct dirent *entry;

    while ((entry = readdir(all))) {
        const int fd = atoi(entry->d_name);
        bool keeps = fd <= 2 || fd == dirfd(all) || is_pidfd(entry->d_name);
        for (uint32_t i = 0; i < count && i < 256; i++)
            keeps = keeps || owned[i] == fd;
        for (size_t i = 0; i < sizeof(keeper_fds) / sizeof(*keeper_fds); i++)
            keeps = keeps || keeper_fds[i] == fd;
        if (!keeps)
            close(fd);
    }
    closedir(all);
}

/* Gives up every descriptor that can be opened again. */
static inline void evict_all(void)
{
    while (v9_evict_ops.evict(&dev->fids.shrinker, 16))
        ;
    v9_evict_ops.evict(&dev->fids.shrinker, 16); /* what was used lately is not any more */
    while (v9_evict_ops.evict(&dev->fids.shrinker, 16))
        ;
}

static inline void open_export(uint32_t index, const char *name)
{
    struct v9_export_conf export_conf = {
        .stat_entries = true, .model = model, .fmode = 0600, .dmode = 0700};
    struct v9_attr attr;
    v9_export *opened;
    int32_t err;

    export_conf.root_fd = open(host(name), O_PATH | O_CLOEXEC);
    opened = v9_export_new(&export_conf, qidmap, &err);
    close(export_conf.root_fd);
    if (opened && v9_attr_read(opened, opened->conf.root_fd, "", &attr) == -V9_NO_DEVICE)
        v9_qidmap_set_device(qidmap, attr.st_dev, attr.mnt_id, STAT_DEVICE, V9_DEV_IDENTITY);
    if (opened && with_quota)
        limit(opened);
    if (opened && configure)
        configure(opened);
    if (!opened || v9_device_set_export(dev, index, opened))
        _exit(4);
}

/* The guest's root, or the one of the second export. */
static inline void attach(uint32_t number, uint32_t index, const char *name)
{
    const int fd = open(host(name), O_PATH | O_CLOEXEC);
    struct v9_attr attr;
    uint64_t handle;

    CHECK(v9_attr_read(dev->exports[index], fd, "", &attr) == 0);
    CHECK(v9_fid_add(dev, number, fd, index, geteuid(), &attr, &handle) == 0);
}

static inline void start_ring_of_layout(void)
{
    set_up_ring(layout == PACKED_RING      ? 1ull << V9_FEATURE_PACKED
                : layout == EVENT_IDX_RING ? 1ull << V9_FEATURE_EVENT_IDX
                                           : 0);
    start_ring(kick_fd);
}

/* A device that has not been served yet, or whose state is lost. */
static inline void begin_session(void)
{
    v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd);
    if (dialect_u)
        v9_device_set_dialect(dev, V9_9P2000U);
    start_ring_of_layout();
    attach(ROOT, 0, "");
    if (two_exports)
        attach(OTHER, 1, "second");
}

/* The frontend begins anew, on command. */
static inline void serve_commands(void)
{
    while (true) {
        wait_for(command_fd);
        v9_device_reset(dev, 0);
        begin_session();
        notify(ready_fd);
    }
}

static inline void be_worker(bool waits)
{
    int recovered;

    if (unprivileged && (seteuid(NOBODY) || prctl(PR_SET_DUMPABLE, 1)))
        _exit(5);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (waits)
        wait_for(go_fd);
    python_calls = evict_all;
    v9_init();
    conf.awaits_start = tries;
    v9_device_blame(dev, conf.max_fids, tries ? V9_BLAME_ONE : V9_BLAME_NOBODY);
    recovered = v9_device_recover(dev, conf.max_fids);
    if (recovered > 0)
        adopt_orphans();
    if (recovered && spoil_recovered)
        spoil_recovered();
    if (recovered && !no_sweep)
        sweep();
    qidmap = v9_qidmap_new();
    if (recovered < 0 || v9_device_start(dev, &conf))
        _exit(3);
    if (two_exports)
        open_export(1, "second");
    open_export(0, ""); /* the device serves from now on, unless it tries suspects first */
    if (tries) {
        v9_device_try_suspects(dev);
        v9_device_begin(dev);
    }
    if (!recovered)
        begin_session();
    notify(ready_fd);
    serve_commands();
}

static inline void clone_worker(bool waits)
{
    int32_t pidfd;

    while (poll(&(struct pollfd){ready_fd, POLLIN, 0}, 1, 0) == 1)
        wait_for(ready_fd); /* its predecessor was ready when it died */
    worker_pid = v9_process_clone(nothing, nothing, nothing, &pidfd);
    if (!worker_pid)
        be_worker(waits);
    close(pidfd);
}

static inline void start_worker(void)
{
    clone_worker(false);
    wait_for(ready_fd);
}

static inline void kill_worker(void)
{
    kill(worker_pid, SIGKILL);
    while (waitpid(-1, NULL, __WALL) != worker_pid) /* its traced threads end before it */
        ;
}

#endif
