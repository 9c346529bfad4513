/*
 * mapping: parts of the frontend's files in our memory, and what becomes of pages that it takes
 * away.
 *
 * Each mapping lies between stretches of address space that may not be touched, wider than any
 * ring: a stray access ends the process, and never reaches another VM's memory. Apart from whole
 * pages, a mapping holds no more of the frontend's file than what was asked for.
 *
 * When the frontend truncates its file (SIGBUS), zero pages replace it, from the lost page to the
 * end of the mapping: most often all of it is gone, and replacing single pages would need more
 * mappings than a process may have. The loss is reported and never fatal.
 *
 * An owner (a v9_mem) has room for its own mappings, which no other can take from it: its registry.
 * Not thread-safe but for the SIGBUS handler: the owner serialises.
 */
#ifndef V9_VIRTIO_MAPPING_H
#define V9_VIRTIO_MAPPING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/api.h"

/* Of an owner: regions, as many retired, windows. */
enum { V9_MAPPINGS_MAX = 2 * V9_MEM_REGIONS + 8 };

struct v9_known; /* a mapping as the SIGBUS handler knows it */
struct v9_registry;

/* A part of a file in our memory, of whole pages of `page` bytes. `at` is NULL: no mapping. */
struct v9_mapping {
    uint8_t *at;
    size_t len, page;
    int64_t offset; /* in the file */
    void *reserved; /* the mapping with its guards */
    size_t reserved_len;
    struct v9_known *known;
};

/* Installs the process's SIGBUS handler, once. A fault outside of all mappings keeps its default
 * effect. */
int v9_mapping_init(void);
/* Maps [offset, offset+len) of a file, by whole pages, into an owner's registry, which is taken if
 * *registry is NULL; *faulted is set when a page is lost. Where that is, or NULL with *err:
 * -ENOSPC (V9_MAPPINGS_MAX), -ENOMEM, or mmap's error. */
uint8_t *v9_mapping_begin(struct v9_registry **registry, atomic_bool *faulted,
                          struct v9_mapping *map, int fd, uint64_t offset, uint64_t len, int *err);
/* Unmaps it, if it is one. */
void v9_mapping_end(struct v9_mapping *map);
/* Puts the file, or zero pages, where the mapping is: between its guards. */
int v9_mapping_renew(const struct v9_mapping *map, int fd);
int v9_mapping_blank(const struct v9_mapping *map);
/* Without mappings: another owner may have the registry. */
void v9_registry_leave(struct v9_registry *registry);

#endif
