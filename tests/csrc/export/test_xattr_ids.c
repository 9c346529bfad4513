// sources: export/xattr_ids.c export/ base/
/*
 * Ids in the values of extended attributes: which are mapped, which are refused, and what is no
 * value.
 */
#define _GNU_SOURCE
#include "export/xattr_ids.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define ACL "system.posix_acl_access"
#define CAPS "security.capability"

enum { USER = 2, GROUP = 8, V2 = 0x02000001, V3 = 0x03000001 };

static v9_export ex;

/* Users 1000 to 1009 of the guest are 5000 and on; its groups are 100 more than those; its root is
 * user 100000. */
static void map(bool root_is_root)
{
    const struct v9_id_range users[] = {{1000, 5000, 10}, {0, root_is_root ? 9000 : 100000, 1}};
    const struct v9_id_range root[] = {{0, 0, 1}, {1000, 5000, 10}};
    const struct v9_id_range groups[] = {{1000, 5100, 10}};
    const struct v9_id_conf uids = {root_is_root ? root : users, NULL, 2, 0, 0, 0};
    const struct v9_id_conf gids = {groups, NULL, 1, 0, 0, 0};

    CHECK(v9_export_set_ids(&ex, V9_UID, &uids) == 0);
    CHECK(v9_export_set_ids(&ex, V9_GID, &gids) == 0);
}

TEAR_DOWN()
{
    v9_idmap_free(&ex.ids[V9_UID]);
    v9_idmap_free(&ex.ids[V9_GID]);
}

/* An ACL of one entry. */
struct acl {
    uint32_t version;
    uint16_t tag, permissions;
    uint32_t id;
    uint32_t room;
};

static int map_entry(enum v9_xattr_direction direction, const char *name, struct acl *acl)
{
    return v9_xattr_map_ids(&ex, direction, name, acl, 12);
}

/* What an id in an entry becomes, or -errno. */
static int64_t mapped(enum v9_xattr_direction direction, uint16_t tag, uint32_t id)
{
    struct acl acl = {2, tag, 7, id, 0};
    const int size = map_entry(direction, ACL, &acl);

    if (size < 0)
        return size;
    CHECK(size == 12 && acl.version == 2 && acl.tag == tag && acl.permissions == 7);
    return acl.id;
}

TEST(named_entries_of_acls_are_mapped)
{
    map(false);
    CHECK(mapped(V9_XATTR_TO_HOST, USER, 1003) == 5003);
    CHECK(mapped(V9_XATTR_TO_HOST, GROUP, 1003) == 5103);
    CHECK(mapped(V9_XATTR_TO_GUEST, USER, 5003) == 1003);
    CHECK(mapped(V9_XATTR_TO_GUEST, GROUP, 5103) == 1003);
    CHECK(mapped(V9_XATTR_TO_GUEST, USER, 7) == V9_ID_NOBODY);
    CHECK(mapped(V9_XATTR_TO_HOST, USER, 7) == -EPERM);
    CHECK(mapped(V9_XATTR_TO_HOST, GROUP, 7) == -EPERM);
    for (uint16_t tag = 1; tag < 0x40; tag = (uint16_t)(tag * 2))
        if (tag != USER && tag != GROUP)
            CHECK(mapped(V9_XATTR_TO_HOST, tag, 7) == 7);
}

TEST(other_attributes_and_empty_values_are_left_alone)
{
    struct acl acl = {2, USER, 7, 1003, 0};

    map(false);
    CHECK(map_entry(V9_XATTR_TO_HOST, "system.posix_acl_default", &acl) == 12 && acl.id == 5003);
    CHECK(map_entry(V9_XATTR_TO_GUEST, "user.acl", &acl) == 12 && acl.id == 5003);
    CHECK(v9_xattr_map_ids(&ex, V9_XATTR_TO_HOST, ACL, &acl, 0) == 0);
    CHECK(v9_xattr_map_ids(&ex, V9_XATTR_TO_HOST, CAPS, &acl, 0) == 0);
}

