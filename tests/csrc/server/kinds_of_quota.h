/*
 * Kinds of requests that change what files take of a quota.
 */
#ifndef SERVER_KINDS_OF_QUOTA_H
#define SERVER_KINDS_OF_QUOTA_H

#include "server/kinds_of_files.h"
#include "server/kinds_of_names.h"

static inline uint32_t write_far(uint8_t *body)
{
    return fill_write(body, FID, 20000, "far");
}

static inline uint32_t truncate_to_nothing(uint8_t *body)
{
    return fill_setattr(body, SET_SIZE, 0, 0);
}

static inline uint32_t renameat_over_other(uint8_t *body)
{
    return fill_renameat(body, ROOT, "other", ROOT, "file");
}

static inline void an_empty_file(void)
{
    a_file();
    host_writes("file", "");
    host_writes("other", "of another block");
}

/* A file that has no name any more, and is still open. */
static inline void unlinked(void)
{
    uint8_t body[ROOM];

    open_for_both();
    must(P9_TUNLINKAT, body, unlink_file(body));
}

static const struct kind kinds_of_quota[] = {
    {"create", a_file, walked_dir, {{P9_TLCREATE, lcreate}}},
    {"create and truncate", a_file, walked_dir, {{P9_TLCREATE, lcreate_truncated}}},
    {"mkdir", a_file, walked_dir, {{P9_TMKDIR, mkdir_new}}},
    {"symlink", a_file, walked_dir, {{P9_TSYMLINK, symlink_new}}},
    {"link", a_file, walked, {{P9_TLINK, link_new}}},
    {"write that grows", a_file, open_for_both, {{P9_TWRITE, write_far}}},
    {"append", an_empty_file, open_for_append, {{P9_TWRITE, write_more}}},
    {"open and truncate", a_file, walked, {{P9_TLOPEN, open_truncated}}},
    {"truncate", a_file, open_for_both, {{P9_TSETATTR, truncate_to_nothing}}},
    {"unlink", a_file, NULL, {{P9_TUNLINKAT, unlink_file}}},
    {"unlink of an open file", a_file, open_for_both, {{P9_TUNLINKAT, unlink_file}}},
    {"rmdir", empty_dir, NULL, {{P9_TUNLINKAT, rmdir_dir}}},
    {"rename over", an_empty_file, NULL, {{P9_TRENAMEAT, renameat_over_other}}},
    {"rename over an open file",
     an_empty_file,
     open_for_both,
     {{P9_TRENAMEAT, renameat_over_other}}},
    {"write to an unlinked file", a_file, unlinked, {{P9_TWRITE, write_far}}},
    {"clunk of an unlinked file", a_file, unlinked, {{P9_TCLUNK, number}}},
    {"xattr set", named_value, xattr_set, {{P9_TCLUNK, number}}},
};

#endif
