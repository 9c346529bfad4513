/*
 * attr: reading host attributes and making guest attributes of them. The one place that calls
 * statx, and the only maker of qids.
 */
#ifndef V9_ATTR_H
#define V9_ATTR_H

#include <pthread.h>

#include "caps.h"
#include "idmap.h"
#include "vhost9p.h"

struct v9_disguise {
    uint64_t host_ino, st_dev, st_ino;
};

enum { V9_NAME_SIZE = 256 }; /* one component and its NUL */

struct v9_export {
    struct v9_export_conf conf;
    v9_qidmap *qidmap; /* not its own: exports that one guest sees share it */
    uint32_t index;    /* in its device */
    char name[V9_NAME_SIZE];
    v9_export *above;         /* its root is directory `name` of this one's; NULL: of none */
    v9_export *below, *aside; /* the first that is joined to it; the next joined to the same */
    int32_t proc_fd;          /* /proc/self/fd, to reopen O_PATH descriptors */
    uint64_t root_dev, root_ino;
    struct v9_caps caps;
    struct v9_idmap ids[2]; /* by V9_UID, V9_GID */
    pthread_mutex_t disguise_lock;
    struct v9_disguise *disguises; /* open addressing, host_ino 0 = empty; NULL but for synth */
    uint32_t disguise_count, disguise_mask;
};

#endif
