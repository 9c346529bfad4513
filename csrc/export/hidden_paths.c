#define _GNU_SOURCE
#include "export/hidden_paths.h"

#include <stdlib.h>
#include <string.h>

enum { SET_BYTES = V9_HIDDEN_SET_BYTES };

/* What matches one name; one without tokens, which no name matches, is `**`. */
struct component {
    const uint16_t *tokens;
    uint32_t size;
};

struct pattern {
    const struct component *components;
    uint32_t count;
};

struct v9_hidden_paths {
    uint32_t name_count, place_count;
    struct component *names; /* of patterns of one name at any depth */
    struct pattern *places;  /* the others */
    struct component *components;
    uint16_t *tokens;
    uint8_t *sets; /* of bytes, a bit for each */
};

/* ---- installing ------------------------------------------------------------------------------ */

static bool allocate(v9_hidden_paths *paths, const struct v9_hidden_patterns *from)
{
    paths->names = calloc(from->component_count + 1, sizeof(*paths->names));
    paths->places = calloc(from->component_count + 1, sizeof(*paths->places));
    paths->components = calloc(from->component_count + 1, sizeof(*paths->components));
    paths->tokens = calloc(from->token_count + 1, sizeof(*paths->tokens));
    paths->sets = calloc(from->set_count + 1, SET_BYTES);
    return paths->names && paths->places && paths->components && paths->tokens && paths->sets;
}

/* Adds the pattern of these components to its kind; false: there is no room for it in a state. */
static bool add(v9_hidden_paths *paths, const struct component *components, uint32_t count)
{
    if (count == 2 && !components[0].size) {
        paths->names[paths->name_count++] = components[1];
        return true;
    }
    if (paths->place_count == V9_HIDDEN_PATTERNS_MAX || count > V9_HIDDEN_COMPONENTS_MAX)
        return false;
    paths->places[paths->place_count++] = (struct pattern){components, count};
    return true;
}

v9_hidden_paths *v9_hidden_paths_new(const struct v9_hidden_patterns *from)
{
    v9_hidden_paths *paths = calloc(1, sizeof(*paths));
    uint32_t at = 0, first = 0;
    bool fits;

    if (!paths)
        return NULL;
    fits = allocate(paths, from);
    if (fits) {
        memcpy(paths->tokens, from->tokens, from->token_count * sizeof(*paths->tokens));
        memcpy(paths->sets, from->sets, (size_t)from->set_count * SET_BYTES);
    }
    for (uint32_t i = 0; fits && i < from->component_count; i++) {
        paths->components[i] = (struct component){paths->tokens + at, from->components[i].size};
        at += from->components[i].size;
        if (!from->components[i].is_last)
            continue;
        fits = add(paths, paths->components + first, i + 1 - first);
        first = i + 1;
    }
    if (fits)
        return paths;
    v9_hidden_paths_free(paths);
    return NULL;
}

void v9_hidden_paths_free(v9_hidden_paths *paths)
{
    if (!paths)
        return;
    free(paths->names);
    free(paths->places);
    free(paths->components);
    free(paths->tokens);
    free(paths->sets);
    free(paths);
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool fits(const v9_hidden_paths *paths, uint16_t token, uint8_t byte)
{
    const uint8_t *set;

    if (token < V9_HIDDEN_ANY)
        return token == byte;
    if (token < V9_HIDDEN_SET)
        return token == V9_HIDDEN_ANY;
    set = paths->sets + (size_t)(token - V9_HIDDEN_SET) * SET_BYTES;
    return set[byte / 8] >> byte % 8 & 1;
}

/* Whether a component matches a name. Where it does not fit, the last star takes one byte more: so
 * this takes no more steps than the product of both sizes. */
static bool matches(const v9_hidden_paths *paths, const struct component *component,
                    const char *name, size_t size)
{
    const uint16_t *tokens = component->tokens;
    size_t at = 0, resume = 0;
    uint32_t token = 0, behind_star = 0;

    while (at < size) {
        if (token < component->size && tokens[token] == V9_HIDDEN_STAR) {
            behind_star = ++token;
            resume = at;
        } else if (token < component->size && fits(paths, tokens[token], (uint8_t)name[at])) {
            token++;
            at++;
        } else if (behind_star) {
            token = behind_star;
            at = ++resume;
        } else {
            return false;
        }
    }
    while (token < component->size && tokens[token] == V9_HIDDEN_STAR)
        token++;
    return token == component->size;
}

bool v9_hidden_paths_has_name(const v9_hidden_paths *paths, const char *name)
{
    const size_t size = strlen(name);

    for (uint32_t i = 0; i < paths->name_count; i++)
        if (matches(paths, &paths->names[i], name, size))
            return true;
    return false;
}

bool v9_hidden_paths_may_end(const v9_hidden_paths *paths, const char *name)
{
    const size_t size = strlen(name);

    for (uint32_t i = 0; i < paths->place_count; i++) {
        const struct pattern *place = &paths->places[i];
        if (matches(paths, &place->components[place->count - 1], name, size))
            return true;
    }
    return false;
}

bool v9_hidden_paths_have_places(const v9_hidden_paths *paths)
{
    return paths->place_count > 0;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* `**` may match nothing: whoever is before it is behind it, too. */
static uint64_t pass_dirs(const struct pattern *pattern, uint64_t positions)
{
    for (uint32_t i = 0; i < pattern->count; i++)
        if (positions >> i & 1 && !pattern->components[i].size)
            positions |= (uint64_t)1 << (i + 1);
    return positions;
}

static uint64_t step_pattern(const v9_hidden_paths *paths, const struct pattern *pattern,
                             uint64_t positions, const char *name, size_t size)
{
    uint64_t next = 0;

    for (uint32_t i = 0; positions >> i && i < pattern->count; i++) {
        const struct component *component = &pattern->components[i];
        if (!(positions >> i & 1))
            continue;
        if (!component->size)
            next |= (uint64_t)1 << i;
        else if (matches(paths, component, name, size))
            next |= (uint64_t)1 << (i + 1);
    }
    return pass_dirs(pattern, next);
}

bool v9_hidden_paths_step(const v9_hidden_paths *paths, struct v9_hidden_state *state,
                          const char *name, size_t size)
{
    bool hidden = false;

    for (uint32_t i = 0; i < paths->place_count; i++) {
        const struct pattern *pattern = &paths->places[i];
        uint64_t *positions = &state->positions[i];
        *positions = step_pattern(paths, pattern, *positions, name, size);
        hidden = hidden || *positions >> pattern->count & 1;
    }
    for (uint32_t i = 0; i < paths->name_count && !hidden; i++)
        hidden = matches(paths, &paths->names[i], name, size);
    return hidden;
}

bool v9_hidden_paths_follow(const v9_hidden_paths *paths, const char *path,
                            struct v9_hidden_state *state)
{
    for (uint32_t i = 0; i < paths->place_count; i++)
        state->positions[i] = pass_dirs(&paths->places[i], 1);
    for (size_t size; *path; path += size + (path[size] == '/')) {
        size = strcspn(path, "/");
        if (v9_hidden_paths_step(paths, state, path, size))
            return true;
    }
    return false;
}

int v9_hidden_paths_hide(const v9_hidden_paths *paths, const char *path)
{
    struct v9_hidden_state state;

    return v9_hidden_paths_follow(paths, path, &state);
}

bool v9_hidden_paths_are_same(const v9_hidden_paths *paths, const struct v9_hidden_state *one,
                              const struct v9_hidden_state *other)
{
    return !memcmp(one->positions, other->positions,
                   paths->place_count * sizeof(one->positions[0]));
}
