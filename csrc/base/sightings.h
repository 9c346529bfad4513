/*
 * sightings: what names led to a moment ago.
 *
 * A request that changes a name has to know what the name led to before (base/evidence.h). Mostly
 * this process has just seen that: the guest has looked the name up in vain, or made it, removed it
 * or moved it away. So the process keeps what it has seen, believes it for V9_SIGHTING_LASTS, and
 * looks only at other names.
 *
 * A sighting ends where a change of its name begins. What is seen while a change is going on, or
 * was looked for before one has ended, is not kept; nor is what a change has left, if another one
 * began meanwhile. So a sighting is wrong only if a process of the host has changed the name since,
 * or a request has by another spelling, where the file system takes several for one name.
 *
 * A name is known by its hash, in a directory that is known by a descriptor. A number comes to be
 * of another directory only when it is closed or replaced, of which v9_sightings_forget is told.
 * A directory may have several descriptors; so a change ends what was seen of a name in all
 * directories.
 *
 * The table is the process's own: its successor has seen nothing.
 */
#ifndef V9_BASE_SIGHTINGS_H
#define V9_BASE_SIGHTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/ticks.h"

#ifndef V9_POINTS
enum { V9_SIGHTING_LASTS = 80 * V9_TICKS }; /* some 4 ms */
#else
enum { V9_SIGHTING_LASTS = INT32_MAX }; /* a test that stops the process takes longer */
#endif

struct v9_sighting {
    uint64_t at;             /* v9_ticks_now() of when the look began */
    uint64_t st_dev, st_ino; /* of the file that the name led to; st_ino 0: to none */
};

/* A change of a name, which has begun. */
struct v9_name_change {
    uint64_t state, dir;
    uint32_t name;
};

/* What stands for a name here. */
uint32_t v9_sightings_hash(const char *name);
/* A look that began at `at` has found no file by this name. */
void v9_sightings_absent(int32_t dir_fd, const char *name, uint64_t at);
/* Before a name is changed. Whether it is known what it leads to: *seen. */
bool v9_sightings_begin(int32_t dir_fd, const char *name, struct v9_name_change *change,
                        struct v9_sighting *seen);
/* Whether no other thread has changed the name since, or does. */
bool v9_sightings_are_unchanged(const struct v9_name_change *change, uint64_t since);
/* `left`: what the name leads to after the change; NULL: that is not known. */
void v9_sightings_end(const struct v9_name_change *change, const struct v9_sighting *left);
/* Before a descriptor's number is free, or comes to be of another file. */
void v9_sightings_forget(int32_t fd);

#endif
