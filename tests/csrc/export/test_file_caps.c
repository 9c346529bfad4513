// sources: export/file_caps.c
/*
 * Capabilities under another name go before the program is written.
 */
#define _GNU_SOURCE
#include "export/file_caps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
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
