/*
 * Kinds of requests that make, remove or move names.
 */
#ifndef SERVER_KINDS_OF_NAMES_H
#define SERVER_KINDS_OF_NAMES_H

#include "server/requests.h"

enum { EXCL_RDWR = O_CREAT | O_EXCL | O_RDWR, MODE = 0750 };

/* ---- made ------------------------------------------------------------------------------------ */

static inline uint32_t lcreate(uint8_t *body)
{
    return fill_lcreate(body, "new", EXCL_RDWR, 0400);
}

static inline uint32_t lcreate_writable(uint8_t *body)
{
    return fill_lcreate(body, "new", O_CREAT | O_WRONLY, 0640);
}

static inline uint32_t lcreate_closed(uint8_t *body)
{
    return fill_lcreate(body, "new", O_CREAT | O_WRONLY, 0);
}

static inline uint32_t lcreate_there(uint8_t *body)
{
    return fill_lcreate(body, "inner", O_CREAT | O_RDWR, 0640);
}

static inline uint32_t lcreate_truncated(uint8_t *body)
{
    return fill_lcreate(body, "inner", O_CREAT | O_TRUNC | O_RDWR, 0640);
}

static inline uint32_t lcreate_not_new(uint8_t *body)
{
    return fill_lcreate(body, "inner", EXCL_RDWR, 0640);
}

static inline uint32_t mkdir_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, FID, "new");

    put(&at, MODE, 4);
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t mkdir_there(uint8_t *body)
{
    uint8_t *at = begin_message(body, ROOT, "dir");

    put(&at, MODE, 4);
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t mkdir_second(uint8_t *body)
{
    uint8_t *at = begin_message(body, OTHER, "new");

    put(&at, MODE, 4);
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t symlink_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, FID, "new");

    put_name(&at, "target");
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t mknod_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, FID, "new");

    put(&at, S_IFIFO | 0640, 4);
    put(&at, 0, 8); /* major, minor */
    put(&at, getegid(), 4);
    return (uint32_t)(at - body);
}

static inline uint32_t fill_link(uint8_t *body, const char *name)
{
    uint8_t *at = body;

    put(&at, ROOT, 4);
    put(&at, FID, 4);
    put_name(&at, name);
    return (uint32_t)(at - body);
}

static inline uint32_t link_new(uint8_t *body)
{
    return fill_link(body, "new");
}

static inline uint32_t link_inner(uint8_t *body)
{
    return fill_link(body, "inner");
}

/* ---- removed --------------------------------------------------------------------------------- */

