/*
 * idmap: which guest id a host id is, and which host id a guest's.
 *
 * Ranges map ids one to one. Host to guest is what attributes show; an id that no range has is
 * nobody's. Guest to host decides something, whether a guest may use an id: one of no range goes to
 * the one that is named for squashing, or is refused: -EPERM. A forbidden one is always refused.
 */
#ifndef V9_EXPORT_IDMAP_H
#define V9_EXPORT_IDMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "vhost9p.h"

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
/* As v9_idmap_host, for what is created. `own` is the daemon's id: by naming nobody no guest
 * becomes who the map keeps from it, so that is the daemon where the map has it, else the guest's
 * root. Without a map V9_NO_ID stays. */
int v9_idmap_creator(const struct v9_idmap *map, uint32_t guest, uint32_t own, uint32_t *host);

#endif
