// sources: server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * What a frontend sets up, in any order and with any values: memory regions of good and bad
 * descriptors, which it truncates while they are in use; the ring's size, place, base, features and
 * descriptors. The device is a whole one, whose threads serve the ring meanwhile: in it are a
 * descriptor chain and what the input writes. The functions v9_up_* stand for Python.
 *
 * A ring that runs refuses to be set up. A reset leaves no region, descriptor or request.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/wire.h"
#include "fuzz.h"
#include "server/api.h"
#include "virtio/api.h"

#define GPA 0x40000000ull
#define UVA 0x700000000000ull
enum { MEMORY = 1 << 16, PAGE = 4096, NUM = 8, REGIONS = 6, REGIONS_MAX = 5, MSIZE = 4096 };
enum { AVAIL_AT = 0x1000, USED_AT = 0x2000, REQUEST_AT = 0x4000, REPLY_AT = 0x6000 };
enum { FD_MEMORY, FD_SMALL, FD_EVENT, FD_PIPE, FD_PATH, FD_NONE, FD_CLOSED, FDS };

static v9_device *dev;
static v9_export *export;
static v9_qidmap *qidmap;
static int fds[FDS];
static uint8_t *guest;

/* ---- Python ------------------------------------------------------------------------------------
 */

int32_t v9_up_request(uint32_t device, uint32_t slot, uint32_t seq, const char *data, uint32_t size,
                      char *reply)
{
    return -EOPNOTSUPP;
}

int32_t v9_up_lock(uint32_t device, uint64_t fid, uint32_t writable, uint64_t st_dev,
                   uint64_t st_ino, const char *client_id, uint32_t client_size, uint32_t proc_id,
                   uint32_t type, uint64_t start, uint64_t length, uint32_t flock, uint64_t request)
{
    return -EAGAIN;
}

int32_t v9_up_question(uint32_t device, uint32_t kind, uint64_t a, uint64_t b, int32_t fd)
{
    v9_budget_close(fd);
    return -EIO;
}

void v9_up_flush(uint32_t device, uint32_t slot, uint32_t seq)
{
}

void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted)
{
    (void)device, (void)data, (void)size, (void)error, (void)refusal, (void)omitted;
}

void v9_up_broken(uint32_t device, const char *reason)
{
    CHECK(reason);
}

/* ---- the frontend ------------------------------------------------------------------------------
 */

/* A multiple of the page, or any number. */
static uint64_t choose_size(struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in);

    return how < 0xf0 ? (uint64_t)how % 20 * PAGE : fuzz_take(in, 8);
}

static struct v9_region_conf choose_region(struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in);
    struct v9_region_conf region = {GPA, MEMORY, UVA, 0, fds[FD_MEMORY]};

    if (how & 1)
        region.gpa += choose_size(in);
    if (how & 2)
        region.size = choose_size(in);
    if (how & 4)
        region.uva += choose_size(in);
    if (how & 8)
        region.mmap_offset = choose_size(in);
    if (how & 16)
        region.fd = fds[fuzz_below(in, FDS)];
    return region;
}

/* `result` is that of a call which a running ring refuses; `running` was found before it. */
static void expect_refusal(bool running, int result)
{
    CHECK((result == -EBUSY) == running);
}

static void set_up_ring(struct fuzz_input *in, bool running)
{
    const uint8_t how = fuzz_byte(in);
    const uint64_t desc = how & 1 << 3 ? choose_size(in) : 0;
    const uint64_t used = how & 1 << 4 ? choose_size(in) : USED_AT;
    const uint64_t avail = how & 1 << 5 ? choose_size(in) : AVAIL_AT;

    switch (how % 4) {
    case 0:
        expect_refusal(running, v9_ring_set_addr(dev, UVA + desc, UVA + used, UVA + avail));
        break;
    case 1:
        expect_refusal(running, v9_ring_set_num(dev, how & 1 << 3 ? (uint32_t)desc : NUM));
        break;
    case 2:
        expect_refusal(running, v9_ring_set_base(dev, (uint32_t)fuzz_take(in, 4)));
        break;
    default: /* indirect descriptors, EVENT_IDX, the packed layout */
        expect_refusal(running, v9_device_set_features(dev, (uint64_t)(how >> 4 & 3) << 28 |
                                                                (uint64_t)(how >> 6 & 1) << 34));
    }
}

static void set_descriptor(struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in);
    const int fd = fds[how / 4 % FDS];
    const char *reason;
    int err;

    switch (how % 4) {
    case 0:
        v9_ring_set_call(dev, fd);
        break;
    case 1:
        v9_ring_set_err(dev, fd);
        break;
    default:
        err = v9_ring_set_kick(dev, fd, &reason);
        CHECK(err || v9_ring_is_started(dev));
        CHECK(!reason || err == -EINVAL);
    }
}

/* With a limit, a region of no size or one that overlaps is refused as before; the device's threads
 * go on meanwhile. */
static void change_memory(struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in);
    struct v9_region_conf regions[REGIONS] = {choose_region(in)};
    const struct v9_region_conf *r = regions;
    const uint32_t count = how / 4 % REGIONS;

    switch (how % 4) {
    case 0:
        v9_device_mem_remove(dev, r->gpa, r->size, r->uva);
        break;
    case 1:
        for (uint32_t i = 1; i < count; i++)
            regions[i] = choose_region(in);
        v9_device_mem_set(dev, regions, count);
        break;
    default:
        if (v9_device_mem_add(dev, r->gpa, r->size, r->uva, r->mmap_offset, r->fd) == 0)
            CHECK(r->size && v9_device_mem_add(dev, r->gpa, r->size, r->uva, 0, r->fd) < 0);
    }
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

