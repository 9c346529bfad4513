// sources: fs/xattr.c fs/setattr.c fs/attributes.c fs/stat_override.c mapped/ export/ quota/ base/
/*
 * Extended attributes of a real file behind rules, limits and a map of ids: what the host has, and
 * what the guest gets.
 */
#define _GNU_SOURCE
#include "fs/xattr.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "export/export.h"
#include "export/xattr_names.h"
#include "fs/api.h"

#define ACL "system.posix_acl_access"
#define CAPS "security.capability"
#define STORED "user.virtfs."

/* As vhost9p/policy/xattrs.py has them for mapped-xattr. */
static const struct v9_xattr_rule mapped[] = {
    {"user.virtfs.", "", V9_XATTR_REFUSE},
    {"system.posix_acl_", STORED "system.posix_acl_", V9_XATTR_STORE},
    {"security.", STORED "security.", V9_XATTR_STORE},
    {"trusted.", STORED "trusted.", V9_XATTR_STORE},
    {"hidden.", "", V9_XATTR_HIDE},
};

static char path[] = "/var/tmp/v9-xattr-XXXXXX", file_path[64];
static v9_qidmap *qids;
static v9_export *ex;
static v9_xattr_names *names;
static int top, file;
static unsigned invented; /* names that every file has, instead of its own */

/* That of the C library, but for these. */
ssize_t listxattr(const char *at, char *list, size_t size)
{
    const size_t each = sizeof("user.g.000");

    if (!invented)
        return syscall(SYS_listxattr, at, list, size);
    if (size < invented * each) {
        errno = ERANGE;
        return -1;
    }
    for (unsigned i = 0; i < invented; i++)
        snprintf(list + i * each, each, "user.g.%03u", i % 1000);
    return (ssize_t)(invented * each);
}

SET_UP()
{
    struct v9_export_conf conf = {.owners_matter = false};
    int32_t err;

    CHECK(mkdtemp(path));
    conf.root_fd = top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(top, "f", O_CREAT | O_WRONLY, 0600));
    snprintf(file_path, sizeof(file_path), "%s/f", path);
    file = openat(top, "f", O_PATH | O_CLOEXEC);
    qids = v9_qidmap_new();
    ex = v9_export_new(&conf, qids, &err);
    CHECK(ex && !err);
}

TEAR_DOWN()
{
    char command[64];

    v9_export_free(ex);
    v9_xattr_names_free(names);
    v9_qidmap_free(qids);
    close(file);
    close(top);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    CHECK(system(command) == 0);
}

/* Whether the host keeps attributes of users. */
static bool host_has_attributes(void)
{
    const bool has = setxattr(file_path, "user.probe", "", 0, 0) == 0;

    if (has)
        CHECK(removexattr(file_path, "user.probe") == 0);
    return has;
}

static void rule(const struct v9_xattr_rule *rules, uint32_t count)
{
    names = v9_xattr_names_new(rules, count);
    v9_export_set_xattr_names(ex, names);
}

static void limit(uint32_t value, uint32_t count, uint64_t total)
{
    const struct v9_xattr_limits limits = {value, count, total};
    v9_export_limit_xattrs(ex, &limits);
}

/* Sets a value of so many bytes. */
static int set_bytes(const char *name, size_t size, int flags)
{
    void *value = calloc(1, size + 1);
    const int err = v9_xattr_set(ex, file, name, value, size, flags);

    free(value);
    return err;
}

/* Sets a text, without its NUL. */
static int set(const char *name, const char *text)
{
    return v9_xattr_set(ex, file, name, text, strlen(text), 0);
}

/* Whether the guest reads this text. */
static bool reads(const char *name, const char *text)
{
    char value[64];
    const int size = v9_xattr_get(ex, file, name, value, sizeof(value));

    return size == (int)strlen(text) && !memcmp(value, text, (size_t)size);
}

static int get(const char *name)
{
    char value[64];
    return v9_xattr_get(ex, file, name, value, sizeof(value));
}

/* Whether the host has the attribute. */
static bool is_on_host(const char *name)
{
    return getxattr(file_path, name, NULL, 0) >= 0;
}

static unsigned count_names(void)
{
    char list[4096];
    const int size = v9_xattr_list(ex, file, list, sizeof(list));
    unsigned count = 0;

    CHECK(size >= 0);
    for (int i = 0; i < size; i++)
        count += !list[i];
    return count;
}

/* ---- names ------------------------------------------------------------------------------------
 */

TEST(without_rules_names_and_values_are_the_hosts)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    CHECK(set("user.a", "value") == 0 && is_on_host("user.a") && reads("user.a", "value"));
    CHECK(set("user.b", "") == 0 && reads("user.b", "") && count_names() == 2);
    CHECK(set_bytes("user.a", 1, XATTR_CREATE) == -EEXIST);
    CHECK(set_bytes("user.c", 1, XATTR_REPLACE) == -ENODATA);
    CHECK(v9_xattr_remove(ex, file, "user.a") == 0 && get("user.a") == -ENODATA);
    CHECK(v9_xattr_remove(ex, file, "user.a") == -ENODATA && count_names() == 1);
    CHECK(get("nonsense") == -EOPNOTSUPP);
}

