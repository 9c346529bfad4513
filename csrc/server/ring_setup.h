/*
 * ring_setup: how the frontend sets a device's ring up; see ring_setup.c.
 */
#ifndef V9_SERVER_RING_SETUP_H
#define V9_SERVER_RING_SETUP_H

#include "request/state.h"

/* Resets everything that the frontend has set up, of a stopped ring. */
void v9_ring_release(struct v9_device *dev); /* [locked] */

#endif
