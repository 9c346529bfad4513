// sources: p9/xattr.c p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Txattrwalk: C answers that there is none, and leaves everything else to Python.
 */
#define _GNU_SOURCE
#include "p9/device.h"

#include <sys/xattr.h>

enum { FILE_FID = 1, NEW_FID = 2 };

static int walk_attribute(int fid, const char *name)
{
    return ask(P9_TXATTRWALK, "44s", fid, NEW_FID, name);
}

static void create_file(void)
{
    host_writes("file", "text");
    CHECK(walk_to(FILE_FID, "file") == 0);
}

TEST(an_attribute_that_is_not_there_is_answered_in_c)
{
    create_file();
    CHECK(walk_attribute(FILE_FID, "user.none") == -ENODATA);
    CHECK(walk_attribute(FILE_FID, "nowhere") == -EOPNOTSUPP);
    CHECK(walk_attribute(FILE_FID + 1, "user.none") == -EBADF);
}

TEST(an_attribute_that_is_there_a_list_and_bad_names_are_pythons)
{
    create_file();
    if (setxattr(host("file"), "user.a", "", 0, 0) < 0)
        SKIP("no user attributes in /tmp");
    CHECK(walk_attribute(FILE_FID, "user.a") == -V9_NOT_OURS);
    CHECK(walk_attribute(FILE_FID, "") == -V9_NOT_OURS);
}

TEST(names_are_translated)
{
    static const struct v9_xattr_rule rules[] = {{"security.", "user.guest.", V9_XATTR_STORE},
                                                 {"hidden.", "", V9_XATTR_HIDE},
                                                 {"refused.", "", V9_XATTR_REFUSE}};
    v9_xattr_names *names = v9_xattr_names_new(rules, 3);

    create_file();
    v9_export_set_xattr_names(dev.exports[0], names);
    CHECK(walk_attribute(FILE_FID, "security.a") == -ENODATA);
    CHECK(walk_attribute(FILE_FID, "hidden.a") == -EOPNOTSUPP);
    CHECK(walk_attribute(FILE_FID, "refused.a") == -ENODATA);
    if (setxattr(host("file"), "user.guest.a", "", 0, 0) == 0)
        CHECK(walk_attribute(FILE_FID, "security.a") == -V9_NOT_OURS);
    v9_export_set_xattr_names(dev.exports[0], NULL);
    v9_xattr_names_free(names);
}