static inline uint32_t unlink_inner(uint8_t *body)
{
    uint8_t *at = begin_message(body, FID, "inner");

    put(&at, 0, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t unlink_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, ROOT, "new");

    put(&at, 0, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t unlink_file(uint8_t *body)
{
    uint8_t *at = begin_message(body, ROOT, "file");

    put(&at, 0, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t rmdir_dir(uint8_t *body)
{
    uint8_t *at = begin_message(body, ROOT, "dir");

    put(&at, 0x200, 4);
    return (uint32_t)(at - body);
}

static inline uint32_t rmdir_new(uint8_t *body)
{
    uint8_t *at = begin_message(body, FID, "new");

    put(&at, 0x200, 4);
    return (uint32_t)(at - body);
}

/* ---- moved ----------------------------------------------------------------------------------- */

static inline uint32_t rename_new(uint8_t *body)
{
    uint8_t *at = body;

    put(&at, FID, 4);
    put(&at, ROOT, 4);
    put_name(&at, "new");
    return (uint32_t)(at - body);
}

static inline uint32_t renameat_new(uint8_t *body)
{
    return fill_renameat(body, FID, "inner", ROOT, "new");
}

static inline uint32_t renameat_back(uint8_t *body)
{
    return fill_renameat(body, ROOT, "new", FID, "inner");
}

static inline uint32_t renameat_over(uint8_t *body)
{
    return fill_renameat(body, FID, "inner", ROOT, "file");
}

static inline uint32_t rename_dir(uint8_t *body)
{
    return fill_renameat(body, ROOT, "dir", ROOT, "moved");
}

static inline uint32_t rename_over_dir(uint8_t *body)
{
    return fill_renameat(body, ROOT, "dir", ROOT, "empty");
}

static inline uint32_t rename_across(uint8_t *body)
{
    return fill_renameat(body, ROOT, "file", OTHER, "new");
}

/* ---- before ---------------------------------------------------------------------------------- */

static inline void file_open(void)
{
    walked();
    open_as(FID, O_RDWR);
}

/* What was in it has left a directory for metadata, if they are in files. */
static inline void walked_inner(void)
{
    walked_dir();
    walk_to(FID, FID, "inner");
}

static inline void emptied(void)
{
    uint8_t body[ROOM];

    walked_dir();
    must(P9_TMKDIR, body, mkdir_new(body));
    must(P9_TUNLINKAT, body, rmdir_new(body));
}

static inline void looked_for(void)
{
    uint8_t body[ROOM];

    walked_dir();
    ask(P9_TWALK, body, fill_walk(body, FID, NEW, "new"));
}

static inline void made_since(void)
{
    uint8_t body[ROOM];

    looked_for();
    must(P9_TMKDIR, body, mkdir_new(body));
}

static inline void linked(void)
{
    uint8_t body[ROOM];

    walked();
    must(P9_TLINK, body, link_new(body));
}

static inline void name_removed(void)
{
    uint8_t body[ROOM];

    linked();
    must(P9_TUNLINKAT, body, unlink_new(body));
}

static inline void moved(void)
{
    uint8_t body[ROOM];

    walked_dir();
    must(P9_TRENAMEAT, body, renameat_new(body));
}

static inline void below_open(void)
{
    walked_dir();
    walk_to(FID, NEW, "sub");
    walk_to(NEW, NEW, "leaf");
    open_as(NEW, O_RDWR);
}

static inline void below_evicted(void)
{
    below_open();
    evict();
}

static inline void below_directory_open(void)
{
    walked_dir();
    walk_to(FID, NEW, "sub");
    open_as(NEW, O_RDONLY);
    evict();
}

static const struct kind kinds_of_names[] = {
    {"create", a_file, walked_dir, {{P9_TLCREATE, lcreate}}},
    {"create for writing", a_file, walked_dir, {{P9_TLCREATE, lcreate_writable}}},
    {"create one that is there", a_file, walked_dir, {{P9_TLCREATE, lcreate_there}}},
    {"create and truncate", a_file, walked_dir, {{P9_TLCREATE, lcreate_truncated}}},
    {"create what must be new", a_file, walked_dir, {{P9_TLCREATE, lcreate_not_new}}},
    {"mkdir", a_file, walked_dir, {{P9_TMKDIR, mkdir_new}}},
    {"mkdir of what is there", a_file, walked_dir, {{P9_TMKDIR, mkdir_there}}},
    {"symlink", a_file, walked_dir, {{P9_TSYMLINK, symlink_new}}},
    {"mknod", a_file, walked_dir, {{P9_TMKNOD, mknod_new}}},
    {"link", a_file, walked, {{P9_TLINK, link_new}}},
    {"link by the same name", a_file, walked_inner, {{P9_TLINK, link_inner}}},
    {"unlink", a_file, walked_dir, {{P9_TUNLINKAT, unlink_inner}}},
    {"unlink of an open file", a_file, file_open, {{P9_TUNLINKAT, unlink_file}}},
    {"rmdir", empty_dir, NULL, {{P9_TUNLINKAT, rmdir_dir}}},
    {"rmdir of an emptied one", empty_dir, emptied, {{P9_TUNLINKAT, rmdir_dir}}},
    {"rmdir of one that is not empty", a_file, NULL, {{P9_TUNLINKAT, rmdir_dir}}},
    {"rename", a_file, walked, {{P9_TRENAME, rename_new}}},
    {"renameat", a_file, walked_dir, {{P9_TRENAMEAT, renameat_new}}},
    {"renameat over", a_file, walked_dir, {{P9_TRENAMEAT, renameat_over}}},
    {"rename over a directory", deep, below_open, {{P9_TRENAMEAT, rename_over_dir}}},
    {"rename above open files", deep, below_open, {{P9_TRENAMEAT, rename_dir}}},
    {"rename above evicted files", deep, below_evicted, {{P9_TRENAMEAT, rename_dir}}},
    {"rename above directories", deep, below_directory_open, {{P9_TRENAMEAT, rename_dir}}},
};

/* What is done to a name that a request before has just seen, or changed (base/sightings.h). */
static const struct kind kinds_of_names_seen[] = {
    {"mkdir of what was looked for", a_file, looked_for, {{P9_TMKDIR, mkdir_new}}},
    {"create of what was looked for", a_file, looked_for, {{P9_TLCREATE, lcreate}}},
    {"mkdir of what was made since", a_file, made_since, {{P9_TMKDIR, mkdir_new}}},
    {"rmdir of what was made", a_file, made_since, {{P9_TUNLINKAT, rmdir_new}}},
    {"mkdir of what was removed", a_file, emptied, {{P9_TMKDIR, mkdir_new}}},
    {"rmdir of what was removed", a_file, emptied, {{P9_TUNLINKAT, rmdir_new}}},
    {"link of what is there", a_file, linked, {{P9_TLINK, link_new}}},
    {"unlink of a link", a_file, linked, {{P9_TUNLINKAT, unlink_new}}},
    {"link of what was removed", a_file, name_removed, {{P9_TLINK, link_new}}},
    {"unlink of what was removed", a_file, name_removed, {{P9_TUNLINKAT, unlink_new}}},
    {"rename back", a_file, moved, {{P9_TRENAMEAT, renameat_back}}},
    {"rename of what has moved", a_file, moved, {{P9_TRENAMEAT, renameat_new}}},
};

/* Without privilege what was created with such a mode cannot be opened again. */
static const struct kind kinds_without_privilege[] = {
    {"create", shared_dir, walked_dir, {{P9_TLCREATE, lcreate}}},
    {"create without any rights", shared_dir, walked_dir, {{P9_TLCREATE, lcreate_closed}}},
    {"mkdir", shared_dir, walked_dir, {{P9_TMKDIR, mkdir_new}}},
};

static const struct kind kinds_of_two_exports[] = {
    {"mkdir in the second", a_file, NULL, {{P9_TMKDIR, mkdir_second}}},
    {"rename between exports", a_file, NULL, {{P9_TRENAMEAT, rename_across}}},
};

#endif
