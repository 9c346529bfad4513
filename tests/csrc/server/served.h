/*
 * A whole device for tests of the server: its threads serve a ring of driver.h in memory that the
 * test shares with it, in either layout. It has one export, a new directory of the host. The
 * functions v9_up_* stand for Python.
 *
 * The driver kicks only if the device asks for it, and waits for a call: a notification that is
 * missed ends the test by SIGALRM.
 */
#ifndef SERVER_SERVED_H
#define SERVER_SERVED_H

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/budget.h"
#include "base/wire.h"
#include "driver.h"
#include "host_files.h"
#include "server/api.h"

/* Message types: Python answers at once; later; when it is released, and meanwhile its thread
 * hangs; or once it has called `python_calls`. Requests of 9P are answered by `python_answers`. */
enum { AT_ONCE = 200, LATER = 202, HANGS = 204, CALLS = 206 };
enum { ROOM = 256, REPLY_AT = 0x8000, SLOTS = NUM / 2 };
enum { ROOT = 0, STAT_DEVICE = 3, PATIENCE_S = 60 };

static struct v9_device_conf conf = {
    .id = 7, .threads = 1, .msize_max = 8192, .max_fids = 100}; /* of create_device */
static v9_device *dev;
static v9_export *export;
static v9_qidmap *qidmap;
static int memory_fd = -1, kick_fd, call_fd;
static int waits_fd, release_fd; /* Python has not answered yet; it shall now */
static int report_fd;
static const char *reported; /* why the ring is broken */
static struct {
    uint32_t slot, seq;
} later;                    /* the last request that Python answers later */
static bool questions_hang; /* as HANGS does, in a handler in C */
static void (*python_calls)(void);
static int32_t (*python_answers)(const uint8_t *data, uint32_t size, uint8_t *reply);
static unsigned descriptors_before;
static enum { SPLIT_RING, EVENT_IDX_RING, PACKED_RING } layout; /* of the ring */

/* ---- Python ------------------------------------------------------------------------------------
 */

/* Descriptors do not block: the device has made them so. */
static inline void wait_for(int fd)
{
    struct pollfd ready = {fd, POLLIN, 0};
    uint64_t count;

    CHECK(poll(&ready, 1, -1) == 1);
    CHECK(read(fd, &count, sizeof(count)) == sizeof(count));
}

static inline void notify(int fd)
{
    const uint64_t one = 1;

    CHECK(write(fd, &one, sizeof(one)) == sizeof(one));
}

static inline void hang(void)
{
    notify(waits_fd);
    wait_for(release_fd);
}

int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *reply)
{
    const uint8_t type = (uint8_t)data[4];
    uint16_t tag;

    CHECK(device == conf.id && size >= P9_HEADER_SIZE);
    memcpy(&tag, data + 5, sizeof(tag));
    if (type == LATER) {
        later.slot = slot;
        later.seq = seq;
        notify(waits_fd);
        return 0;
    }
    if (type == HANGS)
        hang();
    if (type == CALLS)
        python_calls();
    if (type < AT_ONCE && python_answers)
        return python_answers((const uint8_t *)data, size, (uint8_t *)reply);
    v9_put_header((uint8_t *)reply, P9_HEADER_SIZE, (uint8_t)(type + 1), tag);
    return P9_HEADER_SIZE;
}

int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t request)
{
    return -EIO;
}

int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd)
{
    CHECK(device == conf.id && kind == V9_UP_DEVICE);
    v9_budget_close(fd);
    if (__atomic_load_n(&questions_hang, __ATOMIC_SEQ_CST))
        hang();
    return v9_qidmap_set_device(qidmap, a, b, STAT_DEVICE, V9_DEV_IDENTITY);
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
    CHECK(device == conf.id && !reported);
    reported = reason;
    notify(report_fd);
}

/* Waits until Python hears that the ring is broken, for a reason with these words. */
static inline void expect_broken(const char *words)
{
    wait_for(report_fd);
    CHECK(reported && strstr(reported, words));
    reported = NULL;
}

