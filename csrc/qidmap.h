/*
 * qidmap: what the rest of the C layer does not need to know of the qid map: its place in memory,
 * from which a successor of this process maps it again.
 */
#ifndef V9_QIDMAP_H
#define V9_QIDMAP_H

#include "vhost9p.h"

/* The map's memory file; stays the map's own. */
int v9_qidmap_fd(const v9_qidmap *map);
/* Maps what another v9_qidmap made in `fd`, which it takes over on success. The other must not be
 * used any more (its process may have died at any point). NULL and *err on failure. */
v9_qidmap *v9_qidmap_attach(int fd, int *err);

#endif
