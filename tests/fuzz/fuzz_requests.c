// sources: p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Whole requests, from the ring to the host's files and back, in a real export: its security model,
 * dialect, quota, limit of descriptors and of messages are the input's. The guest writes valid
 * chains, split as the input says; what is in them is requests.h's. Meanwhile the host changes
 * files, descriptors are evicted, and locks wait.
 *
 * One thread does what a serving thread does (server/workers.c). The functions v9_up_* stand for
 * Python: it names devices, begins sessions, attaches, and answers some requests later.
 *
 * Every request gets one reply, as the protocol has it for this request (replies.h), of its tag and
 * size, without the host's secret; nothing but the reply's buffer is written; nothing outside of
 * the export changes; in the end no fid, inode or descriptor is left; and a quota has counted what
 * there is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "p9/dispatch.h"
#include "quota/quota.h"
#include "replies.h"
#include "request/request.h"
#include "request/upcall.h"
#include "requests.h"
#include "tree.h"

#define GPA 0x1000ull
#define UVA 0x700000000000ull
enum { SLOTS = 8, DESCS = 8, NUM = SLOTS * DESCS, NEXT = 1, WRITE = 2 };
enum { AVAIL_AT = 0x1000, USED_AT = 0x2000, SLOTS_AT = 0x4000 };
enum { REPLY_AT = REQUEST_MAX, SLOT_SIZE = 2 * REQUEST_MAX, MEMORY = SLOTS_AT + SLOTS * SLOT_SIZE };
enum { FIDS_MAX = 32, VALUES_MAX = 4, ACCOUNTS = 16, ROOT = 0, STAT_DEVICE = 3 };

struct desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next;
};

static struct v9_device dev;
static struct v9_scratch scratch;
static v9_qidmap *qidmap;
static v9_quota *quota;
static uint8_t replies[REQUEST_MAX], untouched[REQUEST_MAX];
static uint8_t *guest;
static struct desc *descs;
static volatile uint16_t *avail, *used;
static uint16_t seen; /* of the used ring */
static struct {
    bool in_flight;
    uint16_t tag;
    uint32_t size, room;
    uint8_t request[REQUEST_MAX]; /* as it was sent */
} slots[SLOTS];
static struct fuzz_input *input; /* for Python's decisions */
static struct {
    uint32_t slot, seq;
} later[SLOTS]; /* what Python is to answer later */
static uint32_t later_count;

/* ---- Python ------------------------------------------------------------------------------------
 */

/* Enters a fid for the export's root, as Tattach does. */
static int attach(uint32_t number, uint32_t uid)
{
    const struct v9_route route = {.root = 0, .text = ""};
    const struct v9_fid_new as = {number, uid, 0, -1, 0, &route, NULL};
    struct v9_found found = {-1, -1, 0, NULL};
    struct v9_attr attr;
    int err;

    found.path_fd = v9_sys_dup(dev.exports[0]->conf.root_fd);
    if (found.path_fd < 0)
        return found.path_fd;
    err = v9_attr_read(dev.exports[0], found.path_fd, "", &attr);
    if (err == -V9_NO_DEVICE) {
        v9_qidmap_set_device(qidmap, attr.st_dev, attr.mnt_id, STAT_DEVICE, V9_DEV_IDENTITY);
        err = v9_attr_read(dev.exports[0], found.path_fd, "", &attr);
    }
    found.attr = &attr;
    if (!err)
        err = v9_fids_enter(&dev.fids, &as, &found, NULL);
    if (err)
        v9_budget_close(found.path_fd);
    return err;
}

static int32_t reply_of(const char *data, char *reply)
{
    uint16_t tag;

    memcpy(&tag, data + 5, sizeof(tag));
    v9_put_header((uint8_t *)reply, P9_HEADER_SIZE, (uint8_t)(data[4] + 1), tag);
    return P9_HEADER_SIZE;
}

/* A Tversion of 9P2000.u has 'u' at the end. */
static int32_t begin_session(const char *data, uint32_t size, char *reply)
{
    v9_fids_clear(&dev.fids);
    dev.dialect = data[size - 1] == 'u' ? V9_9P2000U : V9_9P2000L;
    dev.fids.inodes.unshared = dev.dialect == V9_9P2000U;
    return reply_of(data, reply);
}

