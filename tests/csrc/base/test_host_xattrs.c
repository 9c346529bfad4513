// sources: base/host_xattrs.c
/*
 * Names of extended attributes: few of them, many, none, and errors of the host.
 */
#define _GNU_SOURCE
#include "base/host_xattrs.h"

#include <errno.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "check.h"

static size_t there; /* bytes of names that the host has */
static int refusal;  /* errno instead */
static unsigned calls;

ssize_t listxattr(const char *path, char *list, size_t size)
{
    calls++;
    if (refusal || there > size) {
        errno = refusal ? refusal : size < XATTR_LIST_MAX ? ERANGE : E2BIG;
        return -1;
    }
    memset(list, 'n', there);
    if (there)
        list[there - 1] = 0;
    return (ssize_t)there;
}

static int read_list(struct v9_host_xattrs *list)
{
    calls = 0;
    return v9_host_xattrs_list("/proc/self/fd/0", list);
}

TEST(a_short_list_takes_one_call_and_no_memory)
{
    static const size_t sizes[] = {0, 1, 4096};
    struct v9_host_xattrs list;

    for (unsigned i = 0; i < 3; i++) {
        there = sizes[i];
        CHECK(read_list(&list) == 0 && calls == 1);
        CHECK(list.size == there && list.names == list.few);
        v9_host_xattrs_free(&list);
    }
}

TEST(a_long_list_is_read_whole)
{
    struct v9_host_xattrs list;

    there = XATTR_LIST_MAX;
    CHECK(read_list(&list) == 0 && calls == 2 && list.size == there);
    CHECK(list.names != list.few && strlen(list.names) == there - 1);
    v9_host_xattrs_free(&list);
}

TEST(errors_are_the_hosts)
{
    struct v9_host_xattrs list;

    there = XATTR_LIST_MAX + 1;
    CHECK(read_list(&list) == -E2BIG);
    refusal = EOPNOTSUPP;
    CHECK(read_list(&list) == -EOPNOTSUPP && calls == 1);
    refusal = ERANGE; /* it has grown in between */
    CHECK(read_list(&list) == -ERANGE && calls == 2);
}
