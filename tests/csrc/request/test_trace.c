// sources: request/trace.c virtio/iov.c
/*
 * Records of requests: what they hold, who reads them, and a reader that is too slow.
 */
#define _GNU_SOURCE
#include "request/trace.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

enum { FID = 5, DATA = 3000, REPLY = 4096 };

static struct v9_device dev;
static struct v9_request r;
static struct v9_trace *trace;
static uint8_t message[P9_TWRITE_SIZE + DATA], reply[REPLY], out[V9_TRACE_RECORD_MAX];
static char deep[V9_FID_PATH]; /* the name of FID */
static bool unknown;           /* whether it has none */

int v9_fids_pin_evicted(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    static struct v9_fid found = {.uid = 1000};

    *fid = &found;
    return fids == &dev.fids && number == FID ? 0 : -EBADF;
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    CHECK(fids == &dev.fids && fid->uid == 1000);
}

uint32_t v9_fids_path(struct v9_fids *fids, const struct v9_fid *fid, char path[V9_FID_PATH],
                      uint8_t *known, uint8_t *cut)
{
    (void)fids, (void)fid;
    *known = !unknown;
    *cut = false;
    memcpy(path, deep, strlen(deep));
    return (uint32_t)strlen(deep);
}

SET_UP()
{
    trace = mmap(NULL, v9_trace_size(), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(trace != MAP_FAILED);
    pthread_mutex_init(&dev.lock, NULL);
    v9_device_set_trace(&dev, trace);
    CHECK(trace->control.ready);
    trace->control.on = 1;
    strcpy(deep, "/dir/file");
}

TEAR_DOWN()
{
    munmap(trace, v9_trace_size());
}

/* A request of `size` bytes in all, with FID first in its body, whose chain is in two pieces. */
static void ask(uint8_t type, uint32_t size)
{
    static uint32_t seq;

    r.seq = ++seq;
    r.type = type;
    r.tag = 9;
    r.size = size;
    r.data_size = type == P9_TWRITE ? P9_TWRITE_SIZE : size;
    v9_put(v9_put_header(message, size, type, 9), FID, 4);
    memcpy(r.data, message, r.data_size);
    r.chain.iov[0] = (struct iovec){message, 5};
    r.chain.iov[1] = (struct iovec){message + 5, size - 5};
    r.chain.iov[2] = (struct iovec){reply, 8};
    r.chain.iov[3] = (struct iovec){reply + 8, sizeof(reply) - 8};
    r.chain.readable_count = r.chain.writable_count = 2;
    r.chain.readable_size = size;
    r.chain.writable_size = sizeof(reply);
    v9_trace_begin(&dev, &r);
}

static void answer(uint8_t type, uint32_t size)
{
    v9_put_header(reply, size, type, 9);
    v9_trace_end(&dev, &r, size);
}

static const struct v9_trace_record *next(uint64_t *position)
{
    return v9_trace_read(trace, position, out) > 0 ? (const void *)out : NULL;
}

TEST(a_record_has_the_request_its_reply_and_the_path)
{
    const struct v9_trace_record *record;
    const uint8_t *at = out + sizeof(*record);
    uint64_t position = 0;

    ask(P9_TGETATTR, 19);
    CHECK(v9_trace_read(trace, &position, out) == 0);
    answer(P9_TGETATTR + 1, 160);
    record = next(&position);
    CHECK(record && record->number == 1 && record->uid == 1000 && record->began > 0);
    CHECK(record->took >= 0 && record->ended >= record->began);
    CHECK(record->request_size == 19 && record->request_held == 19);
    CHECK(record->reply_size == 160 && record->reply_held == 160);
    CHECK(record->path_state[0] == V9_TRACE_PATH_KNOWN);
    CHECK(record->path_state[1] == V9_TRACE_PATH_NONE && record->path_size[1] == 0);
    CHECK(memcmp(at, "/dir/file", record->path_size[0]) == 0);
    at += record->path_size[0];
    CHECK(memcmp(at, message, 19) == 0);
    CHECK(memcmp(at + 19, reply, 160) == 0);
    CHECK(v9_trace_read(trace, &position, out) == 0);
}

TEST(data_is_left_out_unless_it_is_asked_for)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    for (uint32_t data = 0; data <= 100; data += 100) {
        trace->control.data = data;
        ask(P9_TWRITE, P9_TWRITE_SIZE + DATA);
        answer(P9_TWRITE + 1, 11);
        record = next(&position);
        CHECK(record && record->request_size == P9_TWRITE_SIZE + DATA);
        CHECK(record->request_held == P9_TWRITE_SIZE + data);
        ask(P9_TREAD, 23);
        answer(P9_TREAD + 1, REPLY);
        record = next(&position);
        CHECK(record && record->reply_size == REPLY && record->reply_held == P9_IO_SIZE + data);
    }
}

TEST(data_is_taken_from_the_chain)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    trace->control.data = UINT32_MAX;
    for (uint32_t i = 0; i < DATA; i++)
        message[P9_TWRITE_SIZE + i] = (uint8_t)(i * 7);
    ask(P9_TWRITE, P9_TWRITE_SIZE + DATA);
    answer(P9_TWRITE + 1, 11);
    record = next(&position);
    CHECK(record && record->request_held == record->request_size);
    CHECK(memcmp(out + sizeof(*record) + record->path_size[0], message, sizeof(message)) == 0);
}