int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *reply)
{
    uint32_t fid = 0;
    int err;

    CHECK(size >= P9_HEADER_SIZE);
    memcpy(&fid, data + P9_HEADER_SIZE, size < P9_HEADER_SIZE + 4 ? 0 : 4);
    switch ((uint8_t)data[4]) {
    case P9_TVERSION:
        return begin_session(data, size, reply);
    case P9_TATTACH:
        err = attach(fid, geteuid());
        return err ? err : reply_of(data, reply);
    case P9_TLOCK:
        CHECK(later_count < SLOTS);
        later[later_count].slot = slot;
        later[later_count++].seq = seq;
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t request)
{
    static const int results[] = {0, -EAGAIN, -ENOLCK};

    return results[fuzz_below(input, 3)];
}

int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd)
{
    CHECK(kind == V9_UP_DEVICE && fd >= 0);
    v9_budget_close(fd);
    return v9_qidmap_set_device(qidmap, a, b, STAT_DEVICE, V9_DEV_IDENTITY);
}

void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq)
{
    CHECK(slot < dev.slots_used);
}

void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted)
{
    (void)device, (void)data, (void)size, (void)error, (void)refusal, (void)omitted;
}

void v9_up_broken(uint32_t device, const char *reason)
{
    CHECK(!"a valid ring breaks");
}

