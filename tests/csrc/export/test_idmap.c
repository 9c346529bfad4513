// sources: export/idmap.c base/proc.c base/refusal.c
/*
 * Id maps: to whom on the host belongs what an id of the guest creates.
 */
#include <errno.h>

#include "check.h"
#include "export/idmap.h"

TEST(new_entries_belong_to_the_mapped_creator_or_the_default)
{
    const struct v9_id_range ranges[] = {{20, 50, 2}, {0, 1000, 5}}, forbidden[] = {{21, 0, 1}};
    const struct v9_id_range root[] = {{0, 0, 1}};
    const struct v9_id_conf conf = {ranges, forbidden, 2, 1, 1, 7};
    const struct v9_id_conf no_root = {ranges, NULL, 1, 0, 1, 7};
    const struct v9_id_conf denied = {ranges, root, 2, 1, 1, 7};
    static const uint32_t cases[][2] = {{50, 50}, {1004, 1004}, {1005, 1000}, {0, 1000}};
    struct v9_idmap map = {0};
    uint32_t id;

    CHECK(v9_idmap_creator(&map, V9_NO_ID, 5, &id) == 0 && id == V9_NO_ID);
    CHECK(v9_idmap_set(&map, &conf) == 0);
    for (size_t i = 0; i < 4; i++)
        CHECK(v9_idmap_creator(&map, V9_NO_ID, cases[i][0], &id) == 0 && id == cases[i][1]);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 51, &id) == -EPERM);
    CHECK(v9_idmap_creator(&map, 3, 0, &id) == 0 && id == 1003);
    CHECK(v9_idmap_creator(&map, 9, 0, &id) == 0 && id == 7);
    v9_idmap_free(&map);
    CHECK(v9_idmap_set(&map, &no_root) == 0);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 0, &id) == 0 && id == 7);
    v9_idmap_free(&map);
    CHECK(v9_idmap_set(&map, &denied) == 0);
    CHECK(v9_idmap_creator(&map, V9_NO_ID, 0, &id) == -EPERM);
    v9_idmap_free(&map);
}
