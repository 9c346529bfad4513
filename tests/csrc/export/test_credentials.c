// sources: export/credentials.c base/
/*
 * Creating with a guest's credentials.
 */
#define _GNU_SOURCE
#include "export/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

TEST(an_entry_is_created_for_no_owner_only_where_that_is_allowed)
{
    char path[] = "/var/tmp/v9-sys-XXXXXX";
    const struct v9_cred nobody = {UINT32_MAX, 0, true, true};
    const struct v9_cred nogroup = {0, UINT32_MAX, true, true};
    const struct v9_cred if_possible = {UINT32_MAX, UINT32_MAX, true, false};
    int top;

    if (geteuid())
        SKIP("only root creates for others");
    CHECK(mkdtemp(path));
    top = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(v9_cred_mkdir(&nobody, top, "n", 0755) == -EPERM);
    CHECK(v9_cred_mkdir(&nogroup, top, "n", 0755) == -EPERM);
    CHECK(v9_cred_mkdir(&if_possible, top, "n", 0755) == 0);
    CHECK(unlinkat(top, "n", AT_REMOVEDIR) == 0 && rmdir(path) == 0);
    close(top);
}