/* Answers the last request that was to be answered later: v9_reply's result. */
static inline int answer_later(uint16_t tag)
{
    uint8_t reply[P9_HEADER_SIZE];

    v9_put_header(reply, sizeof(reply), LATER + 1, tag);
    return v9_reply(dev, later.slot, later.seq, reply, sizeof(reply));
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* By `conf`, without an export. */
static inline void create_device(void)
{
    struct v9_export_conf export_conf = {.stat_entries = true};
    int32_t err;

    alarm(PATIENCE_S);
    host_begins();
    CHECK(v9_init() == 0);
    descriptors_before = descriptors();
    export_conf.root_fd = open(top, O_PATH | O_CLOEXEC);
    qidmap = v9_qidmap_new();
    export = v9_export_new(&export_conf, qidmap, &err);
    close(export_conf.root_fd);
    dev = v9_device_reserve(conf.max_fids);
    CHECK(export && dev && v9_device_start(dev, &conf) == 0);
    kick_fd = eventfd(0, EFD_CLOEXEC);
    call_fd = eventfd(0, EFD_CLOEXEC);
    waits_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    release_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    report_fd = eventfd(0, EFD_CLOEXEC);
}

/* New memory for the guest, with driver.h's names for what lies there; the old one stays mapped. */
static inline void create_memory(void)
{
    if (memory_fd >= 0)
        close(memory_fd);
    memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(ftruncate(memory_fd, MEMORY) == 0);
    guest = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    CHECK(guest != MAP_FAILED);
    lay_out();
}

static inline void set_up_ring(uint64_t features)
{
    CHECK(v9_device_set_features(dev, features) == 0 && v9_ring_set_num(dev, NUM) == 0);
    CHECK(v9_ring_set_addr(dev, UVA + DESC_AT, UVA + USED_AT, UVA + AVAIL_AT) == 0);
    CHECK(v9_ring_set_call(dev, call_fd) == 0 && v9_ring_enable(dev, true) == 0);
}

static inline void start_ring(int kick)
{
    const char *reason;

    CHECK(v9_ring_set_kick(dev, kick, &reason) == 0 && !reason);
}

/* A device that serves a split ring. */
static inline void serve(void)
{
    create_device();
    create_memory();
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    CHECK(v9_device_set_export(dev, 0, export) == 0);
    set_up_ring(0);
    start_ring(kick_fd);
}

/* Frees the exports of a device that is gone, and what the test has opened. */
static inline void clean_up(void)
{
    const int fds[] = {memory_fd, kick_fd, call_fd, waits_fd, release_fd, report_fd};

    v9_export_free(export);
    v9_qidmap_free(qidmap);
    for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    host_ends();
}

static inline void stop(void)
{
    CHECK(v9_device_free(dev) == 1);
    clean_up();
    CHECK(!reported);
    CHECK(descriptors() == descriptors_before);
}

static inline struct v9_device_stats stats(void)
{
    struct v9_device_stats out;

    v9_device_stats(dev, &out);
    return out;
}

/* Gives the device's threads the time to do what they should not; or what is waited for. */
static inline void pause_briefly(void)
{
    nanosleep(&(struct timespec){0, 3000000}, NULL);
}

/* ---- the driver --------------------------------------------------------------------------------
 */

/* Writes a request and where its reply is to come. Its tag is its slot. */
static inline void write_request(uint16_t slot, uint8_t type, const void *body, uint32_t size)
{
    uint8_t *at = guest + DATA_AT + slot * ROOM;

    CHECK(P9_HEADER_SIZE + size <= ROOM);
    memcpy(v9_put_header(at, P9_HEADER_SIZE + size, type, slot), body, size);
    memset(guest + DATA_AT + REPLY_AT + slot * ROOM, 0, ROOM);
}

/* Whether the device asks for a kick; it may be about to sleep. With EVENT_IDX, the number of the
 * chain that was offered last is `last`. */
static inline bool wants_kick(bool event_idx, uint16_t last)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (event_idx)
        return __atomic_load_n(&used[2 + 4 * NUM], __ATOMIC_RELAXED) == last;
    return !__atomic_load_n(&used[0], __ATOMIC_RELAXED);
}

/* Makes a chain available. */
static inline void offer_to(uint16_t head, bool event_idx, int kick)
{
    const uint16_t idx = avail[1];

    avail[2 + idx % NUM] = head;
    __atomic_store_n(&avail[1], (uint16_t)(idx + 1), __ATOMIC_RELEASE);
    if (kick >= 0 && wants_kick(event_idx, idx))
        notify(kick);
}

/* Where the driver is in a packed ring. Each of its chains takes two descriptors, and has the id
 * that its head has in a split ring. */
static struct {
    uint16_t offered, seen; /* chains, since the ring began */
    uint32_t ids[64];       /* of those seen */
} packed;
enum { IN_ROUND = NUM / 2, PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };

/* Flags that make a descriptor available in the round of a chain. */
static inline uint16_t packed_flags(uint16_t chain, uint16_t flags)
{
    return (uint16_t)(flags | (chain / IN_ROUND % 2 ? PACKED_USED : PACKED_AVAIL));
}

