#define _GNU_SOURCE
#include "export/xattr_names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/refusal.h"

struct rule {
    char *match, *store;
    size_t match_size, store_size;
    uint32_t action;
};

struct v9_xattr_names {
    uint32_t count;
    struct rule rules[];
};

v9_xattr_names *v9_xattr_names_new(const struct v9_xattr_rule *rules, uint32_t count)
{
    v9_xattr_names *names = calloc(1, sizeof(*names) + count * sizeof(names->rules[0]));
    bool complete = true;

    if (!names)
        return NULL;
    names->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct rule *rule = &names->rules[i];
        rule->match = strdup(rules[i].match);
        rule->store = strdup(rules[i].store);
        rule->match_size = strlen(rules[i].match);
        rule->store_size = strlen(rules[i].store);
        rule->action = rules[i].action;
        complete = complete && rule->match && rule->store;
    }
    if (complete)
        return names;
    v9_xattr_names_free(names);
    return NULL;
}

void v9_xattr_names_free(v9_xattr_names *names)
{
    for (uint32_t i = 0; names && i < names->count; i++) {
        free(names->rules[i].match);
        free(names->rules[i].store);
    }
    free(names);
}

static int copy(char name[V9_XATTR_NAME], const char *begin, const char *rest)
{
    const int size = snprintf(name, V9_XATTR_NAME, "%s%s", begin, rest);

    return size >= V9_XATTR_NAME ? -ERANGE : size;
}

/* A name that stays; but those below a rule's store are reached through that rule only. */
static int keep(const v9_xattr_names *names, const char *name, int refused,
                char host[V9_XATTR_NAME])
{
    for (uint32_t i = 0; i < names->count; i++) {
        const struct rule *rule = &names->rules[i];
        if (rule->action == V9_XATTR_STORE && !strncmp(name, rule->store, rule->store_size))
            return v9_refuse(refused, V9_REFUSED_XATTR_RULE, 0);
    }
    return copy(host, name, "");
}

int v9_xattr_names_host(const v9_xattr_names *names, const char *name, int refused,
                        char host[V9_XATTR_NAME])
{
    for (uint32_t i = 0; i < names->count; i++) {
        const struct rule *rule = &names->rules[i];
        if (strncmp(name, rule->match, rule->match_size))
            continue;
        if (rule->action == V9_XATTR_STORE)
            return copy(host, rule->store, name + rule->match_size);
        if (rule->action == V9_XATTR_KEEP)
            return keep(names, name, refused, host);
        return v9_refuse(rule->action == V9_XATTR_REFUSE ? refused : EOPNOTSUPP,
                         V9_REFUSED_XATTR_RULE, 0);
    }
    return keep(names, name, refused, host);
}

/* The guest's name for a host's, whether or not the guest may use it. */
static int translate_back(const v9_xattr_names *names, const char *host, char guest[V9_XATTR_NAME])
{
    for (uint32_t i = 0; i < names->count; i++) {
        const struct rule *rule = &names->rules[i];
        if (rule->action == V9_XATTR_STORE && !strncmp(host, rule->store, rule->store_size))
            return copy(guest, rule->match, host + rule->store_size);
    }
    return copy(guest, host, "");
}

int v9_xattr_names_guest(const v9_xattr_names *names, const char *host, char guest[V9_XATTR_NAME])
{
    char back[V9_XATTR_NAME];
    const int size = translate_back(names, host, guest);

    if (size < 0 || v9_xattr_names_host(names, guest, ENODATA, back) < 0 || strcmp(back, host))
        return -ENODATA;
    return size;
}

int v9_export_xattr_name(const v9_export *ex, const char *name, int refused,
                         char host[V9_XATTR_NAME])
{
    if (ex->xattr_names)
        return v9_xattr_names_host(ex->xattr_names, name, refused, host);
    return copy(host, name, "");
}

int v9_export_xattr_shown(const v9_export *ex, const char *host, char guest[V9_XATTR_NAME])
{
    if (ex->xattr_names)
        return v9_xattr_names_guest(ex->xattr_names, host, guest);
    return copy(guest, host, "");
}

void v9_export_set_xattr_names(v9_export *ex, const v9_xattr_names *names)
{
    ex->xattr_names = names;
}

void v9_export_limit_xattrs(v9_export *ex, const struct v9_xattr_limits *limits)
{
    ex->xattr_limits = *limits;
}
