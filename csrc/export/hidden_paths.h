/*
 * hidden paths: patterns of paths below an export's root that no guest may see or use, and their
 * comparison with names and paths. Python compiles them (vhost9p/path_patterns.py); which requests
 * they concern is in export/hidden_names.h.
 *
 * A pattern is a list of components, of which each matches one name, but `**`, which matches any
 * number of them. So a pattern is a nondeterministic automaton whose positions lie before its
 * components and behind the last one, and which reads one name of a path at a time: the positions
 * that it may be at are the bits of a word, and a *state* is a word for each pattern. The state of
 * a directory says which paths below it are hidden, and depends on its path alone. A path is hidden
 * if some pattern gets behind its last component, at the path's end or before.
 *
 * Most patterns are of one name, at any depth: they need no path. For the others a path is needed
 * only where their last component matches the name, which is rare.
 */
#ifndef V9_EXPORT_HIDDEN_PATHS_H
#define V9_EXPORT_HIDDEN_PATHS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export/api.h"

struct v9_hidden_state {
    uint64_t positions[V9_HIDDEN_PATTERNS_MAX];
};

/* Whether what has this name is hidden, wherever it is. */
bool v9_hidden_paths_has_name(const v9_hidden_paths *paths, const char *name);
/* Whether it may be hidden, depending on where it is. */
bool v9_hidden_paths_may_end(const v9_hidden_paths *paths, const char *name);
/* Whether paths matter at all: there is a pattern of more than a name at any depth. */
bool v9_hidden_paths_have_places(const v9_hidden_paths *paths);
/* The state of a path (of the root: ""), whose components have one slash between them. True if the
 * path, or one above it, is hidden: then *state means nothing. */
bool v9_hidden_paths_follow(const v9_hidden_paths *paths, const char *path,
                            struct v9_hidden_state *state);
/* Takes one more name; whether that is hidden. */
bool v9_hidden_paths_step(const v9_hidden_paths *paths, struct v9_hidden_state *state,
                          const char *name, size_t size);
/* Whether two directories hide the same paths below them. */
bool v9_hidden_paths_are_same(const v9_hidden_paths *paths, const struct v9_hidden_state *one,
                              const struct v9_hidden_state *other);

#endif
