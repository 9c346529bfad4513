/*
 * Requests of both dialects, made from the bytes of an input: the fields of each type as the
 * protocol has them, with values that lead somewhere; or, wherever the input asks for it, any.
 */
#ifndef FUZZ_REQUESTS_H
#define FUZZ_REQUESTS_H

#include <fcntl.h>
#include <sys/stat.h>

#include "base/wire.h"
#include "fuzz.h"

enum { FIDS = 8, RAW = 0xff, REQUEST_MAX = 8192 };

/*
 * The fields of each type, a letter each: f a fid, n a name, p the path of a symlink, w names of a
 * walk, o flags of open(2), m a mode, i an id, 1 2 4 8 a number in so many bytes, d data with its
 * count. Those of the replies are replies.h's.
 */
static const struct {
    uint8_t type;
    const char *fields, *reply;
} request_types[] = {
    {P9_TWALK, "ffw", "w"},
    {P9_TWALK, "ffw", "w"},
    {P9_TLOPEN, "fo", "q4"},
    {P9_TLCREATE, "fnomi", "q4"},
    {P9_TREAD, "f84", "d"},
    {P9_TWRITE, "f8d", "4"},
    {P9_TREADDIR, "f84", "e"},
    {P9_TCLUNK, "f", ""},
    {P9_TGETATTR, "f8", "8q444888888888888888"},
    {P9_TSETATTR, "f4mii888888", ""},
    {P9_TMKDIR, "fnmi", "q"},
    {P9_TMKNOD, "fnm44i", "q"},
    {P9_TSYMLINK, "fnpi", "q"},
    {P9_TLINK, "ffn", ""},
    {P9_TRENAME, "ffn", ""},
    {P9_TRENAMEAT, "fnfn", ""},
    {P9_TUNLINKAT, "fn4", ""},
    {P9_TREADLINK, "f", "s"},
    {P9_TXATTRWALK, "ffx", "8"},
    {P9_TXATTRCREATE, "fx84", ""},
    {P9_TSTATFS, "f", "448888884"},
    {P9_TFSYNC, "f4", ""},
    {P9_TLOCK, "f14884n", "1"},
    {P9_TGETLOCK, "f1884n", "1884s"},
    {P9_TFLUSH, "2", ""},
    {P9_TVERSION, "4v", ""},
    {P9_TATTACH, "ffnni", ""},
    {P9_TOPEN, "f1", "q4"},
    {P9_TCREATE, "fnm1p", "q4"},
    {P9_TREMOVE, "f", ""},
    {P9_TSTAT, "f", "t"},
    {P9_TWSTAT, "fd", ""},
};

static const char *const names[] = {"a",
                                    "b",
                                    "d",
                                    "l",
                                    "s",
                                    "x",
                                    "y",
                                    "..",
                                    ".",
                                    "",
                                    "a/b",
                                    ".virtfs_metadata",
                                    ".virtfs_metadata_root"};
static const char *const paths[] = {"a", "../a", "/", "../../secret", "d/b", "."};
static const char *const xattrs[] = {"",
                                     "user.a",
                                     "user.b",
                                     "user.virtfs.uid",
                                     "user.virtfs.mode",
                                     "security.capability",
                                     "system.posix_acl_access",
                                     "trusted.a",
                                     "user."};
static const char *const versions[] = {"9P2000.L", "9P2000.u", "9P2000", ""};
static const uint32_t modes[] = {0644,
                                 0755,
                                 0,
                                 07777,
                                 S_IFDIR | 0755,
                                 S_IFIFO | 0600,
                                 S_IFCHR | 0600,
                                 S_IFBLK | 0600,
                                 S_IFSOCK | 0600,
                                 S_IFREG | 04755,
                                 S_IFLNK | 0777};
static const uint32_t opens[] = {O_RDONLY,
                                 O_RDWR,
                                 O_WRONLY,
                                 O_RDWR | O_TRUNC,
                                 O_DIRECTORY,
                                 O_WRONLY | O_APPEND,
                                 O_RDWR | O_CREAT | O_EXCL,
                                 O_PATH,
                                 O_NOFOLLOW,
                                 O_RDWR | 020000000};
static const uint32_t ids[] = {0, 1000, UINT32_MAX, 65534};

#define CHOICES(list) (sizeof(list) / sizeof(*(list)))

/* A message as it is being made. */
struct made {
    uint8_t *at, *end;
};

static inline void put_number(struct made *m, uint64_t value, uint32_t bytes)
{
    if ((size_t)(m->end - m->at) >= bytes)
        m->at = v9_put(m->at, value, bytes);
}

