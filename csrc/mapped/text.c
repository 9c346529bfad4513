#include "mapped/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A whole line's number: decimal, of 32 bits with or without a sign, blanks around it. */
static bool parse_number(const char *at, const char *end, uint32_t *out)
{
    uint64_t value = 0;
    bool negative, digits = false;

    while (at < end && *at == ' ')
        at++;
    negative = at < end && *at == '-';
    at += negative;
    for (; at < end && *at >= '0' && *at <= '9' && value <= UINT32_MAX; at++, digits = true)
        value = value * 10 + (uint64_t)(*at - '0');
    while (at < end && (*at == ' ' || *at == '\r' || *at == 0))
        at++;
    if (!digits || at != end || value > (negative ? 1ull << 31 : UINT32_MAX))
        return false;
    *out = (uint32_t)(negative ? 0 - value : value);
    return true;
}

static void parse_line(const char *line, const char *end, struct v9_mapped *out)
{
    static const struct {
        const char *key;
        uint32_t has;
    } keys[] = {
        {"virtfs.uid=", V9_HAS_UID},
        {"virtfs.gid=", V9_HAS_GID},
        {"virtfs.mode=", V9_HAS_MODE},
        {"virtfs.rdev=", V9_HAS_RDEV},
    };
    uint32_t value;

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const size_t length = strlen(keys[i].key);
        if ((size_t)(end - line) < length || memcmp(line, keys[i].key, length) ||
            !parse_number(line + length, end, &value))
            continue;
        out->has |= keys[i].has;
        switch (keys[i].has) {
        case V9_HAS_UID:
            out->uid = value;
            break;
        case V9_HAS_GID:
            out->gid = value;
            break;
        case V9_HAS_MODE:
            out->mode = value;
            break;
        default:
            out->rdev = value;
        }
    }
}

void v9_mapped_parse(const char *text, size_t size, struct v9_mapped *out)
{
    const char *const end = text + size;

    *out = (struct v9_mapped){0};
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop)
            stop = end;
        parse_line(text, stop, out);
        text = stop + 1;
    }
}

size_t v9_mapped_format(const struct v9_mapped *mapped, char text[V9_MAPPED_TEXT])
{
    int size = 0;

    if (mapped->has & V9_HAS_UID)
        size += sprintf(text + size, "virtfs.uid=%d\n", (int32_t)mapped->uid);
    if (mapped->has & V9_HAS_GID)
        size += sprintf(text + size, "virtfs.gid=%d\n", (int32_t)mapped->gid);
    if (mapped->has & V9_HAS_MODE)
        size += sprintf(text + size, "virtfs.mode=%d\n", (int32_t)mapped->mode);
    if (mapped->has & V9_HAS_RDEV)
        size += sprintf(text + size, "virtfs.rdev=%d\n", (int32_t)mapped->rdev);
    return (size_t)size;
}
