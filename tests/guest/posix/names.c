/* Names are bytes: any but / and NUL, up to 255 of them, compared byte by byte. */
#include "posix.h"

/* Whether the working directory's listing has that name, and how many it has. */
static bool listed(const char *name)
{
    DIR *dir = opendir(".");
    CHECK(dir != NULL);
    int found = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        found += !strcmp(entry->d_name, name);
    OK(closedir(dir));
    CHECK(found <= 1);
    return found;
}

/* The whole life of a node called a->text. */
CASE(life)
{
    node(a->type, a->text);
    SAME(type_bits[a->type], look(a->text).st_mode & S_IFMT);
    CHECK(listed(a->text));
    SAME(1, entries("."));
    OK(rename(a->text, "plain"));
    CHECK(!listed(a->text) && !exists(a->text));
    OK(rename("plain", a->text));
    CHECK(listed(a->text));
    if (a->type == DIR_) {
        int fd = (int)OK(open(a->text, O_RDONLY | O_DIRECTORY));
        OK(close((int)OK(openat(fd, a->text, O_WRONLY | O_CREAT, 0600))));
        OK(unlinkat(fd, a->text, 0));
    } else {
        OK(link(a->text, "second"));
        OK(unlink(a->text));
        OK(link("second", a->text));
        OK(unlink("second"));
    }
    OK(drop(a->type, a->text));
    SAME(0, entries("."));
}

/* One file for every byte that a name may hold, and no two confused. */
CASE(every_byte)
{
    char name[4] = "x?y";
    for (int byte = 1; byte < 256; byte++) {
        if (byte == '/')
            continue;
        name[1] = (char)byte;
        int fd = (int)OK(open(name, O_WRONLY | O_CREAT | O_EXCL, 0600));
        SAME(1, write(fd, &name[1], 1));
        OK(close(fd));
    }
    SAME(254, entries("."));
    for (int byte = 1; byte < 256; byte++) {
        if (byte == '/')
            continue;
        name[1] = (char)byte;
        char content;
        int fd = (int)OK(open(name, O_RDONLY));
        SAME(1, read(fd, &content, 1));
        OK(close(fd));
        SAME((char)byte, content);
        OK(unlink(name));
    }
}

CASE(single_bytes)
{
    char name[2] = "";
    for (int byte = 1; byte < 256; byte++) {
        if (byte == '/' || byte == '.')
            continue;
        name[0] = (char)byte;
        OK(mkdir(name, 0700));
        CHECK(exists(name));
        OK(rmdir(name));
    }
    SAME(0, entries("."));
}

/* Names that other systems take for the same. */
CASE(distinct)
{
    static const char *const pairs[][2] = {
        {"name", "Name"},     {"name", "NAME"}, {"\xc3\xa9", "e\xcc\x81"},
        {"a", "a "},          {"a", "a."},      {"a", " a"},
        {"\xc3\xa9", "\xe9"}, {"a", "a\n"},     {"\xef\xac\x81", "fi"},
        {"ss", "\xc3\x9f"},   {"...", "...."},  {"a\\b", "a/b"},
    };
    for (size_t i = 0; i < COUNT(pairs) - 1; i++) {
        put(pairs[i][0], "one");
        CHECK(!exists(pairs[i][1]));
        put(pairs[i][1], "two");
        holds(pairs[i][0], "one");
        holds(pairs[i][1], "two");
        SAME(2, entries("."));
        OK(unlink(pairs[i][0]));
        OK(unlink(pairs[i][1]));
    }
    put("a\\b", "");
    EXPECT(ENOENT, open("a/b", O_RDONLY));
}

CASE(of_length)
{
    const char *name = long_name((size_t)a->number, (char)a->flags);
    put(name, "data");
    holds(name, "data");
    CHECK(listed(name));
    OK(rename(name, "short"));
    OK(rename("short", name));
    OK(unlink(name));
}

/* 16 names of 255 bytes that differ in the last one, inside each other and side by side. */
CASE(long_siblings)
{
    char name[NAME_MAX + 1];
    strcpy(name, long_name(NAME_MAX, 'n'));
    for (char last = 'a'; last < 'a' + 16; last++) {
        name[NAME_MAX - 1] = last;
        put(name, &name[NAME_MAX - 1]);
    }
    SAME(16, entries("."));
    for (char last = 'a'; last < 'a' + 16; last++) {
        name[NAME_MAX - 1] = last;
        holds(name, &name[NAME_MAX - 1]);
    }
}

/* The longest path: 15 names of 255 bytes and one that fills up PATH_MAX. */
CASE(longest_path)
{
    char path[PATH_MAX + 8] = "";
    size_t used = 0;
    for (int i = 0; i < 15; i++) {
        memset(path + used, 'a' + i, NAME_MAX);
        path[used + NAME_MAX] = 0;
        OK(mkdir(path, 0755));
        path[used + NAME_MAX] = '/';
        used += NAME_MAX + 1;
    }
    memset(path + used, 'z', PATH_MAX - 1 - used);
    path[PATH_MAX - 1] = 0;
    put(path, "far");
    holds(path, "far");
    OK(chmod(path, 0600));
    SAME_MODE(0600, path);
    OK(rename(path, "near"));
    OK(rename("near", path));
    OK(unlink(path));
    strcat(path, "z");
    EXPECT(ENAMETOOLONG, open(path, O_WRONLY | O_CREAT, 0600));
}

void suite_names(void)
{
    static const struct {
        const char *label, *name;
    } names[] = {
        {"not-utf8", "\xff\xfe\x80\xc3"},
        {"cut-utf8", "caf\xc3"},
        {"utf8", "\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"latin1", "caf\xe9"},
        {"space", " "},
        {"trailing-space", "a "},
        {"newline", "a\nb"},
        {"tab", "\t"},
        {"three-dots", "..."},
        {"leading-dot", ".hidden"},
        {"trailing-dot", "a."},
        {"dot-dot-name", "..a"},
        {"dash", "-rf"},
        {"tilde", "~"},
        {"backslash", "a\\b"},
        {"quotes", "'\"`"},
        {"glob", "*?[a]"},
        {"shell", "$(x);&|<>"},
        {"colon", "a:b"},
        {"percent", "%s%n%00"},
        {"escape", "\x1b[31m"},
        {"delete", "\x7f"},
        {"comma", "a,b=c"},
        {"surrogate", "\xed\xa0\x80"},
        {"reserved", "con"},
        {"number", "0"},
    };
    static const enum type types[] = {FILE_, DIR_, LINK, FIFO};
    static const long lengths[] = {1, 2, 15, 16, 127, 128, 143, 144, 254, 255};
    static const struct plain_case plain[] = {
        {"every-byte", every_byte},       {"single-bytes", single_bytes}, {"distinct", distinct},
        {"long-siblings", long_siblings}, {"longest-path", longest_path},
    };
    for (size_t t = 0; t < COUNT(types); t++)
        for (size_t i = 0; i < COUNT(names); i++)
            run(life, (struct arg){.type = types[t], .text = names[i].name}, "names/%s/%s",
                type_names[types[t]], names[i].label);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        run(of_length, (struct arg){.number = lengths[i], .flags = 'n'}, "names/length/%ld",
            lengths[i]);
        run(of_length, (struct arg){.number = lengths[i], .flags = 0xff}, "names/length-of-ff/%ld",
            lengths[i]);
    }
    run_plain("names", plain, COUNT(plain));
}