struct desc {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags, next;
};

/* A request in the ring, of either layout, and where its reply is to come. */
static void offer(struct fuzz_input *in)
{
    struct desc *descs = (struct desc *)guest;
    uint16_t *avail = (uint16_t *)(guest + AVAIL_AT);
    const uint8_t how = fuzz_byte(in), len = fuzz_byte(in);

    v9_put_header(guest + REQUEST_AT, P9_HEADER_SIZE + len % 16, how, len);
    descs[0] = (struct desc){GPA + REQUEST_AT, P9_HEADER_SIZE + 16, 1, 1};
    descs[1] = (struct desc){GPA + REPLY_AT, PAGE, 2, 0};
    if (how & 1) { /* packed: id and flags, available in the first round */
        descs[0].flags = descs[1].flags = 0;
        descs[0].next = 1 | 1 << 7;
        descs[1].next = 2 | 1 << 7;
    }
    avail[2 + avail[1] % NUM] = 0;
    avail[1]++;
    eventfd_write(fds[FD_EVENT], 1);
}

/* Any bytes anywhere. */
static void write_memory(struct fuzz_input *in)
{
    const uint64_t at = fuzz_take(in, 2) % (MEMORY - 8), value = fuzz_take(in, 4);

    memcpy(guest + at, &value, 4);
}

/* The frontend takes memory away from under the device, and gives it back. */
static void truncate_memory(struct fuzz_input *in)
{
    CHECK(ftruncate(fds[FD_MEMORY], (off_t)fuzz_below(in, MEMORY / PAGE) * PAGE) == 0);
    v9_device_mem_remove(dev, 0, 0, 0); /* it waits until no thread uses memory */
    CHECK(ftruncate(fds[FD_MEMORY], MEMORY) == 0);
}

/* ---- one input ---------------------------------------------------------------------------------
 */

/* A ring that could start. */
static void set_up_all(void)
{
    v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, fds[FD_MEMORY]);
    v9_ring_set_num(dev, NUM);
    v9_ring_set_addr(dev, UVA, UVA + USED_AT, UVA + AVAIL_AT);
    v9_ring_enable(dev, true);
}

static void step(struct fuzz_input *in)
{
    const uint8_t what = fuzz_byte(in);

    switch (what % 11) {
    case 0:
        change_memory(in);
        break;
    case 1:
        set_up_ring(in, v9_ring_is_started(dev));
        break;
    case 2:
    case 3:
        set_descriptor(in);
        break;
    case 4:
        offer(in);
        break;
    case 5:
        write_memory(in);
        break;
    case 6:
        v9_ring_enable(dev, what & 1);
        break;
    case 7:
        v9_ring_pause(dev);
        v9_ring_drain(dev, 1000);
        CHECK(!v9_ring_is_started(dev));
        break;
    case 8:
        truncate_memory(in);
        break;
    case 9:
        v9_device_reset(dev, what & 1);
        break;
    default:
        set_up_all();
    }
}

void fuzz_once(struct fuzz_input *in)
{
    struct v9_device_stats stats;

    memset(guest, 0, MEMORY);
    while (fuzz_left(in))
        step(in);
    v9_device_reset(dev, false);
    v9_device_set_features(dev, 0);
    v9_device_stats(dev, &stats);
    CHECK(!stats.inflight && !stats.fids && !v9_ring_is_started(dev));
    CHECK(v9_device_mem_remove(dev, GPA, MEMORY, UVA) == -ENOENT);
    CHECK(v9_budget_held(v9_device_account(dev)) == 0);
}

static void open_descriptors(void)
{
    int ends[2];

    CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    fds[FD_MEMORY] = memfd_create("guest", MFD_CLOEXEC);
    fds[FD_SMALL] = memfd_create("small", MFD_CLOEXEC);
    fds[FD_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fds[FD_PIPE] = ends[1];
    fds[FD_PATH] = open("/", O_PATH | O_CLOEXEC);
    fds[FD_NONE] = -1;
    fds[FD_CLOSED] = 1000000;
    CHECK(ftruncate(fds[FD_MEMORY], MEMORY) == 0 && ftruncate(fds[FD_SMALL], PAGE / 2) == 0);
    guest = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fds[FD_MEMORY], 0);
    CHECK(guest != MAP_FAILED);
}

void fuzz_begins(void)
{
    struct v9_device_conf conf = {.threads = 1,
                                  .msize_max = MSIZE,
                                  .max_fids = 8,
                                  .mem_regions = REGIONS_MAX,
                                  .mem_bytes = 8 * MEMORY};
    struct v9_export_conf export_conf = {.root_fd = open("/", O_PATH | O_CLOEXEC), .readonly = 1};
    int32_t err;

    CHECK(v9_init() == 0);
    open_descriptors();
    v9_budget_init();
    qidmap = v9_qidmap_new();
    export = v9_export_new(&export_conf, qidmap, &err);
    dev = v9_device_reserve(conf.max_fids);
    CHECK(export && dev && v9_device_start(dev, &conf) == 0);
    CHECK(v9_device_set_export(dev, 0, export) == 0);
}
