/*
 * guest_memory: the guest's memory as the frontend shares it.
 *
 * A table of regions, each a range of guest-physical addresses (gpa) that is mapped from a
 * descriptor. The frontend knows the same bytes by its own addresses (uva), we know them by ours
 * (hva). Rings are given by uva, buffers by gpa. Guests and frontends are not trusted: every range
 * is checked as a whole. When the frontend truncates memory, zero pages replace it
 * (virtio/mapping.h). Until it is restored, nobody sees what is written there.
 *
 * How many regions there may be, and how many bytes, is limited. That includes retired ones: a
 * frontend that resets its device again and again, while requests hang, takes the addresses of no
 * other device.
 *
 * Not thread-safe but for the SIGBUS handler: the owner of a v9_mem serialises.
 */
#ifndef V9_VIRTIO_GUEST_MEMORY_H
#define V9_VIRTIO_GUEST_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtio/mapping.h"

struct v9_region {
    uint64_t gpa, size, uva, mmap_offset;
    uint8_t *hva; /* where gpa is mapped */
    struct v9_mapping map;
    int fd;
};

struct v9_mem {
    struct v9_region regions[V9_MEM_REGIONS];
    uint32_t count;
    uint32_t limit;       /* of regions; 0: V9_MEM_REGIONS */
    uint64_t limit_bytes; /* of all regions together; 0: none */
    uint64_t retired_bytes;
    struct v9_registry *registry;
    uint32_t recent;     /* index of the region that was hit last */
    atomic_bool faulted; /* a page was lost to SIGBUS since the last check */
    bool patched;        /* zero pages may be mapped in place of the frontend's */
};

/* Maps a region; duplicates fd. -EINVAL (size 0, overflow, file too short), -EEXIST (overlap in gpa
 * or uva), -ENOSPC and -ENOMEM (the limits), or mmap's error. */
int v9_mem_add(struct v9_mem *mem, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t mmap_offset,
               int fd);
/* -ENOENT unless a region has exactly these three values. */
int v9_mem_remove(struct v9_mem *mem, uint64_t gpa, uint64_t size, uint64_t uva);
void v9_mem_clear(struct v9_mem *mem);
/* After a death, in the process that takes over: maps the regions again, at other addresses. One
 * that cannot be mapped is gone. */
void v9_mem_recover(struct v9_mem *mem);
/* Frees it, once its retired mappings are gone. */
void v9_mem_destroy(struct v9_mem *mem);
/* Whether a page was lost since the last call. */
bool v9_mem_lost(struct v9_mem *mem);
/* Maps what the frontend has now in place of what was lost, at the same addresses. Where that
 * fails, zero pages stay. */
void v9_mem_restore(struct v9_mem *mem);
/* hva of [gpa, gpa+len) or of [uva, uva+len), or NULL unless one region holds all of it. */
void *v9_mem_gpa(struct v9_mem *mem, uint64_t gpa, uint64_t len);
/*
 * A mapping of its own of the pages that [uva, uva+len) lies in. Returns where the range is mapped,
 * or NULL unless one region holds all of it. End it (v9_mapping_end) before the regions change.
 */
void *v9_mem_window(struct v9_mem *mem, uint64_t uva, uint64_t len, struct v9_mapping *window);
/* Whether a region maps a byte. */
bool v9_mem_has(const struct v9_mem *mem, const void *hva);
/* The gpa of a byte that a region maps; 0 where none does. */
uint64_t v9_mem_gpa_of(const struct v9_mem *mem, const void *hva);
/* Appends [gpa, gpa+len) to iov[*count], which has room for max; may span adjacent regions; merges
 * with the previous element where they touch, unless *count == fresh (so that readable and writable
 * parts stay apart). -EFAULT outside memory, -E2BIG beyond max. Nothing is appended on failure. */
int v9_mem_iov(struct v9_mem *mem, uint64_t gpa, uint64_t len, struct iovec *iov, uint32_t *count,
               uint32_t max, uint32_t fresh);
/*
 * Cuts late writers off from the guest: puts anonymous memory over every mapping, so that its
 * addresses stay valid, and maps the regions again elsewhere. The caller keeps the old ranges in
 * *retired (a malloc'ed list), and releases them by v9_mem_retire once nobody can touch them; mem
 * outlives them. To remove a region that a late writer may use: the same, then v9_mem_remove.
 *
 * -ENOMEM (also for too much that is retired), -ENOSPC or mmap's error: some regions are gone from
 * the table. The old ranges stay valid even then; where anonymous memory could not be mapped, they
 * still reach the guest.
 */
struct v9_retired_mapping {
    struct v9_retired_mapping *next;
    struct v9_mapping map;
};
int v9_mem_cut_off(struct v9_mem *mem, struct v9_retired_mapping **retired);
void v9_mem_retire(struct v9_mem *mem, struct v9_retired_mapping **retired);

#endif
