/*
 * A device whose process is killed at any point of its requests, and whose successors go on.
 *
 * This process is keeper and driver: it has the device's memory and the guest's, and clones workers
 * that share its descriptors. While a worker runs requests, its threads are stopped at each system
 * call, before and after it, and at each V9_COMMIT, which is one in the build for these tests. At
 * one of these points the worker is killed. Its successor may be killed as well, at a point of the
 * recovery or of the requests. The last one answers; then replies, used ring, files, descriptors
 * and fids have to be those of a run without a death. Each run takes place in a process of its own.
 */
#ifndef SERVER_RESTART_H
#define SERVER_RESTART_H

#include "server/outcome.h"
#include "server/stops.h"
#include "server/worker.h"

enum { AT_ONCE_MAX = 3, DEATHS_MAX = 2, TO_THE_END = STOPS_MAX };
enum { FID = 1, NEW = 2 }; /* numbers of fids, beside ROOT and OTHER */
enum { FLUSH_SLOT = 1, LAST_SLOT = 3, VALUES_LOOKED_AT = 1 << 16 };

/* A kind of requests: what the host has before them, the requests before them, and those that are
 * in flight together. */
struct kind {
    const char *name;
    void (*host)(void);
    void (*before)(void);
    struct {
        uint8_t type;
        uint32_t (*fill)(uint8_t *body); /* returns the size of the body */
    } requests[AT_ONCE_MAX];
    void (*after)(void); /* tries what they have led to */
    bool flushed;        /* a Tflush of the first one follows when its process is about to die */
    bool unlisted;       /* the host's files are looked at by themselves */
};

#define COUNT(kinds) (sizeof(kinds) / sizeof(*(kinds)))

/* At which point each worker dies; those before the last one go on to the next. */
struct fate {
    int deaths, points[DEATHS_MAX];
};

/* Of so many points that are new a worker dies at one, at another one from kind to kind;
 * EVERYWHERE: at all, also where nothing has changed since the one before. */
enum { EVERYWHERE = 0, SOME = 3 };
static uint32_t one_in = 1;

static void (*spoil)(void); /* done to the memory of a dead worker, before its successor looks */

/* ---- points ---------------------------------------------------------------------------------- */

static inline bool waits(pid_t tid)
{
    char path[64], text[64] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", worker_pid, tid);
    file = fopen(path, "r");
    if (file && !fgets(text, sizeof(text), file))
        text[0] = 0;
    if (file)
        fclose(file);
    return atoi(text) == SYS_epoll_wait;
}

/* The serving thread that waits for requests. */
static inline pid_t find_server(void)
{
    char path[64];
    pid_t found = 0;

    snprintf(path, sizeof(path), "/proc/%d/task", worker_pid);
    while (!found) {
        DIR *all = opendir(path);
        const struct dirent *entry;
        while ((entry = readdir(all)))
            if (waits(atoi(entry->d_name)))
                found = atoi(entry->d_name);
        closedir(all);
    }
    return found;
}

/* Another thread takes a Tflush, unless the one that is stopped has the lock. */
static inline void flush(void)
{
    const uint16_t tag = 0;
    bool taken = false;

    send_body(FLUSH_SLOT, P9_TFLUSH, &tag, sizeof(tag));
    for (int i = 0; !taken && i < 10; i++) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        for (uint32_t slot = 0; slot < dev->slots_used; slot++)
            taken = taken || dev->slots[slot].state == V9_FLUSHING;
    }
}

/* Kills the worker that is watched, at a point, or once all is answered and it waits for more. */
static inline void kill_at(const struct kind *kind, int point, uint16_t answered)
{
    struct stops *stops = &outcome->stops;
    const uint64_t round = dev->watchdog_round;
    struct ptrace_syscall_info info;
    long call;
    pid_t tid;

    stops->count = 0;
    while ((tid = next_stop(worker_pid, &info, &call))) {
        /* On a slow machine the watchdog finds that the watched thread hangs, and takes over. */
        const bool done = count_used() == answered || dev->watchdog_round != round;
        if (call == SYS_futex && !done) {
            ptrace(PTRACE_DETACH, tid, NULL, NULL); /* the watchdog */
            continue;
        }
        note_stop(stops, &info, call);
        if (getenv("V9_TRACE"))
            fprintf(stderr, "[%u: %ld%s]", stops->count - 1, call,
                    stops->is_new[stops->count - 1] ? "*" : "");
        if (stops->count > (uint32_t)point || (is_idle(&info) && done)) {
            if (kind->flushed)
                flush();
            kill_worker();
            return;
        }
        go_on(tid, 0);
    }
    CHECK(!"the worker ended by itself");
}

