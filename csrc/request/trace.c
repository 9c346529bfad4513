#define _GNU_SOURCE
#include "request/trace.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "fid/fid_names.h"
#include "virtio/iov.h"

_Static_assert(sizeof(struct v9_trace_record) + 2 * V9_TRACE_PATH_MAX + 2 * V9_REQUEST_DATA +
                       P9_TWRITE_SIZE + V9_TRACE_DATA_MAX <=
                   V9_TRACE_RECORD_MAX,
               "a record has room");

uint64_t v9_trace_size(void)
{
    return sizeof(struct v9_trace);
}

void v9_device_set_trace(v9_device *dev, void *memory)
{
    pthread_mutex_lock(&dev->lock);
    dev->trace = memory;
    dev->trace->control.ready = true;
    pthread_mutex_unlock(&dev->lock);
}

/* ---- when a request begins ------------------------------------------------------------------- */

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The fids of files that a request is about, at most two: how many. */
static uint32_t find_fids(const struct v9_request *r, uint32_t fids[2])
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    uint16_t size;

    if (r->error || r->type == P9_TVERSION || r->type == P9_TAUTH || r->type == P9_TATTACH ||
        r->type == P9_TFLUSH)
        return 0;
    fids[0] = v9_in_u32(&in);
    if (in.bad)
        return 0;
    if (r->type == P9_TRENAMEAT)
        v9_in_string(&in, &size);
    else if (r->type != P9_TLINK && r->type != P9_TRENAME)
        return 1;
    fids[1] = v9_in_u32(&in);
    return in.bad ? 1 : 2;
}

/* The end of a fid's name, if that is long. */
static void note_path(struct v9_device *dev, uint32_t number, struct v9_trace_note *note,
                      struct v9_trace_path *out)
{
    const struct v9_inode *inode;
    char path[V9_FID_PATH];
    uint8_t known, cut;
    struct v9_fid *fid;
    uint32_t size;

    if (v9_fids_pin_evicted(&dev->fids, number, &fid))
        return;
    inode = v9_fids_inode(&dev->fids, fid);
    size = v9_fids_path(&dev->fids, fid, path, &known, &cut);
    note->uid = fid->uid;
    out->export = inode ? (uint16_t)inode->export : 0;
    v9_fids_unpin(&dev->fids, fid);
    out->size = (uint16_t)(size < V9_TRACE_PATH_MAX ? size : V9_TRACE_PATH_MAX);
    memcpy(out->text, path + size - out->size, out->size);
    if (cut || size > V9_TRACE_PATH_MAX)
        out->state = V9_TRACE_PATH_CUT;
    else
        out->state = known ? V9_TRACE_PATH_KNOWN : V9_TRACE_PATH_GONE;
}

void v9_trace_begin(struct v9_device *dev, const struct v9_request *r)
{
    struct v9_trace_note *note = &dev->trace->notes[r->slot];
    uint32_t fids[2], count;

    if (note->seq == r->seq)
        return;
    note->began = now_ns(CLOCK_REALTIME);
    note->began_monotonic = now_ns(CLOCK_MONOTONIC);
    note->uid = UINT32_MAX;
    note->paths[0].state = note->paths[1].state = V9_TRACE_PATH_NONE;
    note->paths[0].size = note->paths[1].size = 0;
    count = find_fids(r, fids);
    for (uint32_t i = 0; i < count; i++)
        note_path(dev, fids[i], note, &note->paths[i]);
    note->seq = r->seq;
}

/* ---- when it ends ---------------------------------------------------------------------------- */

/* Where the next bytes of a record are in the ring, and how many of `size` fit before its end. */
static uint8_t *room_at(struct v9_trace *trace, uint64_t at, size_t size, size_t *fitting)
{
    const size_t offset = at % V9_TRACE_RING;

    *fitting = size < V9_TRACE_RING - offset ? size : V9_TRACE_RING - offset;
    return trace->ring + offset;
}

static uint64_t put(struct v9_trace *trace, uint64_t at, const void *data, size_t size)
{
    size_t first;
    uint8_t *to = room_at(trace, at, size, &first);

    memcpy(to, data, first);
    memcpy(trace->ring, (const uint8_t *)data + first, size - first);
    return at + size;
}

static uint64_t put_segments(struct v9_trace *trace, uint64_t at, const struct iovec *iov,
                             uint32_t count, size_t offset, size_t size)
{
    size_t first;
    uint8_t *to = room_at(trace, at, size, &first);

    v9_iov_gather(iov, count, offset, to, first);
    v9_iov_gather(iov, count, offset + first, trace->ring, size - first);
    return at + size;
}

static uint32_t smaller(uint32_t one, uint32_t other)
{
    return one < other ? one : other;
}

/* How many bytes of a message are recorded, of those that there are: all but of data, and of what
 * no client sends. */
static uint32_t recorded(const struct v9_trace *trace, uint8_t type, uint32_t size)
{
    const uint32_t data = __atomic_load_n(&trace->control.data, __ATOMIC_RELAXED);
    uint32_t most = V9_REQUEST_DATA;

    if (type == P9_TWRITE)
        most = P9_TWRITE_SIZE + smaller(data, V9_TRACE_DATA_MAX);
    else if (type == P9_TREAD + 1 || type == P9_TREADDIR + 1)
        most = P9_IO_SIZE + smaller(data, V9_TRACE_DATA_MAX);
    return smaller(size, most);
}

