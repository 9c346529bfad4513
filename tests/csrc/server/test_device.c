// sources: server/device.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * A device while it serves: its memory table changes, its ring is drained with requests in flight,
 * it is reset, and freed.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "server/served.h"

enum { LONG_MS = 60000 }; /* more than any request here takes */
enum { FAR_SIZE = 0x10000 };
#define FAR_GPA (GPA + 0x10000000)
#define FAR_UVA (UVA + 0x10000000)

/* ---- memory ------------------------------------------------------------------------------------
 */

/* A second region, which holds a request to Python. */
static int create_far_region(void)
{
    const int fd = memfd_create("far", MFD_CLOEXEC);
    uint8_t request[P9_HEADER_SIZE];

    v9_put_header(request, sizeof(request), AT_ONCE, 0);
    CHECK(ftruncate(fd, FAR_SIZE) == 0);
    CHECK(pwrite(fd, request, sizeof(request), 0) == sizeof(request));
    return fd;
}

/* Sends it: the type of the reply. */
static int exchange_far(void)
{
    const uint16_t before = used[1];

    write_request(0, 0, "", 0);
    descs[0] = (struct desc){FAR_GPA, P9_HEADER_SIZE, NEXT, 1};
    descs[1] = data(REPLY_AT, ROOM, WRITE, 0);
    offer_to(0, false, kick_fd);
    wait_for_used((uint16_t)(before + 1));
    guest[DATA_AT + REPLY_AT + 5] = guest[DATA_AT + REPLY_AT + 6] = 0; /* the tag is unknown */
    return reply_in(0);
}

TEST(memory_comes_and_goes_while_the_ring_is_served)
{
    int fd;

    serve();
    fd = create_far_region();
    CHECK(exchange_far() == -EFAULT);
    CHECK(v9_device_mem_add(dev, FAR_GPA, FAR_SIZE, FAR_UVA, 0, fd) == 0);
    CHECK(v9_device_mem_count(dev) == 2);
    CHECK(exchange_far() == AT_ONCE + 1);
    CHECK(v9_device_mem_remove(dev, FAR_GPA, FAR_SIZE, FAR_UVA) == 0);
    CHECK(v9_device_mem_count(dev) == 1);
    CHECK(exchange_far() == -EFAULT);
    close(fd);
    stop();
}

/* Replaces all memory by a copy, and clears the old one, which it returns. */
static uint8_t *replace_memory(void)
{
    struct v9_region_conf region = {.gpa = GPA, .size = MEMORY, .uva = UVA};
    uint8_t *old = guest;

    create_memory();
    memcpy(guest, old, MEMORY);
    region.fd = memory_fd;
    CHECK(v9_device_mem_set(dev, &region, 1) == 0);
    memset(old, 0, MEMORY);
    return old;
}

/* All memory is replaced. Of the requests, Python answers one later, and hangs in the other. */
TEST(requests_that_wait_are_answered_in_the_memory_that_is_there_then)
{
    uint8_t *old;

    serve();
    exchange(3);
    send(0, LATER, 0);
    wait_for(waits_fd);
    send(1, HANGS, 0);
    wait_for(waits_fd);
    old = replace_memory();
    exchange(2);
    CHECK(answer_later(0) == 0);
    notify(release_fd);
    wait_for_used(4);
    CHECK(reply_in(0) == LATER + 1 && reply_in(1) == HANGS + 1);
    stop();
    for (uint32_t i = 0; i < MEMORY; i++)
        if (old[i] && !CHECK(!"the old memory is not touched"))
            break;
}

/* The C library's, which may take long. */
int fsync(int fd)
{
    hang();
    return fd < 0 ? -1 : 0;
}

TEST(memory_may_change_while_the_host_makes_a_file_durable)
{
    const uint32_t open_file[] = {1, O_RDWR}, fsync_file[] = {1, 0};

    serve();
    host_writes("file", "text");
    add_fid(1, "file");
    CHECK(ask(P9_TLOPEN, open_file, sizeof(open_file)) == P9_TLOPEN + 1);
    send_body(1, P9_TFSYNC, fsync_file, sizeof(fsync_file));
    wait_for(waits_fd);
    replace_memory();
    notify(release_fd);
    wait_for_used(2);
    CHECK(reply_in(1) == P9_TFSYNC + 1);
    stop();
}

TEST(a_ring_goes_on_once_memory_has_all_of_its_parts_again)
{
    serve();
    exchange(0);
    CHECK(v9_device_mem_remove(dev, GPA, MEMORY, UVA) == 0);
    send(1, AT_ONCE, 0);
    pause_briefly();
    CHECK(v9_ring_is_started(dev) && used[1] == 1 && !stats().broken);
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    wait_for_used(2);
    CHECK(reply_in(1) == AT_ONCE + 1);
    stop();
}