/* So that `ls -l` does not ask for each file. */
TEST(a_host_without_labels_supports_none_but_has_what_was_set)
{
    rule(mapped, 5); /* security.* is stored as user.* */
    CHECK(get("security.selinux") == -ENODATA);
    ex->conf.unlabelled = true;
    CHECK(get("security.selinux") == -EOPNOTSUPP && get("security.other") == -ENODATA);
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    CHECK(set("security.selinux", "label") == 0 && reads("security.selinux", "label"));
    CHECK(v9_xattr_remove(ex, file, "security.selinux") == 0);
    CHECK(get("security.selinux") == -EOPNOTSUPP);
}

TEST(privileged_names_need_no_privilege)
{
    static const char *const shown[] = {"security.x", "trusted.x", ACL, "user.x"};
    char host[V9_XATTR_NAME];

    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    for (unsigned i = 0; i < 4; i++) {
        snprintf(host, sizeof(host), "%s%s", i == 3 ? "" : STORED, shown[i]);
        CHECK(set(shown[i], shown[i]) == 0 && is_on_host(host) && reads(shown[i], shown[i]));
    }
    CHECK(setxattr(file_path, "user.virtfs.uid", "1234", 4, 0) == 0 && count_names() == 4);
    for (unsigned i = 0; i < 4; i++)
        CHECK(v9_xattr_remove(ex, file, shown[i]) == 0);
    CHECK(count_names() == 0 && is_on_host("user.virtfs.uid"));
}

TEST(what_rules_forbid_is_refused_or_unknown)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    CHECK(setxattr(file_path, "user.virtfs.uid", "1234", 4, 0) == 0);
    CHECK(get("user.virtfs.uid") == -ENODATA && set("user.virtfs.uid", "x") == -EPERM);
    CHECK(v9_xattr_remove(ex, file, "user.virtfs.uid") == -EPERM && is_on_host("user.virtfs.uid"));
    CHECK(get("hidden.x") == -EOPNOTSUPP && set("hidden.x", "x") == -EOPNOTSUPP);
    CHECK(v9_xattr_remove(ex, file, "hidden.x") == -EOPNOTSUPP);
}

TEST(a_name_that_is_too_long_for_the_host_is_refused)
{
    char name[V9_XATTR_NAME];

    rule(mapped, 5);
    memset(name, 'n', sizeof(name));
    memcpy(name, "security.", 9);
    name[255] = 0;
    CHECK(set(name, "v") == -ERANGE && get(name) == -ERANGE);
}

TEST(an_acl_is_removed_as_the_kernel_removes_it)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    CHECK(v9_xattr_remove(ex, file, ACL) == 0); /* there is none: no error */
    CHECK(set(ACL, "list") == 0 && is_on_host(STORED ACL));
    CHECK(set(ACL, "") == 0 && !is_on_host(STORED ACL) && set(ACL, "") == 0);
    CHECK(v9_xattr_remove(ex, file, "security.x") == -ENODATA);
}

TEST(a_symlinks_attributes_are_its_own)
{
    char value[8] = "v";
    int link;

    rule(mapped, 5);
    CHECK(symlinkat("f", top, "link") == 0);
    link = openat(top, "link", O_PATH | O_NOFOLLOW);
    CHECK(v9_xattr_set(ex, link, "security.x", value, 1, 0) == -EPERM);
    CHECK(!is_on_host(STORED "security.x"));
    close(link);
}

/* ---- room -------------------------------------------------------------------------------------
 */

TEST(what_may_not_fit_is_not_returned)
{
    char room[32 + V9_XATTR_IDS_MORE];

    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    CHECK(set_bytes("user.a", 32, 0) == 0 && set_bytes("user.b", 33, 0) == 0);
    CHECK(v9_xattr_get(ex, file, "user.a", room, sizeof(room)) == 32);
    CHECK(v9_xattr_get(ex, file, "user.b", room, sizeof(room)) == -ERANGE);
    for (int with_rules = 0; with_rules < 2; with_rules++) {
        CHECK(v9_xattr_list(ex, file, room, 14) == 14);
        CHECK(v9_xattr_list(ex, file, room, 13) == -ERANGE);
        if (!with_rules)
            rule(mapped, 5);
    }
}

/* Names may be longer in the guest than on the host, where the kernel bounds their list. */
TEST(a_list_that_is_too_long_for_the_guest)
{
    struct v9_xattr_rule longer = {NULL, "user.g.", V9_XATTR_STORE};
    char match[V9_XATTR_NAME], *room = malloc(XATTR_LIST_MAX);

    memset(match, 'x', sizeof(match));
    match[209] = 0; /* 213 bytes each in the guest, and 11 here */
    longer.match = match;
    rule(&longer, 1);
    invented = 307;
    CHECK(v9_xattr_list(ex, file, room, XATTR_LIST_MAX) == 307 * 213);
    CHECK(v9_xattr_list(ex, file, room, 1000) == -ERANGE);
    invented = 308;
    CHECK(v9_xattr_list(ex, file, room, XATTR_LIST_MAX) == -E2BIG);
    invented = 0;
    free(room);
}

