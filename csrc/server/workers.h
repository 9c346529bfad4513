/*
 * workers: the threads that serve a device's ring. The theory is in workers.c.
 */
#ifndef V9_SERVER_WORKERS_H
#define V9_SERVER_WORKERS_H

#include "request/state.h"

int v9_workers_start(struct v9_device *dev);
bool v9_workers_stop(struct v9_device *dev); /* false: some hang in a system call */

#endif
