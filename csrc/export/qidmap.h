/*
 * qidmap: the map from host files to qid.path, for the rooms above (export/api.h has the rest), and
 * its memory file, which a successor of this process maps again.
 */
#ifndef V9_EXPORT_QIDMAP_H
#define V9_EXPORT_QIDMAP_H

#include <stdbool.h>

#include "export/api.h"

/* A group of one device's inodes, whose paths are computed from their numbers; most directories
 * have entries of one group only. Groups never change while the device stays the same. */
struct v9_qid_group {
    uint64_t top, suffix;
    uint32_t bits; /* 0: qid.path = st_ino */
    bool known;
};

static inline bool v9_qid_group_fits(const struct v9_qid_group *group, uint64_t ino)
{
    return group->known && ino >> 1 >> (63 - group->bits) == group->top;
}

static inline uint64_t v9_qid_group_path(const struct v9_qid_group *group, uint64_t ino)
{
    return ino << group->bits | group->suffix;
}

/* As v9_qidmap_lookup; *group is the inode's if it has one. */
int v9_qidmap_near(v9_qidmap *map, uint64_t st_dev, uint64_t mnt_id, uint64_t ino, uint32_t *device,
                   uint64_t *path, struct v9_qid_group *group);

/* Maps what another v9_qidmap made in `fd`, which it takes over on success. The other must not be
 * used any more (its process may have died at any point). NULL and *err on failure. */
v9_qidmap *v9_qidmap_attach(int fd, int *err);

#endif
