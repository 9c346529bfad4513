/*
 * Whether a reply is one that the protocol has for its request: of the right type, with exactly its
 * fields, and no longer than was asked for.
 */
#ifndef FUZZ_REPLIES_H
#define FUZZ_REPLIES_H

#include "requests.h"

enum { QID_DIR = 0x80, QID_LINK = 0x02, ERRNO_MAX = 4095 };

static inline void skip(struct v9_in *in, uint32_t bytes)
{
    for (; bytes; bytes--)
        v9_in_number(in, 1);
}

static inline bool is_qid(struct v9_in *in)
{
    const uint8_t type = (uint8_t)v9_in_number(in, 1);

    skip(in, P9_QID_SIZE - 1);
    return type == 0 || type == QID_DIR || type == QID_LINK;
}

/* What a guest takes for one entry of a directory. */
static inline bool is_name(const char *name, uint16_t size)
{
    return size && size <= P9_NAME_MAX && !memchr(name, '/', size) && !memchr(name, 0, size);
}

static inline bool are_entries(struct v9_in *in)
{
    const uint32_t count = v9_in_u32(in);
    uint16_t size;

    if (in->end - in->at != count)
        return false;
    while (in->at < in->end) {
        if (!is_qid(in))
            return false;
        skip(in, 8 + 1); /* offset, type */
        const char *name = v9_in_string(in, &size);
        if (in->bad || !is_name(name, size))
            return false;
    }
    return true;
}

/* size[2], and the same structure as in a directory of 9P2000.u: dialect_u_messages.py. */
static inline bool is_stat(struct v9_in *in)
{
    const uint16_t outer = v9_in_u16(in), inner = v9_in_u16(in);
    uint16_t size;

    if (outer != inner + 2 || in->end - in->at != inner)
        return false;
    skip(in, 2 + 4); /* type, dev */
    if (!is_qid(in))
        return false;
    skip(in, 3 * 4 + 8); /* mode, atime, mtime, length */
    for (uint32_t strings = 5; strings; strings--)
        v9_in_string(in, &size);
    skip(in, 3 * 4); /* ids */
    return true;
}

static inline bool is_field(struct v9_in *in, char field)
{
    uint16_t size;

    switch (field) {
    case 'q':
        return is_qid(in);
    case 's':
        v9_in_string(in, &size);
        return true;
    case 'w':
        for (size = v9_in_u16(in); size; size--) {
            if (in->bad || !is_qid(in))
                return false;
        }
        return true;
    case 'd':
        size = v9_in_u32(in) == in->end - in->at;
        in->at = in->end;
        return size;
    case 'e':
        return are_entries(in);
    case 't':
        return is_stat(in);
    default:
        v9_in_number(in, (uint32_t)(field - '0'));
        return true;
    }
}

/* Rlerror, or Rerror: without its number, where the guest's buffer has no room for it. */
static inline bool is_error(uint8_t type, struct v9_in *in, uint32_t room)
{
    uint16_t size;
    uint32_t number = 1;

    if (type == P9_RERROR)
        v9_in_string(in, &size);
    if (type == P9_RLERROR || room >= P9_RERROR_SIZE)
        number = v9_in_u32(in);
    return v9_in_is_done(in) && number && number <= ERRNO_MAX;
}

/* A count of names or bytes, which a reply has as well: not a larger one. */
static inline bool is_bounded(const uint8_t *request, const uint8_t *reply)
{
    const uint32_t at = request[4] == P9_TWALK ? 15 : 19, bytes = request[4] == P9_TWALK ? 2 : 4;
    uint32_t asked = 0, got = 0;

    if (request[4] != P9_TWALK && request[4] != P9_TREAD && request[4] != P9_TWRITE &&
        request[4] != P9_TREADDIR)
        return true;
    memcpy(&asked, request + at, bytes);
    memcpy(&got, reply + P9_HEADER_SIZE, bytes);
    return got <= asked;
}

/* Of a reply of so many bytes to a buffer of so many; its header was checked. */
static inline bool is_reply(const uint8_t *request, const uint8_t *reply, uint32_t size,
                            uint32_t room)
{
    struct v9_in in = {reply + P9_HEADER_SIZE, reply + size, false};
    const char *fields = NULL;

    if (reply[4] == P9_RLERROR || reply[4] == P9_RERROR)
        return is_error(reply[4], &in, room);
    if (reply[4] != request[4] + 1)
        return false;
    for (uint32_t i = 0; i < CHOICES(request_types); i++) {
        if (request_types[i].type == request[4])
            fields = request_types[i].reply;
    }
    for (; fields && *fields; fields++) {
        if (!is_field(&in, *fields))
            return false;
    }
    return fields && v9_in_is_done(&in) && is_bounded(request, reply);
}

#endif
