/* Listing directories: completeness, positions, changes while listing, large directories. */
#include "posix.h"

#include <sys/syscall.h>

static DIR *list(const char *path)
{
    DIR *dir = opendir(path);
    CHECK(dir != NULL);
    return dir;
}

static int read_entries(DIR *dir, int limit)
{
    int count = 0;
    while (count < limit && readdir(dir))
        count++;
    return count;
}

static void make_files(int count)
{
    char name[16];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        OK(mknod(name, S_IFREG | 0600, 0));
    }
}

/* The number of an entry f<number>; -1 for . and .. */
static long number_of(const struct dirent *entry)
{
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
        return -1;
    CHECK(entry->d_name[0] == 'f');
    return atol(entry->d_name + 1);
}

CASE(dots)
{
    OK(mkdir("d", 0755));
    int dot = 0, dot_dot = 0, others = 0;
    DIR *dir = list("d");
    for (struct dirent *entry; (entry = readdir(dir));) {
        bool is_dot = !strcmp(entry->d_name, "."), is_dot_dot = !strcmp(entry->d_name, "..");
        dot += is_dot;
        dot_dot += is_dot_dot;
        others += !is_dot && !is_dot_dot;
        if (is_dot)
            SAME((long long)look("d").st_ino, (long long)entry->d_ino);
        if (is_dot_dot)
            SAME((long long)look(".").st_ino, (long long)entry->d_ino);
        CHECK(entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN);
    }
    OK(closedir(dir));
    SAME(1, dot);
    SAME(1, dot_dot);
    SAME(0, others);
}

CASE(entry_fields)
{
    static const unsigned char types[TYPES] = {DT_REG, DT_DIR, DT_FIFO, DT_SOCK,
                                               DT_CHR, DT_BLK, DT_LNK};
    node(a->type, "n");
    DIR *dir = list(".");
    bool found = false;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, "n"))
            continue;
        found = true;
        SAME((long long)look("n").st_ino, (long long)entry->d_ino);
        CHECK(entry->d_type == types[a->type] || entry->d_type == DT_UNKNOWN);
    }
    CHECK(found);
}

/* a->number files, each listed once; then again after rewinddir; then the number removed. */
CASE(complete)
{
    static unsigned char seen[2000];
    long count = a->number;
    make_files((int)count);
    DIR *dir = list(".");
    for (int pass = 0; pass < 2; pass++) {
        memset(seen, 0, sizeof(seen));
        for (struct dirent *entry; (entry = readdir(dir));) {
            long number = number_of(entry);
            if (number >= 0 && number < count)
                SAME(1, ++seen[number]);
        }
        for (long i = 0; i < count; i++)
            SAME(1, seen[i]);
        rewinddir(dir);
    }
}

/* Every position that telldir gave leads back to the entry that followed. */
CASE(positions)
{
    enum { FILES = 60, ENTRIES = FILES + 2 };
    long places[ENTRIES + 1];
    char names[ENTRIES][16];
    make_files(FILES);
    DIR *dir = list(".");
    int count = 0;
    places[0] = telldir(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        CHECK(count < ENTRIES);
        snprintf(names[count], sizeof(names[count]), "%.15s", entry->d_name);
        places[++count] = telldir(dir);
    }
    SAME(ENTRIES, count);
    for (int i = ENTRIES - 1; i >= 0; i--) {
        seekdir(dir, places[i]);
        SAME(places[i], telldir(dir));
        struct dirent *entry = readdir(dir);
        CHECK(entry != NULL && !strcmp(entry->d_name, names[i]));
    }
    seekdir(dir, places[ENTRIES]);
    CHECK(readdir(dir) == NULL);
}

/* A position stays good while other entries are removed. */
CASE(position_after_removal)
{
    make_files(40);
    DIR *dir = list(".");
    char removed[16] = "", next[32] = "";
    for (int i = 0; i < 20; i++)
        CHECK(readdir(dir) != NULL);
    long place = telldir(dir);
    struct dirent *entry = readdir(dir);
    CHECK(entry != NULL);
    snprintf(next, sizeof(next), "%.31s", entry->d_name);
    while ((entry = readdir(dir)))
        if (number_of(entry) >= 0 && strcmp(entry->d_name, next)) {
            snprintf(removed, sizeof(removed), "%.15s", entry->d_name);
            OK(unlink(removed));
        }
    CHECK(removed[0]);
    seekdir(dir, place);
    entry = readdir(dir);
    CHECK(entry != NULL && !strcmp(entry->d_name, next));
}

/* Half of the entries go while they are read; the others are listed once all the same. */
CASE(removal_while_listing)
{
    static unsigned char seen[2000];
    long count = a->number;
    memset(seen, 0, sizeof(seen));
    make_files((int)count);
    DIR *dir = list(".");
    for (struct dirent *entry; (entry = readdir(dir));) {
        long number = number_of(entry);
        if (number < 0)
            continue;
        seen[number]++;
        if (number % 2)
            OK(unlink(entry->d_name));
    }
    OK(closedir(dir));
    for (long i = 0; i < count; i++)
        SAME(1, seen[i]);
    SAME(count / 2, entries("."));
}