/* Answers what waits the longest. */
static void answer_later(void)
{
    uint8_t reply[P9_RLERROR_SIZE];
    const uint32_t slot = later[0].slot, seq = later[0].seq;

    memmove(later, later + 1, --later_count * sizeof(*later));
    v9_put(v9_put_header(reply, sizeof(reply), P9_RLERROR, dev.slots[slot].tag), EINTR, 4);
    CHECK(v9_reply(&dev, slot, seq, reply, sizeof(reply)) == 0);
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* As a serving thread runs a request. */
static void execute(struct v9_request *r)
{
    int result;

    v9_fids_begin_request(&dev.fids, NULL);
    pthread_mutex_unlock(&dev.lock);
    result = v9_p9_run(&dev, r, &scratch);
    pthread_mutex_lock(&dev.lock);
    dev.busy--;
    if (result == -V9_NOT_OURS)
        v9_upcall_request(&dev, r, &scratch);
    else
        v9_request_finish(&dev, r, result);
}

/* Of a slot's memory, nothing but the reply's buffer was written. */
static void check_memory(uint32_t slot)
{
    const uint8_t *memory = guest + SLOTS_AT + slot * SLOT_SIZE;
    const uint32_t room = slots[slot].room;

    CHECK(!memcmp(memory, slots[slot].request, slots[slot].size));
    CHECK(!memcmp(memory + REPLY_AT + room, untouched, REQUEST_MAX - room));
}

static void check_reply(uint32_t slot, uint32_t written)
{
    const uint8_t *reply = guest + SLOTS_AT + slot * SLOT_SIZE + REPLY_AT;
    uint32_t size;
    uint16_t tag;

    CHECK(slots[slot].in_flight && written >= P9_HEADER_SIZE && written <= slots[slot].room);
    slots[slot].in_flight = false;
    memcpy(&size, reply, sizeof(size));
    memcpy(&tag, reply + 5, sizeof(tag));
    CHECK(size == written && tag == slots[slot].tag);
    CHECK(is_reply(slots[slot].request, reply, size, slots[slot].room));
    CHECK(!tree_leaks(reply, written));
    check_memory(slot);
}

/* Serves the ring, and takes the replies. */
static void serve(void)
{
    struct v9_request *r;

    pthread_mutex_lock(&dev.lock);
    do {
        while (dev.report_due)
            v9_upcall_report(&dev, &scratch.worker);
        r = v9_request_next(&dev);
        if (r)
            execute(r);
    } while (r || dev.report_due);
    pthread_mutex_unlock(&dev.lock);
    for (; seen != used[1]; seen++) {
        uint32_t entry[2];
        memcpy(entry, (const uint8_t *)used + 4 + seen % NUM * 8, sizeof(entry));
        CHECK(entry[0] < NUM && entry[0] % DESCS == 0);
        check_reply(entry[0] / DESCS, entry[1]);
    }
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

/* Describes `size` bytes, at an offset in the slot, by so many descriptors; returns the next one.
 */
static uint32_t describe(uint32_t at, uint32_t slot, uint32_t offset, uint32_t size, uint32_t parts,
                         uint16_t flags)
{
    const uint64_t gpa = GPA + SLOTS_AT + slot * SLOT_SIZE + offset;
    const uint32_t each = size / parts ? size / parts : 1;

    for (uint32_t done = 0, len; done < size; done += len) {
        len = --parts && done + each < size ? each : size - done;
        descs[at] = (struct desc){gpa + done, len, flags | NEXT, (uint16_t)(at + 1)};
        at++;
    }
    return at;
}

/* Sends a request, if a slot is free. */
static void send(struct fuzz_input *in, uint8_t how)
{
    static const uint32_t rooms[] = {REQUEST_MAX, P9_RLERROR_SIZE, P9_RERROR_SIZE, 64};
    uint8_t *memory;
    uint32_t slot = 0, size, at;

    while (slot < SLOTS && slots[slot].in_flight)
        slot++;
    if (slot == SLOTS)
        return;
    slots[slot].in_flight = true;
    slots[slot].tag = how & 1 << 3 ? 1 : (uint16_t)slot; /* one may be in use already */
    slots[slot].room = rooms[how >> 4 & 1 ? fuzz_below(in, 4) : 0];
    memory = guest + SLOTS_AT + slot * SLOT_SIZE;
    memcpy(memory + REPLY_AT, untouched, REQUEST_MAX);
    slots[slot].size = size = make_request(in, slots[slot].tag, memory);
    memcpy(slots[slot].request, memory, size);
    at = describe(slot * DESCS, slot, 0, size, how >> 5 & 1 ? 3 : 1, 0);
    at = describe(at, slot, REPLY_AT, slots[slot].room, how >> 6 & 1 ? 4 : 1, WRITE);
    descs[at - 1].flags = WRITE;
    avail[2 + avail[1] % NUM] = (uint16_t)(slot * DESCS);
    avail[1]++;
}

/* ---- the host ----------------------------------------------------------------------------------
 */

static void change_host(struct fuzz_input *in)
{
    const int root = dev.exports[0]->conf.root_fd;
    const char *from = names[fuzz_below(in, 7)], *to = names[fuzz_below(in, 7)];

    switch (fuzz_below(in, 6)) {
    case 0:
        renameat(root, from, root, to);
        break;
    case 1:
        unlinkat(root, from, 0);
        break;
    case 2:
        symlinkat("..", root, to);
        break;
    case 3:
        mkdirat(root, to, 0755);
        break;
    case 4:
        renameat2(root, from, root, to, RENAME_EXCHANGE);
        break;
    default:
        mknodat(root, to, S_IFREG | 0644, 0);
    }
}

/* ---- one input ---------------------------------------------------------------------------------
 */

/* A quota that the tree at the beginning fits in: four files and a directory. */
static void set_quota(v9_export *ex, uint64_t inodes)
{
    struct v9_quota_usage usage = {.bytes = 1 << 16, .inodes = 5};
    struct v9_quota_conf conf = {.bytes = 1 << 20,
                                 .inodes = inodes,
                                 .error = EDQUOT,
                                 .block = 4096,
                                 .max_accounts = ACCOUNTS};
    int err;

    conf.fd = memfd_create("usage", MFD_CLOEXEC);
    CHECK(ftruncate(conf.fd, V9_QUOTA_FILE) == 0);
    CHECK(pwrite(conf.fd, &usage, sizeof(usage), V9_QUOTA_USAGE) == sizeof(usage));
    quota = v9_quota_new(&conf, &err);
    close(conf.fd);
    CHECK(quota && v9_export_set_quota(ex, quota) == 0);
}

/* What is configured. Returns whether the host stays away. */
static bool configure(struct fuzz_input *in)
{
    static const uint32_t shares[] = {UINT32_MAX, 24, 14, 10};
    const uint8_t how = fuzz_byte(in), more = fuzz_byte(in);
    struct v9_export_conf conf = {.model = how % 3,
                                  .readonly = (how & 0xf0) == 0xf0,
                                  .stat_entries = how & 8,
                                  .fmode = 0600,
                                  .dmode = 0700};
    int32_t err;

    conf.root_fd = tree_export();
    dev.exports[0] = v9_export_new(&conf, qidmap, &err);
    close(conf.root_fd);
    CHECK(dev.exports[0] && !err);
    dev.dialect = more & 1 ? V9_9P2000U : V9_9P2000L;
    dev.fids.inodes.unshared = more & 1;
    dev.msize = more & 2 ? 256 : REQUEST_MAX;
    v9_budget_set(shares[more >> 2 & 3], 0);
    if (more & 16)
        set_quota(dev.exports[0], 5 + (more >> 5));
    dev.fids.inodes.quotas[0] = quota;
    return quota;
}

static void start_ring(void)
{
    const struct v9_virtqueue_setup setup = {
        .num = NUM, .desc_uva = UVA, .avail_uva = UVA + AVAIL_AT, .used_uva = UVA + USED_AT};

    memset(guest, 0, SLOTS_AT);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        slots[slot].in_flight = false;
    seen = 0;
    CHECK(!v9_virtqueue_start(&dev.ring, &setup, &dev.mem));
}

/* In the end nothing is left of what the guest has made of the device. */
static void finish(bool counted)
{
    for (serve(); later_count; serve())
        answer_later();
    CHECK(!dev.inflight && !dev.busy && !dev.barrier && !dev.ring.broken);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        CHECK(!slots[slot].in_flight);
    v9_fids_begin_request(&dev.fids, NULL);
    CHECK(v9_fids_clear(&dev.fids) == 0);
    CHECK(!dev.fids.count && !dev.fids.inodes.count && !dev.fids.values.count);
    if (quota) {
        struct v9_quota_usage usage;
        v9_quota_read(quota, &usage);
        CHECK(!usage.changing && usage.bytes >= 0);
        if (counted)
            CHECK(usage.inodes * 720720 ==
                  tree_count(openat(tree_fd, "export", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
        v9_quota_free(quota);
        quota = NULL;
    }
    CHECK(v9_budget_held(dev.fids.inodes.account) == 0);
    v9_export_free(dev.exports[0]);
    tree_check();
}

void fuzz_once(struct fuzz_input *in)
{
    const bool counted = configure(in);

    input = in;
    start_ring();
    attach(ROOT, geteuid());
    while (fuzz_left(in)) {
        const uint8_t what = fuzz_byte(in);
        if (what % 8 == 7 && !counted)
            change_host(in);
        else if (what % 8 == 6)
            v9_evict_ops.evict(&dev.fids.shrinker, 8);
        else if (what % 8 == 5 && later_count)
            answer_later();
        else
            send(in, what);
        if (what % 8 != 4) /* else the next one comes before this one is served */
            serve();
    }
    finish(counted && dev.exports[0]->conf.model == V9_MODEL_HOST);
}

void fuzz_begins(void)
{
    const int fd = memfd_create("guest", MFD_CLOEXEC);

    umask(0);
    memset(untouched, 0xa5, sizeof(untouched));
    tree_begins();
    CHECK(v9_mapping_init() == 0 && ftruncate(fd, MEMORY) == 0);
    CHECK(v9_mem_add(&dev.mem, GPA, MEMORY, UVA, 0, fd) == 0);
    close(fd);
    guest = v9_mem_gpa(&dev.mem, GPA, MEMORY);
    descs = (struct desc *)guest;
    avail = (uint16_t *)(guest + AVAIL_AT);
    used = (uint16_t *)(guest + USED_AT);
    v9_budget_init();
    qidmap = v9_qidmap_new();
    dev.slots = calloc(V9_SLOTS, sizeof(*dev.slots));
    dev.counts = calloc(1, sizeof(*dev.counts));
    dev.conf.msize_max = REQUEST_MAX;
    dev.started = dev.enabled = true;
    dev.kick_fd = -1;
    scratch.reply = replies;
    pthread_mutex_init(&dev.lock, NULL);
    pthread_cond_init(&dev.idle, NULL);
    CHECK(v9_fids_init(&dev.fids, FIDS_MAX, v9_fid_table_map(FIDS_MAX), dev.exports,
                       &v9_evict_ops) == 0);
    dev.fids.values.max = VALUES_MAX;
    v9_budget_charge(dev.fids.inodes.account);
}
