/*
 * stop: ends the process on SIGTERM and SIGINT, even if threads hang.
 *
 * A separate thread waits for the signals. It needs no lock and no interpreter. It passes the first
 * signal to the event loop for an orderly end; if the process still runs when the time is up, the
 * thread ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "server/api.h"

struct stop {
    int fd;
    uint32_t patience_ms;
};

static void *wait_for_signal(void *argument)
{
    const struct stop stop = *(struct stop *)argument;
    struct timespec left = {stop.patience_ms / 1000, stop.patience_ms % 1000 * 1000000L};
    uint64_t number;
    sigset_t set;
    int got = 0;

    free(argument);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    while (sigwait(&set, &got))
        ;
    number = (uint64_t)got;
    while (write(stop.fd, &number, sizeof(number)) < 0 && errno == EINTR)
        ;
    while (nanosleep(&left, &left) < 0)
        ;
    _exit(0); /* not exit(3): a thread that hangs may hold any lock */
}

int v9_stop_start(int32_t fd, uint32_t patience_ms)
{
    struct stop *stop = malloc(sizeof(*stop));
    sigset_t all, old;
    pthread_t thread;
    int err;

    if (!stop)
        return -ENOMEM;
    *stop = (struct stop){fd, patience_ms};
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    err = pthread_create(&thread, NULL, wait_for_signal, stop);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        free(stop);
    else
        pthread_detach(thread);
    return -err;
}
