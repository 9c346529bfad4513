/*
 * Kinds of requests that change fids, and the content and attributes of files.
 */
#ifndef SERVER_KINDS_OF_FILES_H
#define SERVER_KINDS_OF_FILES_H

#include "server/requests.h"

/* ---- fids ------------------------------------------------------------------------------------ */

static inline uint32_t walk_one(uint8_t *body)
{
    return fill_walk(body, ROOT, NEW, "file");
}

static inline uint32_t walk_none(uint8_t *body)
{
    return fill_walk(body, FID, NEW, NULL);
}

static inline uint32_t walk_self(uint8_t *body)
{
    return fill_walk(body, FID, FID, "inner");
}

static inline uint32_t walk_nowhere(uint8_t *body)
{
    return fill_walk(body, ROOT, NEW, "nowhere");
}

static inline uint32_t open_truncated(uint8_t *body)
{
    return fill_lopen(body, FID, O_RDWR | O_TRUNC);
}

static inline uint32_t open_directory(uint8_t *body)
{
    return fill_lopen(body, FID, O_RDONLY);
}

static inline uint32_t number(uint8_t *body)
{
    return (uint32_t)(v9_put(body, FID, 4) - body);
}

/* ---- content --------------------------------------------------------------------------------- */

static inline uint32_t write_more(uint8_t *body)
{
    return fill_write(body, FID, 7, "more");
}

static inline uint32_t write_inside(uint8_t *body)
{
    return fill_write(body, FID, 3, "MORE");
}

static inline uint32_t read_on(uint8_t *body)
{
    return (uint32_t)(v9_put(v9_put(v9_put(body, FID, 4), 2, 8), 100, 4) - body);
}

static uint64_t read_to; /* the place in a directory */

static inline uint32_t readdir_on(uint8_t *body)
{
    return (uint32_t)(v9_put(v9_put(v9_put(body, FID, 4), read_to, 8), 60, 4) - body);
}

static inline uint32_t sync_file(uint8_t *body)
{
    return (uint32_t)(v9_put(v9_put(body, FID, 4), 0, 4) - body);
}

/* ---- attributes ------------------------------------------------------------------------------ */

static inline uint32_t fill_setattr(uint8_t *body, uint32_t valid, uint32_t mode, uint64_t size)
{
    memset(body, 0, 60);
    v9_put(v9_put(v9_put(body, FID, 4), valid, 4), mode, 4);
    v9_put(body + 20, size, 8);
    return 60;
}

static inline uint32_t chmod_file(uint8_t *body)
{
    return fill_setattr(body, SET_MODE, 0600, 0);
}

static inline uint32_t truncate_file(uint8_t *body)
{
    return fill_setattr(body, SET_SIZE, 0, 3);
}

static inline uint32_t getattr_file(uint8_t *body)
{
    return (uint32_t)(v9_put(v9_put(body, FID, 4), UINT64_MAX, 8) - body);
}

