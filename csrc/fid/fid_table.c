#define _GNU_SOURCE
#include "fid/fid_table.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

/* ---- the arena ------------------------------------------------------------------------------- */

enum {
    RECIPE_BYTES = 512, /* room for each fid's name and recipe; most take much less */
    WALKS = 256,        /* inodes that walks are at, beside those of fids */
};

static size_t round_up(size_t size)
{
    const size_t page = 4096;
    return (size + page - 1) / page * page;
}

static uint32_t buckets_for(uint32_t max)
{
    uint32_t buckets = 1024;

    while (buckets < max)
        buckets *= 2;
    return buckets;
}

/* What lies in the arena. It is sparse: pages that no fid has touched cost nothing. Every inode has
 * a fid or a walk; cached ones make room. */
struct layout {
    size_t heads, entries, inodes, more, recipes, values; /* their sizes in bytes */
};

static size_t lay_out(uint32_t max, struct layout *sizes)
{
    sizes->heads = round_up(buckets_for(max) * sizeof(uint32_t));
    sizes->entries = round_up((size_t)max * sizeof(struct v9_fid));
    sizes->inodes = round_up(((size_t)max + WALKS) * sizeof(struct v9_inode));
    sizes->more = round_up((size_t)max * sizeof(struct v9_fid_more));
    sizes->recipes = round_up((size_t)max * RECIPE_BYTES);
    sizes->values = V9_XATTR_VALUES_ROOM;
    return 3 * sizes->heads + sizes->entries + sizes->inodes + sizes->more + sizes->recipes +
           sizes->values;
}

/* Lays out the memory of a table that is empty, or (`again`) of one whose process died. */
static void furnish(struct v9_fids *fids, const struct layout *sizes, bool again)
{
    const uint32_t buckets = buckets_for(fids->max);
    struct v9_arena *arena = &fids->inodes.recipes.arena;
    uint32_t *strays, *files, *names;
    uint8_t *at = fids->map;

    strays = (uint32_t *)at;
    files = (uint32_t *)(at += sizes->heads);
    names = (uint32_t *)(at += sizes->heads);
    at += sizes->heads;
    fids->entries = (struct v9_fid *)at;
    fids->strays =
        v9_hash_of(strays, buckets, at + offsetof(struct v9_fid, link), sizeof(struct v9_fid), 1);
    fids->open_io = v9_list_of(at + offsetof(struct v9_fid, io_lru), sizeof(struct v9_fid), 1);
    at += sizes->entries;
    v9_inodes_init(&fids->inodes, (struct v9_inode *)at, fids->max + WALKS, files, buckets);
    at += sizes->inodes;
    fids->more = (struct v9_fid_more *)at;
    at += sizes->more;
    if (again) {
        v9_arena_place(arena, at, sizes->recipes);
        v9_arena_place(&fids->values.arena, at + sizes->recipes, sizes->values);
    } else {
        v9_recipes_init(&fids->inodes.recipes, at, sizes->recipes);
        v9_xattr_values_init(&fids->values, at + sizes->recipes);
    }
    v9_dentries_init(&fids->dentries, arena, &fids->inodes, names, buckets, fids->key);
}

size_t v9_fid_table_size(uint32_t max)
{
    struct layout sizes;

    return lay_out(max, &sizes);
}

