/*
 * idmap: translates between guest ids and host ids.
 *
 * Ranges map ids one to one. Host to guest is what attributes show; an id outside all ranges shows
 * as nobody's. Guest to host decides whether a guest may use an id: one outside all ranges becomes
 * the squash id if there is one, and else is refused with -EPERM. A forbidden id is always refused.
 */
#ifndef V9_EXPORT_IDMAP_H
#define V9_EXPORT_IDMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "export/api.h"

struct v9_idmap {
    bool set; /* else every id is itself */
    uint32_t count;
    struct v9_id_range *ranges;   /* by host id */
    struct v9_id_range *by_guest; /* the same, by guest id */
    uint32_t forbidden_count;
    struct v9_id_range *forbidden; /* guest ids */
    bool squashes;
    uint32_t squash;
};

int v9_idmap_set(struct v9_idmap *map, const struct v9_id_conf *conf);
void v9_idmap_free(struct v9_idmap *map);
uint32_t v9_idmap_guest(const struct v9_idmap *map, uint32_t host);
/* 0, or -EPERM. V9_NO_ID stays what it is. */
int v9_idmap_host(const struct v9_idmap *map, uint32_t guest, uint32_t *host);
/* As v9_idmap_host, for what is created. `own` is the daemon's id, which V9_NO_ID
 * stands for if the map has it; else it stands for the guest's root: naming no id must not give a
 * guest one that the map withholds. Without a map V9_NO_ID stays. */
int v9_idmap_creator(const struct v9_idmap *map, uint32_t guest, uint32_t own, uint32_t *host);

#endif
