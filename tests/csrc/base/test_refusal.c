// sources: base/proc.c base/refusal.c
/*
 * What is noted of a request that is refused, and when a note counts.
 */
#define _GNU_SOURCE
#include "base/refusal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"

static struct v9_file_facts denied;

static struct v9_refusal noted(int error)
{
    struct v9_refusal refusal;

    v9_refusal_read(error, &refusal);
    return refusal;
}

SET_UP()
{
    v9_refusal_begin(&denied);
}

TEST(note_has_rule_and_value)
{
    CHECK(v9_refuse(EPERM, V9_REFUSED_ID, 7) == -EPERM);
    CHECK(noted(EPERM).why == V9_REFUSED_ID && noted(EPERM).value == 7);
}

TEST(note_explains_no_other_error)
{
    v9_refuse(EPERM, V9_REFUSED_ID, 7);
    CHECK(noted(EIO).why == V9_REFUSED_BY_HOST && noted(EIO).value == 0);
}

TEST(note_ends_with_its_request)
{
    v9_refuse(EPERM, V9_REFUSED_ID, 7);
    v9_refusal_of_walk(EACCES, 2, -1, 0);
    v9_refusal_begin(&denied);
    CHECK(noted(EPERM).why == V9_REFUSED_BY_HOST);
    CHECK(v9_refusal_walk_error() == 0);
}

TEST(walk_is_noted_with_its_directory)
{
    const int fd = open("/", O_PATH | O_DIRECTORY);
    struct stat st;

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    v9_refusal_of_walk(EACCES, 2, fd, 0);
    close(fd);
    CHECK(v9_refusal_walk_error() == EACCES && noted(EACCES).walked == 2);
    CHECK(noted(EACCES).denied.known && noted(EACCES).denied.mode == st.st_mode);
    CHECK(noted(EACCES).denied.uid == st.st_uid && noted(EACCES).denied.gid == st.st_gid);
}

TEST(acl_is_known_of_a_file_that_may_be_asked)
{
    static const uint8_t acl[] = {
        2,  0, 0, 0, 1,    0,    6,    0,    0xff, 0xff, 0xff, 0xff, /* version; the owner */
        2,  0, 4, 0, 0xe9, 3,    0,    0,    4,    0,    0,    0,    0xff, 0xff, 0xff, 0xff,
        16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 32,   0,    0,    0,    0xff, 0xff, 0xff, 0xff,
    };
    char name[] = "/var/tmp/v9-acl-XXXXXX";
    const int fd = mkstemp(name);
    struct v9_file_facts facts;
    struct stat st;

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    v9_file_facts(fd, V9_FACTS_ASK, &facts);
    CHECK(facts.acl_size == 0);
    if (setxattr(name, "system.posix_acl_access", acl, sizeof acl, 0) == 0) {
        v9_file_facts(fd, st.st_dev, &facts);
        CHECK(facts.acl_size == sizeof acl && memcmp(facts.acl, acl, sizeof acl) == 0);
    }
    v9_file_facts(fd, st.st_dev + 1, &facts);
    CHECK(facts.known && facts.acl_size == -1);
    unlink(name);
    close(fd);
}

TEST(nothing_is_known_of_no_file)
{
    struct v9_file_facts facts = {.known = 1};

    v9_file_facts(-1, V9_FACTS_ASK, &facts);
    CHECK(!facts.known);
}