void *v9_fid_table_map(uint32_t max)
{
    void *map = mmap(NULL, v9_fid_table_size(max), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return map == MAP_FAILED ? NULL : map;
}

int v9_fid_table_init(struct v9_fids *fids, uint32_t max, void *map)
{
    struct layout sizes;

    if (getrandom(&fids->key, sizeof(fids->key), 0) != sizeof(fids->key))
        return -errno;
    fids->key |= 1;
    fids->max = fids->unused = max;
    fids->map_size = lay_out(max, &sizes);
    fids->map = map;
    furnish(fids, &sizes, false);
    return 0;
}

void v9_fid_table_unmap(struct v9_fids *fids)
{
    v9_xattr_values_destroy(&fids->values);
    munmap(fids->map, fids->map_size);
}

/* ---- where an entry is ----------------------------------------------------------------------- */

enum { HOME_AHEAD = 1024 }; /* how far beyond all others a number may be and be at home */

static uint32_t hash_of(const struct v9_fids *fids, uint32_t number)
{
    return (uint32_t)(number * fids->key >> 32);
}

uint32_t v9_fid_table_find_stray(const struct v9_fids *fids, uint32_t number)
{
    uint32_t index = *v9_hash_head(&fids->strays, hash_of(fids, number));

    while (index && fids->entries[index - 1].number != number)
        index = fids->entries[index - 1].link.next;
    return index;
}

void v9_fid_table_publish(struct v9_fids *fids, struct v9_fid *fid)
{
    fid->entered = true;
    fids->count++;
    if (fid->stray)
        v9_hash_enter(&fids->strays, v9_fid_index(fids, fid), hash_of(fids, fid->number));
}

void v9_fid_table_withdraw(struct v9_fids *fids, struct v9_fid *fid)
{
    fid->entered = false;
    fids->count--;
    if (fid->stray)
        v9_hash_take_out(&fids->strays, v9_fid_index(fids, fid));
}

/* Its home if possible. Homes are taken without a look at the free list, which leaves them in it;
 * strays come from the far end. */
struct v9_fid *v9_fid_table_allocate(struct v9_fids *fids, uint32_t number)
{
    struct v9_fid *fid = NULL;

    if (fids->live == fids->max)
        return NULL;
    fids->live++;
    if (number < fids->max && number < fids->homes + HOME_AHEAD && !fids->entries[number].refs) {
        if (fids->homes <= number)
            fids->homes = number + 1;
        fids->entries[number].stray = false;
        return &fids->entries[number];
    }
    do {
        if (fids->free) {
            fid = &fids->entries[fids->free - 1];
            fids->free = fid->link.next;
            fid->listed = false;
        } else if (fids->unused) {
            fid = &fids->entries[--fids->unused];
        } else { /* memory that was damaged had lost some */
            fids->live--;
            return NULL;
        }
    } while (fid->refs);
    fid->stray = true;
    return fid;
}

/* Lists a free entry that strays may get again. */
static void list_free(struct v9_fids *fids, struct v9_fid *fid)
{
    const uint32_t index = v9_fid_index(fids, fid);

    if (index <= fids->unused || fid->listed)
        return;
    fid->listed = true;
    fid->link.next = fids->free;
    fids->free = index;
}

void v9_fid_table_free(struct v9_fids *fids, struct v9_fid *fid)
{
    fids->live--;
    list_free(fids, fid);
}

void v9_fid_table_recover(struct v9_fids *fids)
{
    struct layout sizes;

    fids->map_size = lay_out(fids->max, &sizes);
    fids->key |= 1;
    furnish(fids, &sizes, true);
    v9_hash_clear(&fids->strays);
    fids->count = fids->live = fids->free = 0;
    if (fids->homes > fids->max)
        fids->homes = fids->max;
    if (fids->unused > fids->max)
        fids->unused = fids->max;
}

void v9_fid_table_set_free(struct v9_fids *fids, struct v9_fid *fid)
{
    *fid = (struct v9_fid){.life = fid->life};
    list_free(fids, fid);
}

void v9_fid_table_trim(struct v9_fids *fids)
{
    struct layout sizes;

    lay_out(fids->max, &sizes);
    v9_inodes_trim(&fids->inodes);
    v9_memory_return(fids->more, (uint8_t *)fids->more + sizes.more);
    v9_arena_trim(&fids->inodes.recipes.arena);
    v9_xattr_values_trim(&fids->values);
}

void v9_fid_table_forget(struct v9_fids *fids)
{
    for (uint32_t index = fids->free; index; index = fids->entries[index - 1].link.next)
        fids->entries[index - 1].listed = false;
    fids->homes = fids->free = 0;
    fids->unused = fids->max;
}
