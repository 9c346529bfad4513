/*
 * attr: reading host attributes and making guest attributes of them. The one place that calls
 * statx, and the only maker of qids.
 */
#ifndef V9_ATTR_H
#define V9_ATTR_H

#include <pthread.h>

#include "vhost9p.h"

struct v9_disguise {
    uint64_t host_ino, st_dev, st_ino;
};

struct v9_export {
    struct v9_export_conf conf;
    v9_qidmap *qidmap;
    int32_t proc_fd; /* /proc/self/fd, to reopen O_PATH descriptors */
    uint64_t root_dev, root_ino;
    pthread_mutex_t disguise_lock;
    struct v9_disguise *disguises; /* open addressing, host_ino 0 = empty; NULL but for synth */
    uint32_t disguise_count, disguise_mask;
};

#endif
