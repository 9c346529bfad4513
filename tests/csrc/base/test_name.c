// sources: base/name.c
/*
 * Which names a directory entry may have.
 */
#include <errno.h>
#include <string.h>

#include "base/api.h"
#include "check.h"

static int check(const char *name)
{
    return v9_name_check(name, (uint32_t)strlen(name));
}

TEST(dots_are_reported_and_other_names_with_dots_are_names)
{
    CHECK(check(".") == V9_NAME_DOTS && check("..") == V9_NAME_DOTS);
    CHECK(check("...") == 0 && check(".a") == 0 && check("a.") == 0);
}

TEST(what_no_entry_can_be_called_is_refused)
{
    char longest[257] = {0};

    CHECK(check("") == -ENOENT);
    CHECK(check("a/b") == -EINVAL && check("/") == -EINVAL && v9_name_check("a\0b", 3) == -EINVAL);
    memset(longest, 'x', 255);
    CHECK(check(longest) == 0);
    longest[255] = 'x';
    CHECK(check(longest) == -ENAMETOOLONG);
}
