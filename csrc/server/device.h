/*
 * device: where a device's parts lie.
 */
#ifndef V9_SERVER_DEVICE_H
#define V9_SERVER_DEVICE_H

#include "request/state.h"

/* Whether a process has served the device; finds its parts. Else the device is as reserved. */
bool v9_device_locate(v9_device *dev, uint32_t max_fids);

#endif
