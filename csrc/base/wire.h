/*
 * wire: fixed-size little-endian fields of 9P messages in flat memory.
 *
 * Decoding never reads past the end: a short message sets `bad` and yields zeros, so that a handler
 * decodes all of its fields and looks once. Encoding writes into buffers whose size the caller has
 * proven. 9P is little-endian, as are the hosts that QEMU's shared memory is built for here.
 */
#ifndef V9_BASE_WIRE_H
#define V9_BASE_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/api.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "vhost9p reads rings and 9P messages in place: little-endian hosts only"
#endif

enum {
    P9_RLERROR = 7,
    P9_TSTATFS = 8,
    P9_TLOPEN = 12,
    P9_TLCREATE = 14,
    P9_TSYMLINK = 16,
    P9_TMKNOD = 18,
    P9_TRENAME = 20,
    P9_TREADLINK = 22,
    P9_TGETATTR = 24,
    P9_TSETATTR = 26,
    P9_TXATTRWALK = 30,
    P9_TXATTRCREATE = 32,
    P9_TREADDIR = 40,
    P9_TFSYNC = 50,
    P9_TLOCK = 52,
    P9_TGETLOCK = 54,
    P9_TLINK = 70,
    P9_TMKDIR = 72,
    P9_TRENAMEAT = 74,
    P9_TUNLINKAT = 76,
    P9_TVERSION = 100,
    P9_TAUTH = 102,
    P9_TATTACH = 104,
    P9_RERROR = 107,
    P9_TFLUSH = 108,
    P9_TWALK = 110,
    P9_TOPEN = 112,
    P9_TCREATE = 114,
    P9_TREAD = 116,
    P9_TWRITE = 118,
    P9_TCLUNK = 120,
    P9_TREMOVE = 122,
    P9_TSTAT = 124,
    P9_TWSTAT = 126,
};

enum {
    P9_HEADER_SIZE = 7,   /* size[4] type[1] tag[2] */
    P9_RLERROR_SIZE = 11, /* header ecode[4] */
    P9_RERROR_SIZE = 13,  /* header ename[s] errno[4], without the name's bytes */
    P9_RERROR_MAX = 128,
    P9_IO_SIZE = 11,     /* header count[4]: Rread, Rreaddir, Rwrite */
    P9_TFLUSH_SIZE = 9,  /* header oldtag[2] */
    P9_TWRITE_SIZE = 23, /* header fid[4] offset[8] count[4] */
    P9_QID_SIZE = 13,
    P9_NAME_MAX = 255,
    P9_WALK_MAX = 16,
};

#define P9_NOFID UINT32_MAX

enum { P9_NONBLOCK = 04000 }; /* in Tlopen's flags (Linux: P9_DOTL_NONBLOCK) */

struct v9_in {
    const uint8_t *at, *end;
    bool bad;
};

static inline uint64_t v9_in_number(struct v9_in *in, uint32_t bytes)
{
    uint64_t value = 0;
    if ((size_t)(in->end - in->at) < bytes) {
        in->bad = true;
        return 0;
    }
    memcpy(&value, in->at, bytes);
    in->at += bytes;
    return value;
}

static inline uint16_t v9_in_u16(struct v9_in *in)
{
    return (uint16_t)v9_in_number(in, 2);
}

static inline uint32_t v9_in_u32(struct v9_in *in)
{
    return (uint32_t)v9_in_number(in, 4);
}

static inline uint64_t v9_in_u64(struct v9_in *in)
{
    return v9_in_number(in, 8);
}

/* A string[s]: its bytes stay in the message, *size is their number. */
static inline const char *v9_in_string(struct v9_in *in, uint16_t *size)
{
    const uint8_t *at;
    *size = v9_in_u16(in);
    if (in->bad || in->end - in->at < *size) {
        in->bad = true;
        *size = 0;
        return "";
    }
    at = in->at;
    in->at += *size;
    return (const char *)at;
}

/* Whether the message was complete, with nothing behind it. */
static inline bool v9_in_is_done(const struct v9_in *in)
{
    return !in->bad && in->at == in->end;
}

static inline uint8_t *v9_put(uint8_t *at, uint64_t value, uint32_t bytes)
{
    memcpy(at, &value, bytes);
    return at + bytes;
}

static inline uint8_t *v9_put_header(uint8_t *at, uint32_t size, uint8_t type, uint16_t tag)
{
    return v9_put(v9_put(v9_put(at, size, 4), type, 1), tag, 2);
}

static inline uint8_t *v9_put_qid(uint8_t *at, const struct v9_qid *qid)
{
    return v9_put(v9_put(v9_put(at, qid->type, 1), qid->version, 4), qid->path, 8);
}

#endif