TEST(both_files_of_a_rename_are_recorded)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    memset(message, 0, sizeof(message));
    v9_put(message + P9_HEADER_SIZE + 6, FID, 4); /* behind an empty name */
    ask(P9_TRENAMEAT, 19);
    answer(P9_TRENAMEAT + 1, 7);
    record = next(&position);
    CHECK(record && record->path_state[1] == V9_TRACE_PATH_KNOWN && record->path_size[1] == 9);
}

TEST(a_long_path_is_cut_to_its_end)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    memset(deep, 'x', V9_FID_PATH - 2);
    deep[V9_FID_PATH - 3] = 'y';
    ask(P9_TCLUNK, 11);
    answer(P9_TCLUNK + 1, 7);
    record = next(&position);
    CHECK(record && record->path_state[0] == V9_TRACE_PATH_CUT);
    CHECK(record->path_size[0] == V9_TRACE_PATH_MAX);
    CHECK(out[sizeof(*record) + V9_TRACE_PATH_MAX - 1] == 'y');
}

TEST(a_file_without_a_name_and_a_fid_that_is_none)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    unknown = true;
    ask(P9_TCLUNK, 11);
    answer(P9_TCLUNK + 1, 7);
    record = next(&position);
    CHECK(record && record->path_state[0] == V9_TRACE_PATH_GONE);
    v9_put(r.data + P9_HEADER_SIZE, FID + 1, 4);
    r.seq++;
    v9_trace_begin(&dev, &r);
    answer(P9_RLERROR, 11);
    record = next(&position);
    CHECK(record && record->path_state[0] == V9_TRACE_PATH_NONE && record->uid == UINT32_MAX);
}

TEST(a_request_that_runs_again_keeps_when_it_began)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;
    int64_t began;

    ask(P9_TCLUNK, 11);
    began = trace->notes[0].began;
    strcpy(deep, "/other");
    v9_trace_begin(&dev, &r);
    answer(P9_TCLUNK + 1, 7);
    record = next(&position);
    CHECK(record && record->began == began && record->path_size[0] == 9);
}

TEST(a_request_that_began_before_anybody_watched)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    ask(P9_TCLUNK, 11);
    r.seq++;
    answer(P9_TCLUNK + 1, 7);
    record = next(&position);
    CHECK(record && record->began == 0 && record->took == 0 && record->ended > 0);
}

TEST(a_request_that_makes_no_sense_has_its_header)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    r.error = -EINVAL;
    ask(P9_TGETATTR, 19);
    answer(P9_RLERROR, 11);
    record = next(&position);
    CHECK(record && record->request_held == P9_HEADER_SIZE && record->request_size == 19);
    CHECK(record->path_state[0] == V9_TRACE_PATH_NONE);
}

TEST(memory_of_the_guest_may_be_gone)
{
    const struct v9_trace_record *record;
    uint64_t position = 0;

    trace->control.data = DATA;
    ask(P9_TWRITE, P9_TWRITE_SIZE + DATA);
    r.chain.readable_count = r.chain.writable_count = 0;
    r.chain.readable_size = r.chain.writable_size = 0;
    answer(P9_TWRITE + 1, 11);
    record = next(&position);
    CHECK(record && record->request_held == P9_TWRITE_SIZE && record->reply_held == 0);
}

/* Records many times what the ring has room for. */
TEST(records_go_round_and_stay_whole)
{
    const struct v9_trace_record *record;
    uint64_t position = 0, expected = 0;

    trace->control.data = DATA;
    for (int i = 0; i < 3 * V9_TRACE_RING / DATA; i++) {
        memset(message + P9_TWRITE_SIZE, i, DATA);
        ask(P9_TWRITE, P9_TWRITE_SIZE + DATA);
        answer(P9_TWRITE + 1, 11);
        record = next(&position);
        CHECK(record && record->number == ++expected);
        CHECK(memcmp(out + sizeof(*record) + 9, message, sizeof(message)) == 0);
    }
}

TEST(a_reader_that_is_too_slow_goes_on_with_the_next)
{
    uint64_t position = 0, end, records;

    trace->control.data = DATA;
    for (int i = 0; i < 2 * V9_TRACE_RING / DATA; i++) {
        ask(P9_TWRITE, P9_TWRITE_SIZE + DATA);
        answer(P9_TWRITE + 1, 11);
    }
    v9_trace_end_of(trace, &end, &records);
    CHECK(v9_trace_read(trace, &position, out) == -ESTALE && position == end);
    ask(P9_TCLUNK, 11);
    answer(P9_TCLUNK + 1, 7);
    CHECK(next(&position)->number == records + 1);
}

TEST(damaged_records_are_skipped)
{
    const uint32_t sizes[] = {0, 8, sizeof(struct v9_trace_record) - 1, V9_TRACE_RECORD_MAX + 1,
                              UINT32_MAX};
    uint64_t position, end, records;

    ask(P9_TCLUNK, 11);
    answer(P9_TCLUNK + 1, 7);
    v9_trace_end_of(trace, &end, &records);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        position = 0;
        memcpy(trace->ring, &sizes[i], sizeof(sizes[i]));
        CHECK(v9_trace_read(trace, &position, out) == -ESTALE && position == end);
    }
    position = UINT64_MAX - 5; /* whatever the memory says */
    CHECK(v9_trace_read(trace, &position, out) == -ESTALE);
    trace->progress.written = 7;
    position = 0;
    CHECK(v9_trace_read(trace, &position, out) == -ESTALE && position == 7);
}
