/*
 * stop: ends the process on SIGTERM and SIGINT, even if it hangs.
 *
 * A separate thread waits for the signals. It needs no lock and no interpreter. It passes the first
 * signal to the event loop for an orderly end; if the process still runs when the time is up, the
 * thread ends it. A process that is to be forked has no such thread: in it, handlers do the same,
 * which interrupt whatever it waits for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
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

/* ---- a process without threads --------------------------------------------------------------- */

static struct stop handled;
static volatile sig_atomic_t is_stopping;
static uint64_t end_ms; /* when the time is up; written before `is_stopping` */

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* SIGALRM: the timer's, or a stray one, which may even have been sent before the signal to stop. */
static void on_alarm(int number)
{
    if (is_stopping && now_ms() >= end_ms)
        _exit(0);
}

void v9_stop_postpone(uint32_t patience_ms)
{
    const struct itimerval at = {{0, 0}, {patience_ms / 1000, patience_ms % 1000 * 1000L}};

    end_ms = now_ms() + patience_ms;
    is_stopping = 1;
    setitimer(ITIMER_REAL, &at, NULL);
}

static void on_signal(int number)
{
    const uint64_t got = (uint64_t)number;
    const int err = errno;

    if (!is_stopping && write(handled.fd, &got, sizeof(got)) == sizeof(got))
        v9_stop_postpone(handled.patience_ms);
    errno = err;
}

int v9_stop_handle(int32_t fd, uint32_t patience_ms)
{
    struct sigaction on_stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    const struct sigaction on_time_up = {.sa_handler = on_alarm};
    sigset_t needed; /* a mask is inherited, and may have them blocked */

    handled = (struct stop){fd, patience_ms};
    sigemptyset(&on_stop.sa_mask);
    sigaddset(&on_stop.sa_mask, SIGTERM);
    sigaddset(&on_stop.sa_mask, SIGINT);
    if (sigaction(SIGALRM, &on_time_up, NULL) < 0 || sigaction(SIGTERM, &on_stop, NULL) < 0 ||
        sigaction(SIGINT, &on_stop, NULL) < 0)
        return -errno;
    needed = on_stop.sa_mask;
    sigaddset(&needed, SIGALRM);
    return -pthread_sigmask(SIG_UNBLOCK, &needed, NULL);
}
