/*
 * A device for tests of handlers: without a ring, without threads and without a guest. It has one
 * export, a new directory of the host, whose root is the fid ROOT. Requests run in the test itself
 * (v9_p9_run), from and to its own buffers. The functions v9_up_* stand for Python, which has
 * nothing to do but to name devices.
 */
#ifndef P9_DEVICE_H
#define P9_DEVICE_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <time.h>

#include "base/sys.h"
#include "base/wire.h"
#include "check.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "host_files.h"
#include "p9/dispatch.h"
#include "request/upcall.h"

enum { MSIZE = 8192, ROOT = 0, FIDS = 1000, TAG = 0x1234, STAT_DEVICE = 3 };

static struct v9_device dev;
static struct v9_scratch scratch;
static struct v9_request request;
static v9_qidmap *qidmap;
static uint8_t message[MSIZE], reply[MSIZE], replies[MSIZE];
static size_t message_size;
static uint32_t reply_room = MSIZE; /* bytes that the next requests have for their replies */
static unsigned questions;          /* that Python was asked */
static int refusal;                 /* what Python says instead of an answer */

/* ---- Python ------------------------------------------------------------------------------------
 */

/* Each host device is device STAT_DEVICE, whose files keep their inode numbers. */
int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd)
{
    questions++;
    CHECK(device == dev.conf.id && kind == V9_UP_DEVICE && fd >= 0);
    v9_budget_close(fd);
    return refusal ? refusal : v9_qidmap_set_device(qidmap, a, b, STAT_DEVICE, V9_DEV_IDENTITY);
}

#ifndef OWN_LOCKS
int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t number)
{
    CHECK(!"Python is asked for a lock");
    return -EIO;
}
#endif

int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *answer)
{
    CHECK(!"Python has a request");
    return -EIO;
}

void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq)
{
    CHECK(!"Python hears of a flush");
}

void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted)
{
    CHECK(!"Python hears of a failure");
}

void v9_up_broken(uint32_t device, const char *reason)
{
    CHECK(!"Python hears of a broken ring");
}

/* ---- set-up ------------------------------------------------------------------------------------
 */

/* Enters a fid for the export's root, as Tattach does for a user. */
static inline void enter_root(uint32_t number, uint32_t uid)
{
    const struct v9_route route = {.root = 0, .text = ""};
    const struct v9_fid_new as = {number, uid, 0, -1, 0, &route, NULL};
    struct v9_found found = {-1, -1, 0, NULL};
    struct v9_attr attr;
    int err;

    found.path_fd = v9_sys_dup(dev.exports[0]->conf.root_fd);
    err = v9_attr_read(dev.exports[0], found.path_fd, "", &attr);
    CHECK(err == 0 || err == -V9_NO_DEVICE);
    found.attr = &attr;
    CHECK(v9_fids_enter(&dev.fids, &as, &found, NULL) == 0);
}

SET_UP()
{
    struct v9_export_conf conf = {.stat_entries = true};
    int32_t err;

    host_begins();
    conf.root_fd = open(top, O_PATH | O_CLOEXEC);
    qidmap = v9_qidmap_new();
    v9_budget_init();
    dev.msize = dev.conf.msize_max = MSIZE;
    dev.exports[0] = v9_export_new(&conf, qidmap, &err);
    close(conf.root_fd);
    CHECK(dev.exports[0] &&
          v9_fids_init(&dev.fids, FIDS, v9_fid_table_map(FIDS), dev.exports, &v9_evict_ops) == 0);
    v9_budget_charge(dev.fids.inodes.account);
    pthread_mutex_init(&dev.lock, NULL);
    scratch.reply = replies;
    enter_root(ROOT, geteuid());
}

TEAR_DOWN()
{
    v9_fids_destroy(&dev.fids);
    v9_export_free(dev.exports[0]);
    v9_qidmap_free(qidmap);
    pthread_mutex_destroy(&dev.lock);
    host_ends();
}

