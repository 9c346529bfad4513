/*
 * Requests made and replies taken apart: see ninep.h.
 */
#include "ninep.h"

#include <fcntl.h>
#include <string.h>

/* ---- requests */

void put(struct lane *lane, uint64_t value, unsigned bytes)
{
    memcpy(lane->out + lane->head, &value, bytes);
    lane->head += bytes;
}

void put_string(struct lane *lane, const char *text)
{
    size_t length = strlen(text);

    put(lane, length, 2);
    memcpy(lane->out + lane->head, text, length);
    lane->head += (uint32_t)length;
}

void start(struct lane *lane, unsigned type)
{
    lane->head = 4;
    lane->payload = 0;
    lane->way = NO_PAYLOAD;
    lane->in_size = HEADER_MAX;
    lane->error = 0;
    put(lane, type, 1);
    put(lane, type == T_VERSION ? 0xffff : lane->index, 2);
}

/* The size counts the payload that follows. */
bool finish(struct lane *lane)
{
    uint32_t size = lane->head + (lane->way == PAYLOAD_OUT ? lane->payload : 0);

    memcpy(lane->out, &size, 4);
    return true;
}

uint32_t own_fid(const struct lane *lane)
{
    return FID_LANES + lane->index;
}

bool walk(struct lane *lane, uint32_t from, uint32_t to, unsigned count, const char *const *names)
{
    start(lane, T_WALK);
    put(lane, from, 4);
    put(lane, to, 4);
    put(lane, count, 2);
    for (unsigned i = 0; i < count; i++)
        put_string(lane, names[i]);
    return finish(lane);
}

bool walk_one(struct lane *lane, uint32_t from, const char *name)
{
    return walk(lane, from, own_fid(lane), 1, &name);
}

bool clunk(struct lane *lane, uint32_t fid)
{
    start(lane, T_CLUNK);
    put(lane, fid, 4);
    return finish(lane);
}

bool getattr(struct lane *lane, uint32_t fid)
{
    start(lane, T_GETATTR);
    put(lane, fid, 4);
    put(lane, GETATTR_BASIC, 8);
    return finish(lane);
}

bool lopen(struct lane *lane, uint32_t fid, uint32_t flags)
{
    start(lane, T_LOPEN);
    put(lane, fid, 4);
    put(lane, flags, 4);
    return finish(lane);
}

bool transfer(struct lane *lane, unsigned type, uint64_t offset, uint32_t count)
{
    lane->offset = offset;
    start(lane, type);
    put(lane, own_fid(lane), 4);
    put(lane, offset, 8);
    put(lane, count, 4);
    lane->payload = count;
    lane->way = type == T_WRITE ? PAYLOAD_OUT : PAYLOAD_IN;
    if (type != T_WRITE)
        lane->in_size = HEADER + 4;
    return finish(lane);
}

bool attach(struct lane *lane, uint32_t fid)
{
    start(lane, T_ATTACH);
    put(lane, fid, 4);
    put(lane, 0xffffffff, 4);
    put_string(lane, "root");
    put_string(lane, "");
    put(lane, 0, 4);
    return finish(lane);
}

bool lcreate(struct lane *lane, uint32_t fid, const char *name)
{
    start(lane, T_LCREATE);
    put(lane, fid, 4);
    put_string(lane, name);
    put(lane, O_RDWR | O_CREAT | O_EXCL, 4);
    put(lane, 0644, 4);
    put(lane, 0, 4);
    return finish(lane);
}

bool unlink_in(struct lane *lane, uint32_t directory, const char *name, uint32_t flags)
{
    start(lane, T_UNLINKAT);
    put(lane, directory, 4);
    put_string(lane, name);
    put(lane, flags, 4);
    return finish(lane);
}

/* ---- replies */

uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, at, bytes);
    return value;
}

void check(const struct lane *lane)
{
    unsigned asked = lane->out[4], type = lane->in[4];
    uint16_t tag = asked == T_VERSION ? 0xffff : (uint16_t)lane->index;
    int error = type == R_LERROR ? (int)get(lane->in + HEADER, 4) : 0;

    if (lane->written < HEADER || get(lane->in, 4) != lane->written)
        wrong(lane, "size %u in a reply of %u bytes", (unsigned)get(lane->in, 4), lane->written);
    if (get(lane->in + 5, 2) != tag)
        wrong(lane, "tag %u instead of %u", (unsigned)get(lane->in + 5, 2), tag);
    if (error != lane->error)
        engine_take_error(lane, asked, error);
    if (type != R_LERROR && type != asked + 1)
        wrong(lane, "request %u got reply %u", asked, type);
}

void expect_size(const struct lane *lane, uint32_t size)
{
    if (lane->written != size)
        wrong(lane, "%u bytes instead of %u", lane->written, size);
}

bool ended(const struct lane *lane)
{
    expect_size(lane, HEADER);
    return false;
}

struct qid qid_at(const uint8_t *at)
{
    return (struct qid){at[0], get(at + 5, 8)};
}

void expect_qid(const struct lane *lane, const uint8_t *at, struct qid want)
{
    struct qid got = qid_at(at);

    if (got.type != want.type || got.path != want.path)
        wrong(lane, "qid %x/%llx instead of %x/%llx", got.type, (unsigned long long)got.path,
              want.type, (unsigned long long)want.path);
}

const uint8_t *walked(const struct lane *lane, unsigned count)
{
    expect_size(lane, HEADER + 2 + count * QID);
    if (get(lane->in + HEADER, 2) != count)
        wrong(lane, "%u qids instead of %u", (unsigned)get(lane->in + HEADER, 2), count);
    return lane->in + lane->written - QID;
}

void expect_attr(const struct lane *lane, struct qid qid, uint32_t mode, uint64_t size)
{
    const uint8_t *at = lane->in + HEADER;

    expect_size(lane, HEADER + 8 + QID + 12 + 15 * 8);
    if ((get(at, 8) & GETATTR_BASIC) != GETATTR_BASIC)
        wrong(lane, "valid is %llx", (unsigned long long)get(at, 8));
    expect_qid(lane, at + 8, qid);
    if (get(at + 8 + QID, 4) != mode || get(at + 8 + QID + 12 + 16, 8) != size)
        wrong(lane, "mode %o, size %llu instead of %o, %llu", (unsigned)get(at + 8 + QID, 4),
              (unsigned long long)get(at + 8 + QID + 28, 8), mode, (unsigned long long)size);
}

uint32_t received(const struct lane *lane, uint32_t count, bool atmost)
{
    uint32_t got = (uint32_t)get(lane->in + HEADER, 4);

    expect_size(lane, HEADER + 4 + got);
    if (got > count || (!atmost && got != count))
        wrong(lane, "%u bytes read instead of %u", got, count);
    return got;
}

struct qid reach(struct lane *lane, uint32_t from, uint32_t to, const char *name)
{
    walk(lane, from, to, 1, &name);
    engine_call(lane);
    return qid_at(walked(lane, 1));
}

void give_back(struct lane *lane, uint32_t fid)
{
    clunk(lane, fid);
    engine_call(lane);
    expect_size(lane, HEADER);
}
