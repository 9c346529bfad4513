/*
 * What a run has led to, as text that is compared with another run's: replies, the host's files,
 * what fids are good for.
 */
#ifndef SERVER_OUTCOME_H
#define SERVER_OUTCOME_H

#include <stdarg.h>
#include <sys/xattr.h>

#include "server/stops.h"
#include "server/worker.h"

enum { OUTCOME = 16384 };

/* In memory that processes share. */
struct outcome {
    struct stops stops; /* of the worker that died last */
    char text[OUTCOME];
};
static struct outcome *outcome;

static inline void add_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void add_text(const char *format, ...)
{
    const size_t size = strlen(outcome->text);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(outcome->text + size, OUTCOME - size, format, arguments);
    va_end(arguments);
}

static inline int describe(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    char content[128] = "";
    FILE *file = S_ISREG(st->st_mode) ? fopen(path, "r") : NULL;

    if (file) {
        content[fread(content, 1, sizeof(content) - 1, file)] = 0;
        fclose(file);
    }
    if (S_ISLNK(st->st_mode) && readlink(path, content, sizeof(content) - 1) < 0)
        content[0] = 0;
    add_text("%s %o %u:%u %u links %jd bytes '%s'", path + strlen(top), st->st_mode, st->st_uid,
             st->st_gid, (unsigned)st->st_nlink, S_ISREG(st->st_mode) ? (intmax_t)st->st_size : 0,
             content);
    memset(content, 0, sizeof(content));
    if (lgetxattr(path, "user.name", content, sizeof(content) - 1) >= 0)
        add_text(" user.name '%s'", content);
    add_text("\n");
    return 0;
}

/* How many inodes know their metadata file: a request that runs again may find it earlier. */
static inline uint32_t metadata_files(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < dev->fids.inodes.used; i++)
        count += dev->fids.inodes.entries[i].refs && dev->fids.inodes.entries[i].meta_fd >= 0;
    return count;
}

/* How many fids have a loss of writes to report (fid/lost_writes.h). */
static inline uint32_t losses(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < dev->fids.max; i++)
        count += dev->fids.entries[i].entered && dev->fids.entries[i].lost_writes;
    return count;
}

static uint64_t wanted_ino;
static char found_name[64];

static inline int compare_ino(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    if (st->st_ino == wanted_ino)
        snprintf(found_name, sizeof(found_name), "%s", path + strlen(top));
    return 0;
}

/* A qid, by the name of its file. Its path is the inode number. */
static inline void add_qid(const uint8_t *qid)
{
    memcpy(&wanted_ino, qid + 5, sizeof(wanted_ino));
    snprintf(found_name, sizeof(found_name), "no name");
    nftw(top, compare_ino, 16, FTW_PHYS);
    add_text(" qid %x of '%s'", qid[0], found_name);
}

static inline uint32_t number_at(const uint8_t *at, uint32_t bytes)
{
    uint32_t number = 0;

    memcpy(&number, at, bytes);
    return number;
}

/* The entries of an Rreaddir. */
static inline void add_entries(const uint8_t *at, uint32_t size)
{
    for (const uint8_t *end = at + size; at < end; at += 24 + number_at(at + 22, 2))
        add_text(" %.*s", (int)number_at(at + 22, 2), (const char *)at + 24);
}

static inline void add_reply(uint16_t slot)
{
    const uint8_t *reply = guest + DATA_AT + REPLY_AT + slot * ROOM, *body = reply + P9_HEADER_SIZE;

    add_text("reply %d of %u bytes", reply_in(slot), number_at(reply, 4));
    switch (reply[4]) {
    case P9_TWALK + 1:
        for (uint32_t i = 0; i < number_at(body, 2); i++)
            add_qid(body + 2 + i * P9_QID_SIZE);
        break;
    case P9_TATTACH + 1:
    case P9_TOPEN + 1:
    case P9_TCREATE + 1:
    case P9_TLOPEN + 1:
    case P9_TLCREATE + 1:
    case P9_TMKDIR + 1:
    case P9_TMKNOD + 1:
    case P9_TSYMLINK + 1:
        add_qid(body);
        break;
    case P9_TGETATTR + 1:
        add_qid(body + 8);
        add_text(" mode %o, %u bytes", number_at(body + 21, 4), number_at(body + 49, 4));
        break;
    case P9_TREAD + 1:
        add_text(" '%.*s'", (int)number_at(body, 4), (const char *)body + 4);
        break;
    case P9_TREADDIR + 1:
        add_entries(body + 4, number_at(body, 4));
        break;
    case P9_TWRITE + 1:
    case P9_TXATTRWALK + 1:
        add_text(" %u", number_at(body, 4));
        break;
    default:
        break;
    }
    add_text("\n");
}

/* The replies to requests that were in flight together, which may come in any order. */
static inline void add_replies(uint16_t first, uint16_t end)
{
    for (uint16_t slot = 0; slot < SLOTS; slot++)
        for (uint16_t number = first; number != end; number++)
            if (used_slot(number) == slot)
                add_reply(slot);
}

/* What a fid is good for now. */
static inline void probe(uint32_t fid)
{
    uint8_t body[32];

    memset(body, 0xff, sizeof(body));
    v9_put(body, fid, 4);
    ask(P9_TGETATTR, body, 12);
    add_text("fid %u: ", fid);
    add_reply(0);
    v9_put(v9_put(v9_put(body, fid, 4), 0, 8), 100, 4);
    if (ask(P9_TREAD, body, 16) != -EISDIR)
        add_reply(0);
    else if (ask(P9_TREADDIR, body, 16))
        add_reply(0);
}

#endif
