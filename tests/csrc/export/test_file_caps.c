// sources: export/file_caps.c export/ base/
/*
 * Capabilities under another name go before the program is written.
 */
#define _GNU_SOURCE
#include "export/file_caps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"

#define NAME "user.caps"

static char path[] = "/var/tmp/v9-caps-XXXXXX";
static int file;

SET_UP()
{
    file = mkstemp(path);
    CHECK(file >= 0);
}

TEAR_DOWN()
{
    unlink(path);
    close(file);
}

static bool has_caps(void)
{
    return fgetxattr(file, NAME, NULL, 0) >= 0;
}

TEST(a_write_removes_capabilities_that_were_set_since_the_last_one)
{
    struct v9_caps caps = {0};
    uint32_t seen = 0;

    if (fsetxattr(file, NAME, "x", 1, 0) < 0)
        SKIP("no user xattrs here");
    CHECK(v9_caps_drop(&caps, file, &seen) == 0 && has_caps()); /* none are kept so */
    CHECK(v9_caps_watch(&caps, NAME) == 0);
    CHECK(v9_caps_drop(&caps, file, &seen) == 0 && !has_caps());
    CHECK(fsetxattr(file, NAME, "x", 1, 0) == 0);
    CHECK(v9_caps_drop(&caps, file, &seen) == 0 && has_caps()); /* nobody has said so */
    v9_caps_changed(&caps);
    CHECK(v9_caps_drop(&caps, file, &seen) == 0 && !has_caps());
}

TEST(a_name_that_is_none_is_refused)
{
    struct v9_caps caps = {0};
    char longest[V9_CAPS_NAME + 1] = {0};

    memset(longest, 'x', V9_CAPS_NAME);
    CHECK(v9_caps_watch(&caps, "") == -EINVAL && v9_caps_watch(&caps, longest) == -EINVAL);
}

TEST(a_long_list_of_names_without_capabilities_is_no_reason_to_refuse)
{
    char shared[] = "/dev/shm/v9-caps-XXXXXX", name[128];
    const int roomy = mkstemp(shared);
    struct v9_caps caps = {0};

    CHECK(roomy >= 0 && unlink(shared) == 0 && v9_caps_watch(&caps, NAME) == 0);
    for (int i = 0; i < 60; i++) {
        snprintf(name, sizeof(name), "user.%0100d", i);
        if (fsetxattr(roomy, name, "", 0, 0) < 0)
            SKIP("tmpfs has no user attributes before Linux 6.6");
    }
    CHECK(fchmod(roomy, 0400) == 0 && v9_caps_drop_file(&caps, roomy) == 0);
    CHECK(fsetxattr(roomy, NAME, "x", 1, 0) == 0 && v9_caps_drop_file(&caps, roomy) == 0);
    CHECK(fgetxattr(roomy, NAME, NULL, 0) < 0 && errno == ENODATA);
    close(roomy);
}
