/*
 * The lines of `events`: KIND PATH [MORE], one space between them.
 *
 * In a path, a space, a backslash, control characters and DEL are \0ooo, three octal digits; all
 * other bytes stand for themselves. What does not fit is skipped: a later version may have more.
 */
#include "agent.h"

#include <stdlib.h>
#include <string.h>

static const char *const words[KINDS] = {"changed", "attributes", "created",
                                         "removed", "renamed",    "overflow"};

static bool octal(char c)
{
    return c >= '0' && c <= '7';
}

/* Replaces the escapes; false if one stands for NUL, or a component is empty, or goes up. */
static bool decode(char *path)
{
    char *out = path;
    for (const char *in = path; *in;) {
        if (in[0] == '\\' && in[1] == '0' && octal(in[2]) && octal(in[3]) && octal(in[4])) {
            *out = (char)((in[2] - '0') * 64 + (in[3] - '0') * 8 + (in[4] - '0'));
            if (!*out++)
                return false;
            in += 5;
        } else {
            *out++ = *in++;
        }
    }
    *out = '\0';
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (!length || (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        part += length;
        if (!*part)
            return true;
    }
}

static bool take_path(char *path, bool *directory)
{
    size_t length = strlen(path);
    *directory = length > 1 && path[length - 1] == '/';
    if (*directory)
        path[length - 1] = '\0';
    return decode(path);
}

bool agent_line(char *text, struct line *line)
{
    *line = (struct line){.kind = KINDS, .size = -1};
    text[strcspn(text, "\n")] = '\0';
    char *word = strsep(&text, " "), *path = strsep(&text, " "), *more = strsep(&text, " ");
    for (enum kind kind = 0; kind < KINDS; kind++)
        if (!strcmp(word, words[kind]))
            line->kind = kind;
    if (line->kind == KINDS || line->kind == OVERFLOW)
        return line->kind == OVERFLOW;
    if (!path || !take_path(path, &line->directory))
        return false;
    line->path = path;
    if (line->kind == CHANGED && more && *more >= '0' && *more <= '9')
        line->size = strtoll(more, NULL, 10);
    if (line->kind == RENAMED) {
        if (!more || !take_path(more, &line->directory))
            return false;
        line->to = more;
    }
    return true;
}

bool agent_line_repeats(const struct line *line, const struct line *later)
{
    return line->kind == later->kind && line->kind != RENAMED &&
           (line->kind == OVERFLOW || !strcmp(line->path, later->path));
}
