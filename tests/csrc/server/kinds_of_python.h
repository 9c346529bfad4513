/*
 * Kinds of requests that Python answers, and those that only 9P2000.u has.
 */
#ifndef SERVER_KINDS_OF_PYTHON_H
#define SERVER_KINDS_OF_PYTHON_H

#include "server/kinds_of_files.h"
#include "server/python.h"

enum { OREAD = 0, ORDWR = 2, OTRUNC = 0x10 };

/* ---- both dialects --------------------------------------------------------------------------- */

static inline uint32_t attach_again(uint8_t *body)
{
    uint8_t *at = body;

    put(&at, FID, 4);
    put(&at, P9_NOFID, 4);
    put_name(&at, "");
    put_name(&at, "");
    put(&at, geteuid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t remove_fid(uint8_t *body)
{
    return (uint32_t)(v9_put(body, FID, 4) - body);
}

static inline void inner_walked(void)
{
    walk_to(ROOT, NEW, "dir");
    walk_to(NEW, FID, "inner");
}

/* Another file has been given the name by which the guest has reached the fid's. */
static inline void name_lost(void)
{
    uint8_t body[ROOM], *at;

    inner_walked();
    at = begin_message(body, ROOT, "file");
    put(&at, NEW, 4);
    put_name(&at, "inner");
    must(P9_TRENAMEAT, body, (uint32_t)(at - body));
}

/* The names by which the guest has reached files are what it has made of them. */
static inline void remove_by_name(void)
{
    uint8_t body[ROOM];

    dev->dialect = V9_9P2000L; /* whose errors are numbers */
    add_text("remove: %d\n", ask(P9_TREMOVE, body, remove_fid(body)));
}

static inline uint32_t rename_dir_above(uint8_t *body)
{
    uint8_t *at = begin_message(body, ROOT, "dir");

    put(&at, ROOT, 4);
    put_name(&at, "moved");
    return (uint32_t)(at - body);
}

static inline uint32_t rename_over_file(uint8_t *body)
{
    uint8_t *at = begin_message(body, NEW, "inner");

    put(&at, ROOT, 4);
    put_name(&at, "file");
    return (uint32_t)(at - body);
}

static inline void both_walked(void)
{
    walk_to(ROOT, NEW, "dir");
    walked();
}

static inline void walk_below(uint32_t newfid, const char *name)
{
    uint8_t body[ROOM], *at = body;

    put(&at, ROOT, 4);
    put(&at, newfid, 4);
    put(&at, 2, 2);
    put_name(&at, "dir");
    put_name(&at, name);
    must(P9_TWALK, body, (uint32_t)(at - body));
}

/* The directory is known by two walks of several names. */
static inline void walked_below_twice(void)
{
    host_writes("dir/another", "another");
    walk_below(FID, "inner");
    walk_below(NEW, "another");
}

static inline void remove_both(void)
{
    const uint32_t other = NEW;

    remove_by_name();
    add_text("remove: %d\n", ask(P9_TREMOVE, &other, sizeof(other)));
}

static const struct kind kinds_of_python[] = {
    {"attach", a_file, NULL, {{P9_TATTACH, attach_again}}},
    {"remove", a_file, walked, {{P9_TREMOVE, remove_fid}}},
    {"remove below", a_file, inner_walked, {{P9_TREMOVE, remove_fid}}},
    {"remove of a directory", empty_dir, walked_dir, {{P9_TREMOVE, remove_fid}}},
    {"remove of one that is not empty", a_file, walked_dir, {{P9_TREMOVE, remove_fid}}},
    {"remove of a file that has lost its name", a_file, name_lost, {{P9_TREMOVE, remove_fid}}},
    {"rename above it", a_file, inner_walked, {{P9_TRENAMEAT, rename_dir_above}}, remove_by_name},
    {"the same, known twice",
     a_file,
     walked_below_twice,
     {{P9_TRENAMEAT, rename_dir_above}},
     remove_both},
    {"rename of it", a_file, inner_walked, {{P9_TRENAMEAT, rename_over_file}}, remove_by_name},
    {"rename over it", a_file, both_walked, {{P9_TRENAMEAT, rename_over_file}}, remove_by_name},
};

/* ---- 9P2000.u -------------------------------------------------------------------------------- */

static inline uint32_t fill_open(uint8_t *body, uint8_t mode)
{
    return (uint32_t)(v9_put(v9_put(body, FID, 4), mode, 1) - body);
}

static inline uint32_t open_u(uint8_t *body)
{
    return fill_open(body, ORDWR | OTRUNC);
}

static inline uint32_t fill_create(uint8_t *body, const char *name, uint32_t perm, uint8_t mode)
{
    uint8_t *at = begin_message(body, FID, name);

    put(&at, perm, 4);
    put(&at, mode, 1);
    put_name(&at, "");
    return (uint32_t)(at - body);
}

static inline uint32_t create_u(uint8_t *body)
{
    return fill_create(body, "new", 0640, ORDWR);
}

static inline uint32_t create_directory_u(uint8_t *body)
{
    return fill_create(body, "new", DMDIR | 0750, OREAD);
}

static inline uint32_t create_there_u(uint8_t *body)
{
    return fill_create(body, "inner", 0640, ORDWR);
}

static inline uint32_t fill_wstat(uint8_t *body, const char *name)
{
    uint8_t *at = body;

    memset(body, 0xff, ROOM - P9_HEADER_SIZE);
    put(&at, FID, 4);
    at += STAT_BEFORE_MODE;
    put(&at, 0600, 4);
    at += STAT_BEFORE_NAME;
    put_name(&at, name);
    return (uint32_t)(at - body);
}

static inline uint32_t wstat_mode(uint8_t *body)
{
    return fill_wstat(body, "");
}

static inline uint32_t wstat_name(uint8_t *body)
{
    return fill_wstat(body, "new");
}

static inline uint32_t wstat_over(uint8_t *body)
{
    return fill_wstat(body, "other");
}

static inline void two_files(void)
{
    a_file();
    host_writes("other", "other");
}

static inline void open_to_write_u(void)
{
    uint8_t body[ROOM];

    walked();
    must(P9_TOPEN, body, fill_open(body, ORDWR));
}

static inline uint32_t write_u(uint8_t *body)
{
    return fill_write(body, FID, 3, "MORE");
}

static const struct kind kinds_of_dialect_u[] = {
    {"open", a_file, walked, {{P9_TOPEN, open_u}}},
    {"write", a_file, open_to_write_u, {{P9_TWRITE, write_u}}},
    {"clunk", a_file, open_to_write_u, {{P9_TCLUNK, remove_fid}}},
    {"create", a_file, walked_dir, {{P9_TCREATE, create_u}}},
    {"create a directory", a_file, walked_dir, {{P9_TCREATE, create_directory_u}}},
    {"create one that is there", a_file, walked_dir, {{P9_TCREATE, create_there_u}}},
    {"wstat of the mode", a_file, walked, {{P9_TWSTAT, wstat_mode}}},
    {"wstat of mode and name", a_file, walked, {{P9_TWSTAT, wstat_name}}},
    {"wstat to another's name", two_files, walked, {{P9_TWSTAT, wstat_over}}},
    {"wstat of nothing", a_file, open_for_both, {{P9_TWSTAT, number}}},
    {"wstat of nothing, after lost writes", a_file, lossy, {{P9_TWSTAT, number}}},
};

#endif