static inline void offer_packed(uint32_t at, uint32_t size)
{
    const uint16_t chain_number = packed.offered++, id = (uint16_t)(2 * at / ROOM);
    struct desc *head = &descs[chain_number % IN_ROUND * 2];

    head[1] = data(REPLY_AT + at, ROOM, id, packed_flags(chain_number, WRITE));
    *head = data(at, size, id, head->next);
    __atomic_store_n(&head->next, packed_flags(chain_number, NEXT), __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (used[1] != 1) /* RING_EVENT_FLAGS_DISABLE */
        notify(kick_fd);
}

static inline uint16_t count_packed(void)
{
    const uint16_t both = PACKED_AVAIL | PACKED_USED;
    const struct desc *at = &descs[packed.seen % IN_ROUND * 2];

    while ((__atomic_load_n(&at->next, __ATOMIC_SEQ_CST) & both) ==
           (packed.seen / IN_ROUND % 2 ? 0 : both)) {
        packed.ids[packed.seen++ % 64] = at->flags;
        at = &descs[packed.seen % IN_ROUND * 2];
    }
    return packed.seen;
}

/* How many chains were returned since the ring began. */
static inline uint16_t count_used(void)
{
    return layout == PACKED_RING ? count_packed() : __atomic_load_n(&used[1], __ATOMIC_SEQ_CST);
}

/* The slot of one of them. */
static inline uint32_t used_slot(uint16_t number)
{
    return (layout == PACKED_RING ? packed.ids[number % 64] : used[2 + 4 * (number % NUM)]) / 2;
}

/* Sends a request in two descriptors. */
static inline void send_body(uint16_t slot, uint8_t type, const void *body, uint32_t size)
{
    const uint16_t head = (uint16_t)(2 * slot);
    const uint32_t at = slot * (uint32_t)ROOM;

    write_request(slot, type, body, size);
    if (layout == PACKED_RING) {
        offer_packed(at, P9_HEADER_SIZE + size);
        return;
    }
    descs[head] = data(at, P9_HEADER_SIZE + size, NEXT, (uint16_t)(head + 1));
    descs[head + 1] = data(REPLY_AT + at, ROOM, WRITE, 0);
    offer_to(head, layout == EVENT_IDX_RING, kick_fd);
}

/* One with a number, for example a fid's. */
static inline void send(uint16_t slot, uint8_t type, uint32_t number)
{
    send_body(slot, type, &number, sizeof(number));
}

/* Waits until so many requests have been answered since the ring began. */
static inline void wait_for_used(uint16_t count)
{
    uint16_t seen;

    while ((seen = count_used()) != count) {
        if (layout != PACKED_RING) /* EVENT_IDX: of the next one */
            __atomic_store_n(&avail[2 + NUM], seen, __ATOMIC_SEQ_CST);
        if (count_used() == seen)
            wait_for(call_fd);
    }
}

/* The type of the reply in a slot; of an error -errno; 0: there is none. */
static inline int reply_in(uint16_t slot)
{
    const uint8_t *reply = guest + DATA_AT + REPLY_AT + slot * ROOM;
    uint16_t tag;
    int32_t error;

    memcpy(&tag, reply + 5, sizeof(tag));
    memcpy(&error, reply + P9_HEADER_SIZE, sizeof(error));
    CHECK(!reply[4] || tag == slot);
    return reply[4] == P9_RLERROR ? -error : reply[4];
}

/* Sends a request in slot 0, and waits for the reply: reply_in. */
static inline int ask(uint8_t type, const void *body, uint32_t size)
{
    const uint16_t before = count_used();

    send_body(0, type, body, size);
    wait_for_used((uint16_t)(before + 1));
    return reply_in(0);
}

/* Sends one that Python answers at once, and waits for the reply. */
static inline void exchange(uint16_t slot)
{
    const uint16_t before = count_used();

    send(slot, AT_ONCE, 0);
    wait_for_used((uint16_t)(before + 1));
    CHECK(reply_in(slot) == AT_ONCE + 1);
}

/* ---- fids --------------------------------------------------------------------------------------
 */

/* Enters a fid for a file of the export, as Tattach does; returns its handle. */
static inline uint64_t add_fid(uint32_t number, const char *name)
{
    const int fd = open(host(name), O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct v9_attr attr;
    uint64_t handle = 0;
    int err = v9_attr_read(export, fd, "", &attr);

    if (err == -V9_NO_DEVICE) {
        v9_qidmap_set_device(qidmap, attr.st_dev, attr.mnt_id, STAT_DEVICE, V9_DEV_IDENTITY);
        err = v9_attr_read(export, fd, "", &attr);
    }
    CHECK(!err && v9_fid_add(dev, number, fd, 0, geteuid(), &attr, &handle) == 0);
    return handle;
}

/* Walks from the root by one name, as the guest does. */
static inline void walk(uint32_t newfid, const char *name)
{
    const uint16_t size = (uint16_t)strlen(name);
    uint8_t body[64], *at = v9_put(v9_put(v9_put(body, ROOT, 4), newfid, 4), 1, 2);

    memcpy(v9_put(at, size, 2), name, size);
    CHECK(ask(P9_TWALK, body, 12u + size) == P9_TWALK + 1);
}

#endif