/* rm -r: everything goes in one pass. */
CASE(removal_of_all)
{
    make_files((int)a->number);
    DIR *dir = list(".");
    for (struct dirent *entry; (entry = readdir(dir));)
        if (number_of(entry) >= 0)
            OK(unlinkat(dirfd(dir), entry->d_name, 0));
    OK(closedir(dir));
    SAME(0, entries("."));
}

CASE(additions_while_listing)
{
    static unsigned char seen[120];
    char name[16];
    memset(seen, 0, sizeof(seen));
    make_files(60);
    DIR *dir = list(".");
    long added = 60;
    for (struct dirent *entry; (entry = readdir(dir));) {
        long number = number_of(entry);
        if (number < 0)
            continue;
        SAME(1, ++seen[number]);
        if (added < 120) {
            snprintf(name, sizeof(name), "f%ld", added++);
            OK(mknod(name, S_IFREG | 0600, 0));
        }
    }
    for (int i = 0; i < 60; i++)
        SAME(1, seen[i]);
    rewinddir(dir);
    SAME(120, entries("."));
}

CASE(rewound)
{
    DIR *dir = list(".");
    SAME(2, read_entries(dir, 100));
    put("new", "");
    CHECK(readdir(dir) == NULL);
    rewinddir(dir);
    SAME(3, read_entries(dir, 100));
}

CASE(two_streams)
{
    make_files(50);
    DIR *one = list("."), *two = list(".");
    SAME(10, read_entries(one, 10));
    SAME(30, read_entries(two, 30));
    SAME(42, read_entries(one, 100));
    SAME(22, read_entries(two, 100));
}

/* getdents64 by hand: buffers that hold few entries or none. */
CASE(small_buffers)
{
    char buffer[a->number], name[32];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "a-name-of-some-length-%d", i);
        OK(mknod(name, S_IFREG | 0600, 0));
    }
    int fd = (int)OK(open(".", O_RDONLY | O_DIRECTORY)), count = 0;
    for (long size; (size = OK(syscall(SYS_getdents64, fd, buffer, sizeof(buffer)))) > 0;)
        for (long at = 0; at < size; count++)
            at += ((struct dirent64 *)(void *)(buffer + at))->d_reclen;
    SAME(32, count);
    SAME(0, lseek(fd, 0, SEEK_SET));
    EXPECT(EINVAL, syscall(SYS_getdents64, fd, buffer, 8));
}

CASE(not_a_directory)
{
    char buffer[1024];
    put("f", "");
    int fd = (int)OK(open("f", O_RDONLY));
    EXPECT(ENOTDIR, syscall(SYS_getdents64, fd, buffer, sizeof(buffer)));
    CHECK(opendir("f") == NULL && errno == ENOTDIR);
    CHECK(opendir("none") == NULL && errno == ENOENT);
}

CASE(long_names)
{
    char name[NAME_MAX + 1];
    strcpy(name, long_name(NAME_MAX, 'n'));
    for (int i = 0; i < 200; i++) {
        snprintf(name, 5, "%04d", i);
        name[4] = 'n';
        OK(mknod(name, S_IFREG | 0600, 0));
    }
    SAME(200, entries("."));
    DIR *dir = list(".");
    for (struct dirent *entry; (entry = readdir(dir));)
        CHECK(entry->d_name[0] == '.' || strlen(entry->d_name) == NAME_MAX);
}

/* A stream of a directory that is renamed meanwhile. */
CASE(renamed_while_listing)
{
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    make_files(100);
    OK(chdir(".."));
    DIR *dir = list("d");
    CHECK(readdir(dir) != NULL);
    OK(rename("d", "e"));
    SAME(101, read_entries(dir, 1000));
    rewinddir(dir);
    SAME(102, read_entries(dir, 1000));
}

void suite_readdir(void)
{
    static const long counts[] = {0, 1, 2, 10, 100, 500, 2000};
    static const struct plain_case plain[] = {
        {"dots", dots},
        {"positions", positions},
        {"position-after-removal", position_after_removal},
        {"additions-while-listing", additions_while_listing},
        {"rewound", rewound},
        {"two-streams", two_streams},
        {"not-a-directory-ENOTDIR", not_a_directory},
        {"long-names", long_names},
        {"renamed-while-listing", renamed_while_listing},
    };
    for (enum type type = 0; type < TYPES; type++)
        run(entry_fields, (struct arg){.type = type}, "readdir/entry/%s", type_names[type]);
    for (size_t i = 0; i < COUNT(counts); i++)
        run(complete, (struct arg){.number = counts[i]}, "readdir/complete/%ld", counts[i]);
    run(removal_while_listing, (struct arg){.number = 50}, "readdir/removal-while-listing/50");
    run(removal_while_listing, (struct arg){.number = 600}, "readdir/removal-while-listing/600");
    run(removal_of_all, (struct arg){.number = 400}, "readdir/removal-of-all/400");
    run(small_buffers, (struct arg){.number = 64}, "readdir/buffer-64");
    run(small_buffers, (struct arg){.number = 200}, "readdir/buffer-200");
    run_plain("readdir", plain, COUNT(plain));
}