/* ---- a run ----------------------------------------------------------------------------------- */

/* The device, in memory that is known to be all zero where it was never used. */
static inline void keep_device(void)
{
    const uint64_t size = v9_device_size(conf.max_fids);
    void *map;

    kept.fd = memfd_create("device", MFD_CLOEXEC);
    CHECK(ftruncate(kept.fd, (off_t)size) == 0);
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, kept.fd, 0);
    CHECK(map != MAP_FAILED);
    kept.map = map;
    dev = v9_device_at(map, conf.max_fids);
}

static inline void set_up(const struct kind *kind)
{
    alarm(10);
    host_begins();
    CHECK(chmod(top, 0777) == 0);
    if (two_exports)
        host_makes_directory("second");
    if (kind->host)
        kind->host();
    kick_fd = eventfd(0, EFD_CLOEXEC);
    call_fd = eventfd(0, EFD_CLOEXEC);
    waits_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    ready_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    go_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    command_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    create_memory();
    keep_device();
    memcpy(keeper_fds,
           (int[16]){kick_fd, call_fd, ready_fd, memory_fd, waits_fd, go_fd, command_fd, kept.fd,
                     begin_usage()},
           sizeof(keeper_fds));
    start_worker();
    if (kind->before)
        kind->before();
    /* But for the threads' own, which no successor looks at. */
    areas[0] = (struct area){dev, &dev->lock};
    areas[1] = (struct area){&dev->mem, &dev->epoll_fd};
    areas[2] = (struct area){dev->slots, dev->slots + V9_SLOTS};
    areas[3] = (struct area){dev->fids.map, dev->fids.values.arena.base + VALUES_LOOKED_AT};
}

/* Sends what the kind is about; returns how many requests have been answered when these are. */
static inline uint16_t send_requests(const struct kind *kind)
{
    uint16_t answered = count_used(), slot = 0;
    uint8_t body[ROOM];

    for (; slot < AT_ONCE_MAX && kind->requests[slot].type; slot++, answered++)
        send_body(slot, kind->requests[slot].type, body, kind->requests[slot].fill(body));
    return answered;
}

/* The descriptors that the last worker has left. */
static inline uint32_t count_descriptors(void)
{
    kill_worker();
    start_worker();
    kill_worker();
    return descriptors() - metadata_files();
}

/* The usage, and what is left of it once the fids are gone, with files that have no name. */
static inline void add_usage(void)
{
    const uint32_t fids[] = {FID, NEW};

    add_text("%jd bytes in %jd inodes\n", (intmax_t)usage->bytes, (intmax_t)usage->inodes);
    for (int i = 0; i < 2; i++)
        ask(P9_TCLUNK, &fids[i], sizeof(fids[i]));
    add_text("then %jd bytes in %jd inodes\n", (intmax_t)usage->bytes, (intmax_t)usage->inodes);
}

static inline void describe_all(const struct kind *kind, uint16_t answered, uint16_t before)
{
    add_replies(before, answered);
    if (kind->after)
        kind->after();
    if (kind->flushed)
        add_text("at the end %u\n", used_slot((uint16_t)(answered - 1)));
    exchange(LAST_SLOT);
    add_text("fids %u live %u, %u of lost writes\n", dev->fids.count, dev->fids.live, losses());
    if (!kind->unlisted)
        nftw(top, describe, 16, FTW_PHYS);
    dev->dialect = V9_9P2000L; /* of the probes */
    probe(ROOT);
    probe(FID);
    probe(NEW);
    if (two_exports)
        probe(OTHER);
    if (with_quota)
        add_usage();
    add_text("%u descriptors\n", count_descriptors());
}

