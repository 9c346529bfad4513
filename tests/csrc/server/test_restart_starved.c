// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * A successor for which the host has no threads: it ends, and leaves all to the one after it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "server/kinds_of_files.h"

enum { PLENTY = 1000 };

static int threads_left = PLENTY;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                   void *context)
{
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

    if (!create)
        *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    return threads_left-- > 0 ? create(thread, attr, start, context) : EAGAIN;
}

/* Whether a worker ends in order, for want of threads. */
static bool ends_starved(int threads)
{
    int status = 0;

    threads_left = threads;
    clone_worker(false);
    threads_left = PLENTY;
    while (waitpid(-1, &status, __WALL) != worker_pid)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 3;
}

static void starve(const struct kind *kind, const struct fate *fate)
{
    uint32_t fid = FID;

    set_up(kind);
    kill_worker();
    for (int threads = 0; threads <= (int)conf.threads; threads++)
        CHECK(ends_starved(threads));
    start_worker();
    CHECK(ask(P9_TCLUNK, &fid, sizeof(fid)) == P9_TCLUNK + 1);
    host_ends();
}

TEST(what_a_successor_without_threads_has_taken_over_is_left_to_the_next)
{
    const struct kind kind = {"starved", a_file, walked_dir};

    CHECK(run_apart(starve, &kind, NULL));
}
