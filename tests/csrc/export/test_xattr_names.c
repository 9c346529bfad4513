// sources: export/xattr_names.c export/ base/
/*
 * Names of extended attributes by rules. tests/policy/test_xattrs.py shows that no two become one.
 */
#define _GNU_SOURCE
#include "export/xattr_names.h"

#include <errno.h>
#include <string.h>

#include "check.h"

static char host[V9_XATTR_NAME];

static const struct v9_xattr_rule rules[] = {
    {"security.keep", "", V9_XATTR_KEEP},
    {"security.", "user.guest.", V9_XATTR_STORE},
    {"trusted.", "", V9_XATTR_REFUSE},
    {"system.", "", V9_XATTR_HIDE},
};
static v9_xattr_names *names;

SET_UP()
{
    names = v9_xattr_names_new(rules, sizeof(rules) / sizeof(rules[0]));
    CHECK(names);
}

TEAR_DOWN()
{
    v9_xattr_names_free(names);
}

static int translate(const char *name)
{
    return v9_xattr_names_host(names, name, EPERM, host);
}

TEST(the_first_rule_that_matches_counts)
{
    CHECK(translate("security.keep") == 13 && !strcmp(host, "security.keep"));
    CHECK(translate("security.a") == 12 && !strcmp(host, "user.guest.a"));
    CHECK(translate("user.a") == 6 && !strcmp(host, "user.a"));
    CHECK(translate("trusted.a") == -EPERM && translate("system.a") == -EOPNOTSUPP);
}

TEST(names_under_which_others_are_stored_are_refused)
{
    CHECK(translate("user.guest.a") == -EPERM);
}

TEST(a_name_that_becomes_too_long_is_refused)
{
    char name[V9_XATTR_NAME];

    memset(name, 'x', sizeof(name));
    memcpy(name, "security.", 9);
    name[253] = 0; /* "user.guest." has two bytes more */
    CHECK(translate(name) == 255);
    memcpy(name + 253, "x", 2);
    CHECK(translate(name) == -ERANGE);
}

/* The guest's name of a host's attribute; "": it has none. */
static const char *shown(const char *name)
{
    static char guest[V9_XATTR_NAME];
    const int size = v9_xattr_names_guest(names, name, guest);

    CHECK(size == -ENODATA || size == (int)strlen(guest));
    return size < 0 ? "" : guest;
}

TEST(a_hosts_name_is_shown_where_the_guests_leads_back_to_it)
{
    CHECK(!strcmp(shown("security.keep"), "security.keep"));
    CHECK(!strcmp(shown("user.guest.a"), "security.a"));
    CHECK(!strcmp(shown("user.a"), "user.a"));
    CHECK(!*shown("security.a"));      /* which is another one for the guest */
    CHECK(!*shown("user.guest.keep")); /* which the guest has elsewhere */
    CHECK(!*shown("trusted.a") && !*shown("system.a"));
}

TEST(a_name_that_would_be_too_long_for_the_guest_is_not_shown)
{
    static const struct v9_xattr_rule longer[] = {
        {"security.and.more.", "user.", V9_XATTR_STORE},
    };
    v9_xattr_names *own = v9_xattr_names_new(longer, 1);
    char name[V9_XATTR_NAME], guest[V9_XATTR_NAME];

    memset(name, 'x', sizeof(name));
    memcpy(name, "user.", 5);
    name[242] = 0; /* "security.and.more." has 13 bytes more */
    CHECK(v9_xattr_names_guest(own, name, guest) == 255);
    memcpy(name + 242, "x", 2);
    CHECK(v9_xattr_names_guest(own, name, guest) == -ENODATA);
    v9_xattr_names_free(own);
}

TEST(without_rules_a_name_stays)
{
    const v9_export ex = {.xattr_names = NULL};

    CHECK(v9_export_xattr_name(&ex, "user.a", EPERM, host) == 6 && !strcmp(host, "user.a"));
    CHECK(v9_export_xattr_shown(&ex, "user.b", host) == 6 && !strcmp(host, "user.b"));
}