static inline void put_text(struct made *m, const void *text, uint32_t size)
{
    put_number(m, size, 2);
    if ((size_t)(m->end - m->at) >= size)
        m->at = (uint8_t *)memcpy(m->at, text, size) + size;
}

/* A small number, a power of two, or any. */
static inline uint64_t choose_number(struct fuzz_input *in, uint32_t bytes)
{
    const uint8_t how = fuzz_byte(in);

    if (how == RAW)
        return fuzz_take(in, bytes);
    if (how >= 0xbf)
        return (1ull << (how - 0xbf)) - (how & 1);
    return how < 0x80 ? how : (how - 0x80ull) * 64;
}

static inline uint32_t choose(struct fuzz_input *in, const uint32_t *list, uint32_t count)
{
    const uint8_t which = fuzz_byte(in);

    return which == RAW ? (uint32_t)fuzz_take(in, 4) : list[which % count];
}

/* One of a list, of any bytes, or a very long one. */
static inline void put_string(struct made *m, struct fuzz_input *in, const char *const *list,
                              uint32_t count)
{
    static uint8_t text[4200];
    const uint8_t which = fuzz_byte(in);
    uint32_t size = 0;

    if (which < RAW - 1) {
        put_text(m, list[which % count], (uint32_t)strlen(list[which % count]));
        return;
    }
    size = which == RAW ? fuzz_byte(in) % 32u : (uint32_t)fuzz_take(in, 2) % sizeof(text);
    memset(text, 'n', size);
    for (uint32_t i = 0; which == RAW && i < size; i++)
        text[i] = fuzz_byte(in);
    put_text(m, text, size);
}

static inline void put_walk(struct made *m, struct fuzz_input *in)
{
    const uint8_t how = fuzz_byte(in);
    const uint16_t count = how == RAW ? (uint16_t)fuzz_take(in, 2) : how % 4;

    put_number(m, count, 2);
    for (uint16_t i = 0; i < count && i < P9_WALK_MAX; i++)
        put_string(m, in, names, CHOICES(names));
}

static inline void put_data(struct made *m, struct fuzz_input *in)
{
    const uint32_t count = (uint32_t)choose_number(in, 4), room = (uint32_t)(m->end - m->at);
    const uint32_t size = fuzz_byte(in) % 8 ? count : (uint32_t)choose_number(in, 2);

    put_number(m, count, 4);
    for (uint32_t i = 4; i < size + 4ull && i < room; i++)
        *m->at++ = i < 20 ? fuzz_byte(in) : 'd';
}

static inline void put_field(struct made *m, struct fuzz_input *in, char field)
{
    switch (field) {
    case 'f':
        put_number(m, fuzz_left(in) && *in->at == RAW ? choose_number(in, 4) : fuzz_below(in, FIDS),
                   4);
        break;
    case 'n':
        put_string(m, in, names, CHOICES(names));
        break;
    case 'p':
        put_string(m, in, paths, CHOICES(paths));
        break;
    case 'x':
        put_string(m, in, xattrs, CHOICES(xattrs));
        break;
    case 'v':
        put_string(m, in, versions, CHOICES(versions));
        break;
    case 'w':
        put_walk(m, in);
        break;
    case 'd':
        put_data(m, in);
        break;
    case 'o':
        put_number(m, choose(in, opens, CHOICES(opens)), 4);
        break;
    case 'm':
        put_number(m, choose(in, modes, CHOICES(modes)), 4);
        break;
    case 'i':
        put_number(m, choose(in, ids, CHOICES(ids)), 4);
        break;
    default:
        put_number(m, choose_number(in, (uint32_t)(field - '0')), (uint32_t)(field - '0'));
    }
}

/* Writes a request to `message`, which has room for REQUEST_MAX bytes; returns its size. The header
 * may name another one. */
static inline uint32_t make_request(struct fuzz_input *in, uint16_t tag, uint8_t *message)
{
    const uint8_t which = fuzz_byte(in), wrong = which < 0xe0 ? 0 : fuzz_byte(in);
    uint8_t type = request_types[which % CHOICES(request_types)].type;
    const char *fields = request_types[which % CHOICES(request_types)].fields;
    struct made m = {message + P9_HEADER_SIZE, message + REQUEST_MAX};
    uint32_t size;

    for (; *fields; fields++)
        put_field(&m, in, *fields);
    if (wrong & 1)
        type = fuzz_byte(in);
    if (wrong & 2) /* of any other length */
        m.at = message + P9_HEADER_SIZE + choose_number(in, 2) % (REQUEST_MAX - P9_HEADER_SIZE);
    size = (uint32_t)(m.at - message);
    v9_put_header(message, wrong & 4 ? (uint32_t)choose_number(in, 4) : size, type, tag);
    return size;
}

#endif