static inline void die(const struct kind *kind, const struct fate *fate, uint16_t answered)
{
    kill_at(kind, fate->points[0], answered);
    for (int i = 1; i < fate->deaths; i++) {
        clone_worker(true);
        watch(worker_pid);
        notify(go_fd);
        go_on(worker_pid, 0);
        kill_at(kind, fate->points[i], answered);
    }
    if (spoil)
        spoil();
    start_worker();
}

static inline void run_here(const struct kind *kind, const struct fate *fate)
{
    uint16_t answered, before;

    set_up(kind);
    before = count_used();
    if (fate->deaths) {
        const pid_t tid = find_server();
        watch(tid);
        answered = send_requests(kind);
        go_on(tid, 0);
        die(kind, fate, answered);
    } else {
        answered = send_requests(kind);
        wait_for_used(answered);
        if (kind->flushed)
            flush();
    }
    answered = (uint16_t)(answered + kind->flushed);
    wait_for_used(answered);
    describe_all(kind, answered, before);
    host_ends();
}

/* Runs in a process of its own; whether that went well. Its outcome is in `outcome`. */
static inline bool run_apart(void (*body)(const struct kind *, const struct fate *),
                             const struct kind *kind, const struct fate *fate)
{
    int status = -1;
    pid_t child;

    if (!outcome)
        outcome =
            mmap(NULL, sizeof(*outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(outcome, 0, sizeof(*outcome));
    child = fork();
    if (child == 0) {
        checks_failed = 0;
        body(kind, fate);
        _exit(checks_failed != 0);
    }
    waitpid(child, &status, 0);
    if (status)
        fprintf(stderr, "%s: status %x\n", kind->name, status);
    return status == 0;
}

/* Whether something that a restart rests on is missing on purpose. */
static inline bool is_spoilt(void)
{
    return spoil || spoil_recovered || no_sweep;
}

/* Whether a run ends as expected. */
static inline bool ends_as(const struct kind *kind, const struct fate *fate, const char *expected)
{
    const bool same = run_apart(run_here, kind, fate) && !strcmp(outcome->text, expected);

    if (!same && (!is_spoilt() || getenv("V9_SHOW")))
        fprintf(stderr, "%s, killed %d times, at %d and %d:\n%s--- instead of\n%s", kind->name,
                fate->deaths, fate->points[0], fate->points[1], outcome->text, expected);
    return same;
}

/* Runs a kind without a death, for what is expected; false if that goes wrong. */
static inline bool expect(const struct kind *kind, char expected[OUTCOME])
{
    const bool ran = run_apart(run_here, kind, &(struct fate){0, {0, 0}});

    memcpy(expected, outcome->text, OUTCOME);
    if (getenv("V9_SHOW"))
        fprintf(stderr, "%s:\n%s", kind->name, expected);
    return ran;
}

/* Whether kinds are looked at by the environment variable V9_KIND; those of tests all are. */
static inline bool is_chosen(const struct kind *kind)
{
    const char *only = getenv("V9_KIND");

    return !only || !strcmp(only, kind->name);
}

/* Whether it is the turn of a point (`one_in`). */
static inline bool is_tried(const struct stops *stops, uint32_t point)
{
    static uint32_t turn;

    return one_in == EVERYWHERE || (stops->is_new[point] && turn++ % one_in == 0);
}

/* Has the worker die at one point after the other; how many runs went wrong. */
static inline uint32_t die_once(const struct kind *kind)
{
    struct fate fate = {1, {TO_THE_END, 0}};
    char expected[OUTCOME];
    struct stops stops;
    uint32_t wrong;

    if (!expect(kind, expected))
        return 1;
    wrong = !ends_as(kind, &fate, expected);
    stops = outcome->stops;
    for (uint32_t point = 0; point + 1 < stops.count; point++) {
        fate.points[0] = (int)point;
        if (is_tried(&stops, point))
            wrong += !ends_as(kind, &fate, expected);
    }
    if (getenv("V9_SHOW"))
        fprintf(stderr, "%s: %u points, %u wrong\n", kind->name, stops.count, wrong);
    return wrong;
}

#endif
