/*
 * Messages, and what is there before them, for kinds of requests (restart.h).
 */
#ifndef SERVER_REQUESTS_H
#define SERVER_REQUESTS_H

#include <fcntl.h>

#include "server/restart.h"

enum { SET_MODE = 1, SET_SIZE = 8 }; /* of Tsetattr's valid */

/* ---- messages -------------------------------------------------------------------------------- */

/* Puts an integer, of so many bytes, or a string; moves on. */
static inline void put(uint8_t **at, uint64_t value, uint32_t bytes)
{
    *at = v9_put(*at, value, bytes);
}

static inline void put_name(uint8_t **at, const char *name)
{
    const size_t size = strlen(name);

    put(at, size, 2);
    memcpy(*at, name, size);
    *at += size;
}

/* A message of a fid and a name, which goes on at *at. */
static inline uint8_t *begin_message(uint8_t *body, uint32_t fid, const char *name)
{
    put(&body, fid, 4);
    put_name(&body, name);
    return body;
}

static inline uint32_t fill_walk(uint8_t *body, uint32_t fid, uint32_t newfid, const char *name)
{
    uint8_t *at = body;

    put(&at, fid, 4);
    put(&at, newfid, 4);
    put(&at, name ? 1 : 0, 2);
    if (name)
        put_name(&at, name);
    return (uint32_t)(at - body);
}

static inline uint32_t fill_lopen(uint8_t *body, uint32_t fid, uint32_t flags)
{
    uint8_t *at = body;

    put(&at, fid, 4);
    put(&at, flags, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t fill_lcreate(uint8_t *body, const char *name, uint32_t flags, uint32_t mode)
{
    uint8_t *at = begin_message(body, FID, name);

    put(&at, flags, 4);
    put(&at, mode, 4);
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t fill_write(uint8_t *body, uint32_t fid, uint64_t offset, const char *text)
{
    const size_t size = strlen(text);
    uint8_t *at = body;

    put(&at, fid, 4);
    put(&at, offset, 8);
    put(&at, size, 4);
    memcpy(at, text, size);
    return (uint32_t)(at + size - body);
}

static inline uint32_t fill_renameat(uint8_t *body, uint32_t from, const char *old, uint32_t to,
                                     const char *new)
{
    uint8_t *at = begin_message(body, from, old);

    put(&at, to, 4);
    put_name(&at, new);
    return (uint32_t)(at - body);
}

/* Asks, and the answer must be none of an error. */
static inline void must(uint8_t type, const uint8_t *body, uint32_t size)
{
    const int reply = ask(type, body, size);

    if (!CHECK(reply == type + 1))
        fprintf(stderr, "%d instead of the reply to %u\n", reply, type);
}

static inline void walk_to(uint32_t fid, uint32_t newfid, const char *name)
{
    uint8_t body[ROOM];

    must(P9_TWALK, body, fill_walk(body, fid, newfid, name));
}

static inline void open_as(uint32_t fid, uint32_t flags)
{
    uint8_t body[ROOM];

    must(P9_TLOPEN, body, fill_lopen(body, fid, flags));
}

/* ---- the host -------------------------------------------------------------------------------- */

static inline void a_file(void)
{
    host_writes("file", "content");
    host_makes_directory("dir");
    host_writes("dir/inner", "inner");
}

static inline void empty_dir(void)
{
    host_makes_directory("dir");
}

static inline void shared_dir(void)
{
    empty_dir();
    CHECK(chmod(host("dir"), 0777) == 0);
}

static inline void deep(void)
{
    a_file();
    host_makes_directory("dir/sub");
    host_writes("dir/sub/leaf", "leaf");
    host_makes_directory("empty");
}

static inline void named_value(void)
{
    a_file();
    CHECK(setxattr(host("file"), "user.name", "before", 6, 0) == 0);
}

/* ---- before ---------------------------------------------------------------------------------- */

static inline void walked(void)
{
    walk_to(ROOT, FID, "file");
}

static inline void walked_dir(void)
{
    walk_to(ROOT, FID, "dir");
}

/* The worker gives up every descriptor that it can. */
static inline void evict(void)
{
    must(CALLS, NULL, 0);
    CHECK(dev->fids.inodes.recipes.count > 0);
}

#endif
