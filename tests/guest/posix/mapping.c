/* Shared writable mappings: Linux's 9p client has them with cache=mmap, fscache or loose alone. */
#include "posix.h"

#include <sys/mman.h>

enum { SIZE = 3 * 4096 };

static unsigned char *map_file(int fd, int protection, int flags)
{
    void *map = mmap(NULL, SIZE, protection, flags, fd, 0);
    CHECK(map != MAP_FAILED);
    return map;
}

static int pattern_file(void)
{
    put_pattern("f", SIZE);
    return (int)OK(open("f", O_RDWR));
}

CASE(reads_file)
{
    unsigned char want[SIZE];
    int fd = pattern_file();
    pattern(want, SIZE, 0);
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    SAME_BYTES(want, map, SIZE);
    OK(munmap(map, SIZE));
}

CASE(writes_file)
{
    unsigned char got[5];
    int fd = pattern_file();
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    memcpy(map + 4094, "hello", 5);
    OK(msync(map, SIZE, MS_SYNC));
    SAME(5, pread(fd, got, 5, 4094));
    SAME_BYTES("hello", got, 5);
    OK(munmap(map, SIZE));
    OK(close(fd));
    fd = (int)OK(open("f", O_RDONLY));
    SAME(5, pread(fd, got, 5, 4094));
    SAME_BYTES("hello", got, 5);
    SAME(SIZE, look("f").st_size);
}

/* A write by call shows in a mapping, and the other way round, without msync. */
CASE(coherent)
{
    unsigned char got[3];
    int fd = pattern_file();
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    SAME(3, pwrite(fd, "abc", 3, 100));
    SAME_BYTES("abc", map + 100, 3);
    memcpy(map + 200, "xyz", 3);
    SAME(3, pread(fd, got, 3, 200));
    SAME_BYTES("xyz", got, 3);
    OK(munmap(map, SIZE));
}

CASE(private_mapping)
{
    unsigned char want[SIZE], got[SIZE];
    int fd = pattern_file();
    pattern(want, SIZE, 0);
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    memset(map, 'p', SIZE);
    OK(munmap(map, SIZE));
    SAME(SIZE, pread(fd, got, SIZE, 0));
    SAME_BYTES(want, got, SIZE);
}

CASE(after_close)
{
    int fd = pattern_file();
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    OK(close(fd));
    memcpy(map, "closed", 6);
    OK(munmap(map, SIZE));
    char got[6];
    SAME(6, read((int)OK(open("f", O_RDONLY)), got, 6));
    SAME_BYTES("closed", got, 6);
}

CASE(after_unlink)
{
    int fd = pattern_file();
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    OK(unlink("f"));
    memcpy(map + 5000, "gone", 4);
    OK(msync(map, SIZE, MS_SYNC));
    char got[4];
    SAME(4, pread(fd, got, 4, 5000));
    SAME_BYTES("gone", got, 4);
    OK(munmap(map, SIZE));
}

/* The bytes after the end, in its page, are zeros and are not written. */
CASE(tail)
{
    put("f", "short");
    int fd = (int)OK(open("f", O_RDWR));
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    SAME(0, map[5]);
    SAME(0, map[4095]);
    map[10] = 'x';
    map[0] = 'S';
    OK(msync(map, SIZE, MS_SYNC));
    OK(munmap(map, SIZE));
    SAME(5, look("f").st_size);
    holds("f", "Short");
}

CASE(protections)
{
    put_pattern("f", SIZE);
    int reader = (int)OK(open("f", O_RDONLY)), writer = (int)OK(open("f", O_WRONLY));
    CHECK(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED && errno == EACCES);
    CHECK(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, writer, 0) == MAP_FAILED && errno == EACCES);
    CHECK(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, reader, 1) == MAP_FAILED && errno == EINVAL);
    OK(munmap(map_file(reader, PROT_READ, MAP_SHARED), SIZE));
}

/* A mapping of a hole and beyond the old end, after growing. */
CASE(grown)
{
    put("f", "x");
    int fd = (int)OK(open("f", O_RDWR));
    OK(ftruncate(fd, SIZE));
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    SAME(0, map[SIZE - 1]);
    map[SIZE - 1] = 'y';
    OK(munmap(map, SIZE));
    char last;
    SAME(1, pread(fd, &last, 1, SIZE - 1));
    SAME('y', last);
    SAME(SIZE, look("f").st_size);
}

CASE(times)
{
    int fd = pattern_file();
    unsigned char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
    struct stat old = look("f");
    tick();
    map[0]++;
    OK(msync(map, SIZE, MS_SYNC));
    CHECK(before(old.st_mtim, look("f").st_mtim));
    OK(munmap(map, SIZE));
}

void suite_mmap(void)
{
    static const struct plain_case plain[] = {
        {"reads-file", reads_file},
        {"writes-file", writes_file},
        {"coherent", coherent},
        {"private", private_mapping},
        {"after-close", after_close},
        {"tail", tail},
        {"after-unlink", after_unlink},
        {"protections", protections},
        {"grown", grown},
        {"times", times},
    };
    run_plain("mmap", plain, COUNT(plain));
}