TEST(a_region_that_is_refused_changes_nothing)
{
    conf.mem_regions = 2;
    conf.mem_bytes = MEMORY + FAR_SIZE;
    serve();
    CHECK(v9_device_mem_add(dev, FAR_GPA, 0, FAR_UVA, 0, memory_fd) == -EINVAL);
    CHECK(v9_device_mem_add(dev, FAR_GPA, 4096, FAR_UVA, MEMORY, memory_fd) == -EINVAL);
    CHECK(v9_device_mem_add(dev, FAR_GPA, 4096, UVA, 0, memory_fd) == -EEXIST);
    CHECK(v9_device_mem_add(dev, GPA, 4096, FAR_UVA, 0, memory_fd) == -EEXIST);
    CHECK(v9_device_mem_add(dev, FAR_GPA, FAR_SIZE + 4096, FAR_UVA, 0, memory_fd) == -ENOMEM);
    CHECK(v9_device_mem_add(dev, FAR_GPA, FAR_SIZE, FAR_UVA, 0, memory_fd) == 0);
    CHECK(v9_device_mem_add(dev, 0, 4096, 0, 0, memory_fd) == -ENOSPC);
    CHECK(v9_device_mem_remove(dev, GPA, MEMORY, FAR_UVA) == -ENOENT);
    CHECK(v9_device_mem_remove(dev, FAR_GPA, FAR_SIZE / 2, FAR_UVA) == -ENOENT);
    exchange(0);
    stop();
}

TEST(a_table_that_is_refused_leaves_none)
{
    struct v9_region_conf regions[2] = {{.gpa = GPA, .size = MEMORY, .uva = UVA}};

    serve();
    exchange(0);
    regions[0].fd = regions[1].fd = memory_fd;
    regions[1].gpa = FAR_GPA; /* without a size */
    CHECK(v9_device_mem_set(dev, regions, 2) == -EINVAL);
    CHECK(v9_device_mem_remove(dev, GPA, MEMORY, UVA) == -ENOENT);
    send(1, AT_ONCE, 0);
    pause_briefly();
    CHECK(used[1] == 1);
    CHECK(v9_device_mem_set(dev, regions, 1) == 0);
    wait_for_used(2);
    stop();
}

/* An eighth of the device's share of descriptors, or eight. */
TEST(regions_take_no_more_than_their_part_of_the_descriptors)
{
    const uint32_t shares[] = {16, 160}, most[] = {8, 20};
    uint32_t count;

    create_device();
    create_memory();
    for (int i = 0; i < 2; i++) {
        v9_budget_set(shares[i], 0);
        CHECK(v9_device_mem_set(dev, NULL, 0) == 0);
        for (count = 0; count < 100; count++)
            if (v9_device_mem_add(dev, count * 4096, 4096, count * 4096, 0, memory_fd))
                break;
        CHECK(count == most[i]);
        CHECK(v9_device_mem_add(dev, GPA, 4096, UVA, 0, memory_fd) == -EMFILE);
    }
    stop();
}

/* ---- draining ----------------------------------------------------------------------------------
 */

static void *release(void *unused)
{
    pause_briefly();
    notify(release_fd);
    return unused;
}

TEST(a_drain_waits_for_the_requests_in_flight)
{
    pthread_t thread;

    serve();
    send(0, HANGS, 0);
    wait_for(waits_fd);
    CHECK(pthread_create(&thread, NULL, release, NULL) == 0);
    v9_ring_pause(dev);
    CHECK(v9_ring_drain(dev, LONG_MS) == 1);
    CHECK(used[1] == 1 && reply_in(0) == HANGS + 1);
    pthread_join(thread, NULL);
    stop();
}

/* Of three requests, Python answers one later, and hangs in one; the last one hangs in C. None of
 * them is published any more when it ends, to this ring or to the next. */
TEST(requests_that_are_left_after_a_drain_are_answered_with_an_error)
{
    serve();
    add_fid(ROOT, "");
    CHECK(v9_qidmap_forget_devices(qidmap) == 0);
    __atomic_store_n(&questions_hang, true, __ATOMIC_SEQ_CST);
    send(0, LATER, 0);
    wait_for(waits_fd);
    send(1, HANGS, 0);
    wait_for(waits_fd);
    send_body(2, P9_TGETATTR, (uint8_t[12]){ROOT}, 12);
    wait_for(waits_fd);
    CHECK(stats().inflight == 3);
    CHECK(v9_ring_drain(dev, 0) == 3);
    CHECK(used[1] == 3 && stats().inflight == 0);
    CHECK(reply_in(0) == -EIO && reply_in(1) == -EIO && reply_in(2) == -EIO);
    CHECK(answer_later(0) == -ESTALE);
    start_ring(kick_fd);
    exchange(3);
    notify(release_fd);
    notify(release_fd);
    exchange(3);
    CHECK(v9_device_free(dev) == 1);
    CHECK(used[1] == 5);
    CHECK(reply_in(0) == -EIO && reply_in(1) == -EIO && reply_in(2) == -EIO);
    clean_up();
}

