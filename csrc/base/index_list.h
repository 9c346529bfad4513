/*
 * index list: a doubly linked list of entries that are named by numbers.
 *
 * Entries lie in an arena, so links are 32-bit numbers instead of pointers: an array's index + 1,
 * or an offset in an arena's units. A list knows where the links of its entries are. An entry is in
 * at most one list by the same link. The caller has a lock.
 */
#ifndef V9_BASE_INDEX_LIST_H
#define V9_BASE_INDEX_LIST_H

#include <stddef.h>
#include <stdint.h>

struct v9_list_link {
    uint32_t before, after; /* 0: none */
};

struct v9_list {
    uint32_t first, last; /* 0: empty */
    uint32_t count;
    uint8_t *links; /* the link of the entry that is called `base` */
    size_t stride;  /* from one entry's link to the next one's */
    uint32_t base;
};

/* An empty list. */
static inline struct v9_list v9_list_of(void *links, size_t stride, uint32_t base)
{
    return (struct v9_list){0, 0, 0, links, stride, base};
}

static inline struct v9_list_link *v9_list_link_at(const struct v9_list *list, uint32_t at)
{
    return (struct v9_list_link *)(void *)(list->links + (at - list->base) * list->stride);
}

static inline void v9_list_append(struct v9_list *list, uint32_t at)
{
    *v9_list_link_at(list, at) = (struct v9_list_link){list->last, 0};
    *(list->last ? &v9_list_link_at(list, list->last)->after : &list->first) = at;
    list->last = at;
    list->count++;
}

static inline void v9_list_remove(struct v9_list *list, uint32_t at)
{
    const struct v9_list_link *link = v9_list_link_at(list, at);

    *(link->before ? &v9_list_link_at(list, link->before)->after : &list->first) = link->after;
    *(link->after ? &v9_list_link_at(list, link->after)->before : &list->last) = link->before;
    list->count--;
}

/* Moves an entry of the list to its end. */
static inline void v9_list_move_to_end(struct v9_list *list, uint32_t at)
{
    v9_list_remove(list, at);
    v9_list_append(list, at);
}

#endif