static inline uint32_t fill_xattrcreate(uint8_t *body, const char *name, uint32_t size,
                                        uint32_t flags)
{
    uint8_t *at = begin_message(body, FID, name);

    put(&at, size, 8);
    put(&at, flags, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t fill_xattr(uint8_t *body, uint32_t size, uint32_t flags)
{
    return fill_xattrcreate(body, "user.name", size, flags);
}

static inline uint32_t xattr_create(uint8_t *body)
{
    return fill_xattr(body, 4, XATTR_CREATE);
}

static inline uint32_t xattr_second_half(uint8_t *body)
{
    return fill_write(body, FID, 2, "ta");
}

static inline uint32_t xattr_walk(uint8_t *body)
{
    uint8_t *at = body;

    put(&at, FID, 4);
    put(&at, NEW, 4);
    put_name(&at, "user.name");
    return (uint32_t)(at - body);
}

/* ---- before ---------------------------------------------------------------------------------- */

static inline void open_for_append(void)
{
    walked();
    open_as(FID, O_WRONLY | O_APPEND);
}

/* Something was appended already, and the file was truncated since. */
static inline void truncated_to(uint64_t size)
{
    uint8_t body[ROOM];

    open_for_append();
    must(P9_TWRITE, body, write_more(body));
    must(P9_TSETATTR, body, fill_setattr(body, SET_SIZE, 0, size));
}

static inline void truncated(void)
{
    truncated_to(0);
}

static inline void truncated_by_as_much(void)
{
    truncated_to(7);
}

static inline void open_for_both(void)
{
    walked();
    open_as(FID, O_RDWR);
}

/* The host has reported that it lost what was written, when nobody asked. */
static inline void lossy(void)
{
    open_for_both();
    dev->fids.entries[v9_fid_table_find(&dev->fids, FID) - 1].lost_writes = 1;
}

static inline void opened_evicted(void)
{
    open_for_both();
    evict();
}

static inline void many(void)
{
    char name[16];

    host_makes_directory("dir");
    for (int i = 10; i < 22; i++) {
        snprintf(name, sizeof(name), "dir/entry%d", i);
        host_writes(name, "");
    }
}

/* The first entries of a directory are read; the worker's position is behind them. */
static inline void listed(void)
{
    uint8_t body[ROOM];
    const uint8_t *reply = guest + DATA_AT + REPLY_AT;
    uint32_t size, at = 11;

    walked_dir();
    open_as(FID, O_RDONLY);
    read_to = 0;
    must(P9_TREADDIR, body, readdir_on(body));
    for (size = number_at(reply, 4); at < size; at += 24 + number_at(reply + at + 22, 2))
        memcpy(&read_to, reply + at + 13, sizeof(read_to));
    CHECK(read_to);
}

static inline void xattr_announced(uint32_t size, uint32_t flags)
{
    uint8_t body[ROOM];

    walked();
    must(P9_TXATTRCREATE, body, fill_xattr(body, size, flags));
}

static inline void xattr_begun(void)
{
    uint8_t body[ROOM];

    xattr_announced(4, XATTR_CREATE);
    must(P9_TWRITE, body, fill_write(body, FID, 0, "da"));
}

static inline void xattr_written(void)
{
    uint8_t body[ROOM];

    xattr_begun();
    must(P9_TWRITE, body, xattr_second_half(body));
}

static inline void xattr_replaced(void)
{
    uint8_t body[ROOM];

    xattr_announced(4, XATTR_REPLACE);
    must(P9_TWRITE, body, fill_write(body, FID, 0, "data"));
}

static inline void xattr_set(void)
{
    uint8_t body[ROOM];

    xattr_announced(4, 0);
    must(P9_TWRITE, body, fill_write(body, FID, 0, "data"));
}

static inline void xattr_removed(void)
{
    xattr_announced(0, XATTR_REPLACE);
}

/* Its clunk fails: the attribute that is to be created is there. */
static inline void xattr_there(void)
{
    uint8_t body[ROOM];

    xattr_announced(4, XATTR_CREATE);
    must(P9_TWRITE, body, fill_write(body, FID, 0, "data"));
}

/* A value in which the guest's user 1 is named, or its root. */
static inline void value_written(const char *name, const void *value, uint32_t size)
{
    uint8_t body[ROOM];
    const uint32_t head = fill_write(body, FID, 0, "");

    walked();
    must(P9_TXATTRCREATE, body, fill_xattrcreate(body, name, size, 0));
    CHECK(fill_write(body, FID, 0, "") == head);
    v9_put(body + head - 4, size, 4);
    memcpy(body + head, value, size);
    must(P9_TWRITE, body, head + size);
}

static inline void acl_written(void)
{
    const uint8_t acl[] = {2, 0, 0, 0, 2, 0, 7, 0, 1, 0, 0, 0};

    value_written("system.posix_acl_access", acl, sizeof(acl));
}

static inline void caps_written(void)
{
    const uint8_t caps[20] = {0, 0, 0, 2}; /* revision 2 */

    value_written("security.capability", caps, sizeof(caps));
}

/* ---- after ----------------------------------------------------------------------------------- */

static inline void show_value(const char *name)
{
    uint8_t value[64];
    const ssize_t size = getxattr(host("file"), name, value, sizeof(value));

    add_text("%s", name);
    for (ssize_t i = 0; i < size; i++)
        add_text(" %02x", value[i]);
    add_text("\n");
}

static inline void show_values(void)
{
    show_value("user.guest.system.posix_acl_access");
    show_value("user.guest.security.capability");
}

static const struct kind kinds_of_files[] = {
    {"walk", a_file, NULL, {{P9_TWALK, walk_one}}},
    {"clone", a_file, walked, {{P9_TWALK, walk_none}}},
    {"walk onto itself", a_file, walked_dir, {{P9_TWALK, walk_self}}},
    {"walk to nothing", a_file, NULL, {{P9_TWALK, walk_nowhere}}},
    {"open", a_file, walked, {{P9_TLOPEN, open_truncated}}},
    {"open a directory", a_file, walked_dir, {{P9_TLOPEN, open_directory}}},
    {"clunk", a_file, open_for_append, {{P9_TCLUNK, number}}},
    {"clunk of an evicted file", a_file, opened_evicted, {{P9_TCLUNK, number}}},
    {"append", a_file, open_for_append, {{P9_TWRITE, write_more}}},
    {"append to a truncated file", a_file, truncated, {{P9_TWRITE, write_more}}},
    {"append once more", a_file, truncated_by_as_much, {{P9_TWRITE, write_more}}},
    {"write", a_file, open_for_both, {{P9_TWRITE, write_inside}}},
    {"write to an evicted file", a_file, opened_evicted, {{P9_TWRITE, write_inside}}},
    {"read", a_file, open_for_both, {{P9_TREAD, read_on}}},
    {"readdir", many, listed, {{P9_TREADDIR, readdir_on}}},
    {"fsync", a_file, open_for_both, {{P9_TFSYNC, sync_file}}},
    {"fsync with lost writes", a_file, lossy, {{P9_TFSYNC, sync_file}}},
    {"read with lost writes", a_file, lossy, {{P9_TREAD, read_on}}},
    {"chmod", a_file, walked, {{P9_TSETATTR, chmod_file}}},
    {"truncate", a_file, open_for_both, {{P9_TSETATTR, truncate_file}}},
    {"getattr", a_file, open_for_both, {{P9_TGETATTR, getattr_file}}},
    {"xattr announced", a_file, walked, {{P9_TXATTRCREATE, xattr_create}}},
    {"xattr written", a_file, xattr_begun, {{P9_TWRITE, xattr_second_half}}},
    {"xattr created", a_file, xattr_written, {{P9_TCLUNK, number}}},
    {"xattr replaced", named_value, xattr_replaced, {{P9_TCLUNK, number}}},
    {"xattr set", named_value, xattr_set, {{P9_TCLUNK, number}}},
    {"xattr removed", named_value, xattr_removed, {{P9_TCLUNK, number}}},
    {"xattr not created", named_value, xattr_there, {{P9_TCLUNK, number}}},
    {"xattr read", named_value, walked, {{P9_TXATTRWALK, xattr_walk}}},
};

/* Their attributes are stored, with ids that are mapped: what is set is not what was written. */
static const struct kind kinds_of_ids[] = {
    {"ACL set", a_file, acl_written, {{P9_TCLUNK, number}}, show_values},
    {"capabilities set", a_file, caps_written, {{P9_TCLUNK, number}}, show_values},
};

#endif