/* Names that were looked at are not believed any more (V9_BELIEF). */
static inline void names_grow_old(void)
{
    nanosleep(&(struct timespec){0, 5000000}, NULL);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

/* Adds fields, one for each letter: '1', '2', '4' and '8' an int in so many bytes, 'q' a uint64_t,
 * 's' a string[s], 'd' bytes without their size. */
static inline void put_fields(const char *fields, va_list values)
{
    uint8_t *at = message + message_size;

    for (; *fields; fields++) {
        if (*fields == 's' || *fields == 'd') {
            const char *text = va_arg(values, const char *);
            const size_t size = strlen(text);
            if (*fields == 's')
                at = v9_put(at, size, 2);
            at = (uint8_t *)memcpy(at, text, size) + size;
        } else if (*fields == 'q') {
            at = v9_put(at, va_arg(values, uint64_t), 8);
        } else {
            const int value = va_arg(values, int);
            at = v9_put(at, (uint64_t)(int64_t)value, (uint32_t)(*fields - '0'));
        }
    }
    message_size = (size_t)(at - message);
}

static inline uint64_t reply_number(uint32_t at, uint32_t bytes)
{
    uint64_t value = 0;

    memcpy(&value, reply + at, bytes);
    return value;
}

/* The result of v9_p9_run as a test sees it: 0 for the reply to the request; -errno for an error in
 * the reply; an outcome. */
static inline int result_of(int size)
{
    if (size < 0)
        return size;
    CHECK(reply_number(0, 4) == (uint32_t)size && reply_number(5, 2) == TAG);
    if (reply[4] == P9_RLERROR && dev.dialect == V9_9P2000L)
        return -(int)reply_number(P9_HEADER_SIZE, 4);
    if (reply[4] == P9_RERROR && dev.dialect == V9_9P2000U)
        return -(int)reply_number((uint32_t)size - 4, 4);
    CHECK(reply[4] == request.type + 1);
    return 0;
}

/* Runs the request of this type that `message` holds, in as many bytes as it takes. */
static inline int run(uint8_t type)
{
    struct v9_chain *chain = &request.chain;

    v9_put_header(message, (uint32_t)message_size, type, TAG);
    memset(reply, 0xEE, sizeof(reply));
    request.type = type;
    request.tag = TAG;
    request.dialect = dev.dialect;
    request.size = (uint32_t)message_size;
    request.data_size = type == P9_TWRITE && message_size > P9_TWRITE_SIZE ? P9_TWRITE_SIZE
                                                                           : (uint32_t)message_size;
    request.question.fd = -1;
    request.asked = 0;
    request.created = V9_CREATED_NONE;
    memcpy(request.data, message, request.data_size);
    chain->iov[0] = (struct iovec){message, message_size};
    chain->iov[1] = (struct iovec){reply, reply_room};
    chain->readable_count = chain->writable_count = 1;
    chain->readable_size = message_size;
    chain->writable_size = reply_room;
    v9_fids_begin_request(&dev.fids, NULL);
    return result_of(v9_p9_run(&dev, &request, &scratch));
}

/* Sends a request of these fields, and runs it. */
static inline int ask(uint8_t type, const char *fields, ...)
{
    va_list values;

    message_size = P9_HEADER_SIZE;
    va_start(values, fields);
    put_fields(fields, values);
    va_end(values);
    return run(type);
}

/* Walks from the root to newfid, by one name. */
static inline int walk_to(int newfid, const char *name)
{
    return ask(P9_TWALK, "442s", ROOT, newfid, 1, name);
}

/* The inode number that Tgetattr reports for a fid; 0: it fails. */
static inline uint64_t ino_of_fid(int fid)
{
    return ask(P9_TGETATTR, "48", fid, 0x7ff) ? 0 : reply_number(P9_HEADER_SIZE + 8 + 5, 8);
}

#endif