/* ---- limits -----------------------------------------------------------------------------------
 */

TEST(values_and_names_are_limited)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    limit(100, 3, 200);
    CHECK(set_bytes("user.a", 101, 0) == -E2BIG);
    CHECK(set_bytes("user.a", 100, 0) == 0); /* 106 bytes */
    CHECK(set_bytes("user.b", 89, 0) == -ENOSPC);
    CHECK(set_bytes("user.b", 88, 0) == 0); /* 200 */
    CHECK(set_bytes("user.c", 0, 0) == -ENOSPC);
    CHECK(set_bytes("user.b", 1, XATTR_REPLACE) == 0 && set_bytes("user.c", 0, 0) == 0);
    CHECK(set_bytes("user.d", 0, 0) == -ENOSPC); /* the fourth */
    CHECK(count_names() == 3);
}

TEST(what_is_above_a_limit_may_shrink)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    CHECK(set_bytes("user.a", 60, 0) == 0 && set_bytes("user.b", 60, 0) == 0);
    limit(100, 1, 50);
    CHECK(set_bytes("user.a", 59, 0) == 0 && set_bytes("user.a", 59, 0) == 0);
    CHECK(set_bytes("user.a", 60, 0) == -ENOSPC);
    CHECK(getxattr(file_path, "user.a", NULL, 0) == 59);
    CHECK(v9_xattr_remove(ex, file, "user.b") == 0);
}

TEST(what_the_guest_does_not_see_is_not_counted)
{
    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    limit(100, 1, 100);
    CHECK(setxattr(file_path, "user.virtfs.uid", "1234", 4, 0) == 0);
    CHECK(set_bytes("security.x", 90, 0) == 0); /* 100 bytes by the guest's name */
    CHECK(set_bytes("security.x", 91, 0) == -ENOSPC && set_bytes("user.x", 1, 0) == -ENOSPC);
}

/* ---- ids --------------------------------------------------------------------------------------
 */

TEST(ids_in_values_are_mapped_by_the_guests_name)
{
    static const uint8_t acl[] = {2, 0, 0, 0, 2, 0, 7, 0, 0xe8, 3, 0, 0};
    const struct v9_id_range range[] = {{1000, 2000, 1}};
    const struct v9_id_conf conf = {range, NULL, 1, 0, 0, 0};
    uint8_t value[64], host[64];

    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    CHECK(!v9_export_set_ids(ex, V9_UID, &conf) && !v9_export_set_ids(ex, V9_GID, &conf));
    CHECK(v9_xattr_set(ex, file, ACL, acl, sizeof(acl), 0) == 0);
    CHECK(getxattr(file_path, STORED ACL, host, sizeof(host)) == 12);
    CHECK(host[8] == 0xd0 && host[9] == 7); /* 2000 */
    CHECK(v9_xattr_get(ex, file, ACL, value, sizeof(value)) == 12 && !memcmp(value, acl, 12));
    value[8] = 0; /* an id that the guest may not use */
    CHECK(v9_xattr_set(ex, file, ACL, value, sizeof(acl), 0) == -EPERM);
    CHECK(v9_xattr_set(ex, file, ACL, value, 11, 0) == -EINVAL);
    CHECK(setxattr(file_path, STORED ACL, "bad", 3, 0) == 0 && get(ACL) == -EINVAL);
    CHECK(set(ACL, "") == 0 && !is_on_host(STORED ACL));
}

/* ---- capabilities -----------------------------------------------------------------------------
 */

TEST(setting_stored_capabilities_lets_open_files_be_checked)
{
    uint32_t seq;

    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    CHECK(v9_export_watch_caps(ex, STORED CAPS) == 0);
    seq = ex->caps.seq;
    CHECK(set("security.x", "v") == 0 && v9_xattr_remove(ex, file, "security.x") == 0);
    CHECK(set_bytes(CAPS, 1, XATTR_REPLACE) == -ENODATA && ex->caps.seq == seq);
    CHECK(set(CAPS, "caps") == 0 && ex->caps.seq != seq);
}

TEST(a_directorys_capabilities_stay)
{
    const struct v9_setattr owner = {
        .valid = V9_SETATTR_UID | V9_SETATTR_GID, .uid = geteuid(), .gid = getegid()};
    char value[8] = "caps";
    int directory;

    if (!host_has_attributes())
        SKIP("no user attributes in /var/tmp");
    rule(mapped, 5);
    CHECK(v9_export_watch_caps(ex, STORED CAPS) == 0 && mkdirat(top, "d", 0700) == 0);
    directory = openat(top, "d", O_PATH);
    CHECK(v9_xattr_set(ex, directory, CAPS, value, 4, 0) == 0);
    CHECK(v9_setattr(ex, directory, -1, -1, &owner) == 0);
    CHECK(v9_xattr_get(ex, directory, CAPS, value, sizeof(value)) == 4);
    close(directory);
}
