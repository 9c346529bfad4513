/*
 * text: the text of mapped-file's metadata (mapped/mapped.h describes it).
 */
#ifndef V9_MAPPED_TEXT_H
#define V9_MAPPED_TEXT_H

#include <stddef.h>

#include "mapped/api.h"

/* Parses metadata; what is no number of 32 bits counts as absent. */
void v9_mapped_parse(const char *text, size_t size, struct v9_mapped *out);
enum { V9_MAPPED_TEXT = 128 }; /* room for all four lines and a NUL */
/* Writes metadata as text; returns its length. */
size_t v9_mapped_format(const struct v9_mapped *mapped, char text[V9_MAPPED_TEXT]);

#endif