TEST(without_a_map_nothing_is_looked_at)
{
    uint8_t garbage[5] = {1};

    CHECK(v9_xattr_map_ids(&ex, V9_XATTR_TO_HOST, ACL, garbage, 1) == 1);
    CHECK(mapped(V9_XATTR_TO_HOST, USER, 7) == 7);
}

TEST(an_acl_has_many_entries)
{
    const struct acl one = {2, USER, 6, 1001, 0};
    uint8_t value[4 + 3 * 8 + V9_XATTR_IDS_MORE] = {2};
    uint32_t id;

    map(false);
    for (int i = 0; i < 3; i++)
        memcpy(value + 4 + i * 8, &one.tag, 8);
    CHECK(v9_xattr_map_ids(&ex, V9_XATTR_TO_HOST, ACL, value, 28) == 28);
    for (int i = 0; i < 3; i++) {
        memcpy(&id, value + 8 + i * 8, 4);
        CHECK(id == 5001);
    }
}

/* Capabilities with a root id: the size of what they become, which is there then. */
static int map_caps(enum v9_xattr_direction direction, uint32_t value[6], int size)
{
    for (uint32_t i = 1; i < 5; i++)
        value[i] = i;
    size = v9_xattr_map_ids(&ex, direction, CAPS, value, (size_t)size);
    for (uint32_t i = 1; i < 5; i++)
        CHECK(value[i] == i);
    return size;
}

TEST(capabilities_are_those_of_the_mapped_root)
{
    uint32_t value[6] = {V2};

    map(false);
    CHECK(map_caps(V9_XATTR_TO_HOST, value, 20) == 24 && value[0] == V3 && value[5] == 100000);
    CHECK(map_caps(V9_XATTR_TO_GUEST, value, 24) == 20 && value[0] == V2);
    CHECK(map_caps(V9_XATTR_TO_GUEST, value, 20) == 24 && value[5] == V9_ID_NOBODY);
    value[5] = 1001;
    CHECK(map_caps(V9_XATTR_TO_HOST, value, 24) == 24 && value[5] == 5001);
    value[5] = 77;
    CHECK(map_caps(V9_XATTR_TO_HOST, value, 24) == -EPERM);
}

TEST(capabilities_of_root_that_stays_root_keep_their_revision)
{
    uint32_t value[6] = {V2};

    map(true);
    CHECK(map_caps(V9_XATTR_TO_HOST, value, 20) == 20 && value[0] == V2);
    value[0] = V3;
    value[5] = 0;
    CHECK(map_caps(V9_XATTR_TO_HOST, value, 24) == 20 && value[0] == V2);
}

/* Memory of exactly this size, for the sanitizers. */
static int map_bytes(const char *name, const uint8_t *bytes, size_t size)
{
    uint8_t *value = malloc(size + V9_XATTR_IDS_MORE);
    int result;

    memcpy(value, bytes, size);
    result = v9_xattr_map_ids(&ex, V9_XATTR_TO_GUEST, name, value, size);
    free(value);
    return result;
}

TEST(garbage_is_refused)
{
    uint8_t acl[40] = {2}, caps[40] = {1, 0, 0, 2};

    map(false);
    for (size_t size = 1; size <= sizeof(acl); size++) {
        CHECK(map_bytes(ACL, acl, size) == (size % 8 == 4 ? (int)size : -EINVAL));
        caps[3] = 2;
        CHECK((map_bytes(CAPS, caps, size) < 0) == (size != 20));
        caps[3] = 3;
        CHECK((map_bytes(CAPS, caps, size) < 0) == (size != 24));
        caps[3] = 1;
        CHECK(map_bytes(CAPS, caps, size) == -EINVAL);
    }
    acl[0] = 1;
    CHECK(map_bytes(ACL, acl, 12) == -EINVAL);
    acl[0] = 2;
    acl[3] = 1;
    CHECK(map_bytes(ACL, acl, 12) == -EINVAL);
}