static void describe(const struct v9_device *dev, const struct v9_request *r, uint32_t size,
                     struct v9_trace_record *out)
{
    struct v9_trace *trace = dev->trace;
    const struct v9_chain *chain = &r->chain;
    const struct iovec *reply = chain->iov + chain->readable_count;
    uint8_t head[P9_HEADER_SIZE] = {0};
    size_t there;

    *out = (struct v9_trace_record){
        .request_size = r->size,
        .request_held = P9_HEADER_SIZE,
        .reply_size = size,
        .number = ++trace->progress.records,
        .ended = now_ns(CLOCK_REALTIME),
        .uid = UINT32_MAX,
        .dialect = r->dialect,
    };
    if (!r->error)
        out->request_held = recorded(trace, r->type, r->size);
    if (out->request_held > r->data_size && chain->readable_size < out->request_held)
        out->request_held = r->data_size; /* its memory was taken away */
    there = v9_iov_gather(reply, chain->writable_count, 0, head, sizeof(head));
    if (there == sizeof(head))
        out->reply_held = recorded(trace, head[4], smaller(size, chain->writable_size));
}

/* The header of a request that is not to be understood. */
static uint64_t put_header(struct v9_trace *trace, uint64_t at, const struct v9_request *r)
{
    uint8_t head[P9_HEADER_SIZE];

    v9_put_header(head, r->size, r->type, r->tag);
    return put(trace, at, head, sizeof(head));
}

static uint64_t put_request(struct v9_trace *trace, uint64_t at, const struct v9_request *r,
                            uint32_t held)
{
    const uint32_t copied = smaller(held, r->data_size);

    if (r->error)
        return put_header(trace, at, r);
    at = put(trace, at, r->data, copied);
    return put_segments(trace, at, r->chain.iov, r->chain.readable_count, copied, held - copied);
}

void v9_trace_end(struct v9_device *dev, const struct v9_request *r, uint32_t size)
{
    struct v9_trace *trace = dev->trace;
    const struct v9_trace_note *note = &trace->notes[r->slot];
    const struct iovec *reply = r->chain.iov + r->chain.readable_count;
    const uint64_t begin = trace->progress.written;
    struct v9_trace_record record;
    uint64_t at;

    describe(dev, r, size, &record);
    if (note->seq == r->seq) {
        record.began = note->began;
        record.took = now_ns(CLOCK_MONOTONIC) - note->began_monotonic;
        record.uid = note->uid;
        for (int i = 0; i < 2; i++) {
            record.path_state[i] = note->paths[i].state;
            record.path_export[i] = note->paths[i].export;
            record.path_size[i] = (uint16_t)smaller(note->paths[i].size, V9_TRACE_PATH_MAX);
        }
    }
    record.size = (uint32_t)(sizeof(record) + record.path_size[0] + record.path_size[1] +
                             record.request_held + record.reply_held);
    /* A reader believes what it has copied only if this has not come round to it meanwhile. */
    __atomic_store_n(&trace->progress.claimed, begin + record.size, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    at = put(trace, begin, &record, sizeof(record));
    for (int i = 0; i < 2; i++)
        at = put(trace, at, note->paths[i].text, record.path_size[i]);
    at = put_request(trace, at, r, record.request_held);
    at = put_segments(trace, at, reply, r->chain.writable_count, 0, record.reply_held);
    __atomic_store_n(&trace->progress.written, at, __ATOMIC_RELEASE);
}

/* ---- who watches ----------------------------------------------------------------------------- */

static void copy(const struct v9_trace *trace, uint64_t at, uint8_t *out, size_t size)
{
    const size_t offset = at % V9_TRACE_RING;
    const size_t first = size < V9_TRACE_RING - offset ? size : V9_TRACE_RING - offset;

    memcpy(out, trace->ring + offset, first);
    memcpy(out + first, trace->ring, size - first);
}

/* Copies a record of which no more than `most` bytes can be there; its size, 0 if that makes no
 * sense. */
static uint32_t copy_record(const struct v9_trace *trace, uint64_t at, uint64_t most, uint8_t *out)
{
    struct v9_trace_record head;

    if (most < sizeof(head))
        return 0;
    copy(trace, at, out, sizeof(head));
    memcpy(&head, out, sizeof(head));
    if (head.size < sizeof(head) || head.size > most || head.size > V9_TRACE_RECORD_MAX)
        return 0;
    copy(trace, at + sizeof(head), out + sizeof(head), head.size - sizeof(head));
    return head.size;
}

int v9_trace_read(const void *memory, uint64_t *position, uint8_t *out)
{
    const struct v9_trace *trace = memory;
    const uint64_t begin = *position;
    const uint64_t written = __atomic_load_n(&trace->progress.written, __ATOMIC_ACQUIRE);
    uint32_t size;

    if (begin == written)
        return 0;
    size = copy_record(trace, begin, written - begin, out);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!size ||
        __atomic_load_n(&trace->progress.claimed, __ATOMIC_RELAXED) - begin > V9_TRACE_RING) {
        *position = written;
        return -ESTALE;
    }
    *position = begin + size;
    return (int)size;
}

void v9_trace_end_of(const void *memory, uint64_t *position, uint64_t *records)
{
    const struct v9_trace *trace = memory;

    *position = __atomic_load_n(&trace->progress.written, __ATOMIC_ACQUIRE);
    *records = __atomic_load_n(&trace->progress.records, __ATOMIC_RELAXED);
}
