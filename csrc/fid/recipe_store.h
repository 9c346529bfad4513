/*
 * recipe store: the recipes (fid/recipe.h) of evicted inodes, and what keeps them good.
 *
 * There may be half a million, so a recipe takes as many bytes as it needs, in the fid table's
 * arena, and is named by its offset. Each mount with evicted inodes has an anchor: a descriptor
 * that keeps the mount, and opens files by handle where the daemon may.
 *
 * A guest that renames a directory changes the paths of all that is evicted below it. The rename is
 * appended to a journal, and applied to a recipe when that is read; each recipe knows how much of
 * the journal is older than itself. A full journal is applied to all recipes and begins anew. It
 * takes part in no proof: a wrong path leads to ESTALE, never to another file.
 *
 * If descriptors were lost (fid/lost.h), an anchor may be without one: then nothing keeps its
 * mount, until it is opened anew.
 *
 * The fid table's lock guards all of this.
 */
#ifndef V9_FID_RECIPE_STORE_H
#define V9_FID_RECIPE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "fid/recipe.h"

enum { V9_ANCHORS_MAX = 64, V9_JOURNAL_MAX = 256 };
/* In the place of a recipe, of an inode whose descriptor was lost: it cannot be reopened; or that
 * is not settled yet (fid/lost.h). */
#define V9_RECIPE_NONE UINT32_MAX
#define V9_RECIPE_DUE (UINT32_MAX - 1)

struct v9_anchor {
    uint64_t mnt_id;
    uint32_t users; /* evicted inodes, and threads at work with it */
    int32_t fd;     /* -1: none */
    bool by_handle; /* files may be opened by handle */
};

struct v9_rename {
    uint32_t export;
    uint32_t text; /* in the arena: old path, NUL, new path, NUL; 0: lost for lack of room */
    uint32_t old_size, new_size;
};

struct v9_recipe_store {
    struct v9_arena arena;
    uint32_t count; /* recipes stored */
    struct v9_anchor anchors[V9_ANCHORS_MAX];
    uint64_t seq;   /* renames ever recorded */
    uint64_t first; /* the journal's first one; it holds all since */
    struct v9_rename renames[V9_JOURNAL_MAX];
};

/* An empty store. `base` is that of v9_arena_init. */
void v9_recipes_init(struct v9_recipe_store *store, void *base, size_t size);
/* Stores a recipe: where, or 0 where there is no room. */
uint32_t v9_recipes_put(struct v9_recipe_store *store, const struct v9_recipe *recipe);
/* Reads the recipe of a file of this export, as it is after all renames. */
void v9_recipes_get(const struct v9_recipe_store *store, uint32_t at, uint32_t export,
                    struct v9_recipe *recipe);
void v9_recipes_remove(struct v9_recipe_store *store, uint32_t at);
/* Applies the journal to the recipe at *at, and sets *at to its new place. Where there is no room
 * it loses its path. */
void v9_recipes_renew(struct v9_recipe_store *store, uint32_t *at, uint32_t export);

/* Records a directory's rename, of paths below the export's root. Only while
 * v9_recipes_journal_is_full says no.
 */
void v9_recipes_renamed(struct v9_recipe_store *store, uint32_t export, const char *old,
                        const char *new);
static inline uint32_t v9_recipes_journal_count(const struct v9_recipe_store *store)
{
    return (uint32_t)(store->seq - store->first);
}
/* Whether the journal has to be applied to all recipes, and then cleared. */
bool v9_recipes_journal_is_full(const struct v9_recipe_store *store);
void v9_recipes_clear_journal(struct v9_recipe_store *store);

/* ---- after a death (fid/recover.h) ---- */

/* Counts the users of anchors anew, and marks the journal in `marks` (base/arena.h). */
void v9_recipes_recover(struct v9_recipe_store *store, struct v9_arena_marks *marks);
/* Keeps the recipe of a file on this mount, and its anchor; false where one is not whole, or there
 * are too many mounts. */
bool v9_recipe_recover(struct v9_recipe_store *store, struct v9_arena_marks *marks, uint32_t at,
                       uint64_t mnt_id);
/* Before that: no descriptor is left. */
void v9_recipes_lose_descriptors(struct v9_recipe_store *store);
/* Frees the anchors that nobody uses. */
void v9_recipes_recover_end(struct v9_recipe_store *store);

/* The anchor of a mount, or NULL. */
struct v9_anchor *v9_recipes_anchor(struct v9_recipe_store *store, uint64_t mnt_id);
/* Enters one with no users yet and takes its descriptor over; NULL where there are too many. */
struct v9_anchor *v9_recipes_add_anchor(struct v9_recipe_store *store, uint64_t mnt_id, int32_t fd,
                                        bool by_handle);
/* Gives an anchor that is without a descriptor this one, which opens files by handle. Returns the
 * descriptor that the caller has to close, or -1. */
int32_t v9_recipes_equip_anchor(struct v9_anchor *anchor, int32_t fd, bool by_handle);
/* One user less; returns the descriptor that the caller has to close, or -1. */
int32_t v9_recipes_leave_anchor(struct v9_recipe_store *store, uint64_t mnt_id);

#endif
