/*
 * vhost9p.h: the only surface between C and Python, which each room declares in its api.h.
 *
 * The cffi build runs this file through the preprocessor with V9_CDEF defined and hands the result
 * to cdef(), so nothing is declared twice. These headers hold plain declarations only. Every
 * function returns 0 or a positive value on success and -errno on failure unless it says otherwise;
 * none keeps a pointer to the caller's memory. All are thread-safe.
 *
 * Division of labour: C moves bytes between the ring, guest memory and host files and answers most
 * requests. Whatever needs a decision comes to Python as an upcall;
 * Python installs its decision (a root fid, a qid group, a device's verdict) and C uses it from
 * then on, as a software switch uses its flow cache.
 */
#ifndef V9_VHOST9P_H
#define V9_VHOST9P_H

#include "base/api.h"
#include "export/api.h"
#include "fid/api.h"
#include "fs/api.h"
#include "mapped/api.h"
#include "p9/api.h"
#include "quota/api.h"
#include "request/api.h"
#include "sandbox/api.h"
#include "server/api.h"
#include "virtio/api.h"

#endif