/* ---- resetting and freeing ---------------------------------------------------------------------
 */

static void serve_again(void)
{
    memset(guest, 0, DATA_AT);
    set_up_ring(0);
    start_ring(kick_fd);
    exchange(0);
}

TEST(a_reset_ends_the_session_and_stops_the_ring)
{
    uint8_t body[100] = {0};
    const char *reason;
    uint64_t handle;

    serve();
    add_fid(ROOT, "");
    v9_device_set_msize(dev, 50);
    v9_device_set_dialect(dev, V9_9P2000U);
    exchange(0);
    v9_device_reset(dev, false);
    CHECK(!v9_ring_is_started(dev) && stats().fids == 0 && stats().inodes == 0);
    CHECK(v9_fid_find(dev, ROOT, &handle) == -EBADF);
    CHECK(v9_ring_set_kick(dev, kick_fd, &reason) == -EINVAL && strstr(reason, "size"));
    set_up_ring(0);
    CHECK(v9_ring_set_kick(dev, kick_fd, &reason) == -EINVAL && strstr(reason, "outside"));
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    serve_again();
    send_body(1, AT_ONCE, body, sizeof(body));
    send(2, P9_TCLUNK, ROOT);
    wait_for_used(3);
    CHECK(reply_in(1) == AT_ONCE + 1 && reply_in(2) == -EBADF);
    stop();
}

TEST(a_reset_may_leave_the_memory)
{
    serve();
    exchange(0);
    v9_device_reset(dev, true);
    serve_again();
    stop();
}

TEST(a_device_is_freed_with_all_that_it_has)
{
    serve();
    add_fid(ROOT, "");
    host_writes("file", "text");
    add_fid(1, "file");
    send(0, LATER, 0);
    wait_for(waits_fd);
    CHECK(stats().inflight == 1 && stats().fids == 2);
    stop();
}

/* Its thread uses it when it is back. */
TEST(a_device_in_which_a_thread_hangs_is_not_freed)
{
    serve();
    send(0, HANGS, 0);
    wait_for(waits_fd);
    CHECK(v9_device_free(dev) == 0);
    CHECK(stats().threads == 1);
    notify(release_fd);
    while (stats().threads)
        pause_briefly();
    CHECK(stats().inflight == 0);
    clean_up();
}

/* ---- exports and sessions ----------------------------------------------------------------------
 */

TEST(a_device_serves_once_it_has_its_first_export)
{
    struct v9_export_conf export_conf = {.root_fd = -1};
    v9_export *other;
    int32_t err;

    create_device();
    create_memory();
    CHECK(v9_device_mem_add(dev, GPA, MEMORY, UVA, 0, memory_fd) == 0);
    set_up_ring(0);
    start_ring(kick_fd);
    send(0, AT_ONCE, 0);
    export_conf.root_fd = open(top, O_PATH | O_CLOEXEC);
    other = v9_export_new(&export_conf, qidmap, &err);
    close(export_conf.root_fd);
    CHECK(v9_device_set_export(dev, V9_EXPORTS_MAX, other) == -ENOSPC);
    CHECK(v9_device_set_export(dev, V9_EXPORTS_MAX - 1, other) == 0);
    CHECK(v9_export_index(other) == V9_EXPORTS_MAX - 1);
    pause_briefly();
    CHECK(used[1] == 0);
    CHECK(v9_device_set_export(dev, 0, export) == 0 && v9_export_index(export) == 0);
    wait_for_used(1);
    CHECK(v9_device_free(dev) == 1);
    v9_export_free(other);
    clean_up();
}

/* Sends a message of this size; the reply. */
static int exchange_sized(uint32_t size)
{
    static const uint8_t body[ROOM];

    return ask(AT_ONCE, body, size - P9_HEADER_SIZE);
}

/* The guest's choice, up to the one of the configuration. */
TEST(messages_beyond_msize_are_refused)
{
    conf.msize_max = 128;
    serve();
    CHECK(exchange_sized(128) == AT_ONCE + 1 && exchange_sized(129) == -EMSGSIZE);
    v9_device_set_msize(dev, 64);
    CHECK(exchange_sized(64) == AT_ONCE + 1 && exchange_sized(65) == -EMSGSIZE);
    v9_device_set_msize(dev, 1000);
    CHECK(exchange_sized(128) == AT_ONCE + 1 && exchange_sized(129) == -EMSGSIZE);
    stop();
}

TEST(an_error_is_reported_in_the_dialect_of_the_session)
{
    serve();
    v9_device_set_dialect(dev, V9_9P2000U);
    send(0, P9_TCLUNK, 77);
    wait_for_used(1);
    CHECK(reply_in(0) == P9_RERROR);
    v9_device_set_dialect(dev, V9_9P2000L);
    send(0, P9_TCLUNK, 77);
    wait_for_used(2);
    CHECK(reply_in(0) == -EBADF);
    stop();
}
