/*
 * idmap: which guest id a host id is.
 *
 * Ranges map ids one to one. This is the direction of reading: attributes are mapped here, where
 * they are read. The other direction decides something, whether a guest may use an id, and is
 * Python's (vhost9p/policy/idmap.py).
 */
#ifndef V9_IDMAP_H
#define V9_IDMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "vhost9p.h"

struct v9_idmap {
    bool set; /* else every id is itself */
    uint32_t count;
    struct v9_id_range *ranges; /* by host id */
};

int v9_idmap_set(struct v9_idmap *map, const struct v9_id_range *ranges, uint32_t count);
void v9_idmap_free(struct v9_idmap *map);
uint32_t v9_idmap_guest(const struct v9_idmap *map, uint32_t host);

#endif
