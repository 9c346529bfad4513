/* Reading and writing: sizes, offsets, holes, large files, appending, several descriptors. */
#include "posix.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

static unsigned char want[1 << 21], got[1 << 21];

/* Reads `size` bytes at `offset` in as many calls as it takes. */
static void read_all(int fd, unsigned char *buffer, size_t size, off_t offset)
{
    for (size_t done = 0; done < size;) {
        long part = OK(pread(fd, buffer + done, size - done, offset + (off_t)done));
        CHECK(part > 0);
        done += (size_t)part;
    }
}

/* a->number bytes at a->mode, in one write and one read. */
CASE(one_piece)
{
    size_t size = (size_t)a->number;
    int fd = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    pattern(want, size, a->mode);
    SAME((long long)size, pwrite(fd, want, size, a->mode));
    SAME((long long)(size + a->mode), look_fd(fd).st_size);
    read_all(fd, got, size, a->mode);
    SAME_BYTES(want, got, size);
    SAME(0, pread(fd, got, 1, (off_t)(size + a->mode)));
    if (a->mode) {
        read_all(fd, got, a->mode, 0);
        for (size_t i = 0; i < a->mode; i++)
            CHECK(got[i] == 0);
    }
}

/* Written in pieces of a->number bytes, read in pieces of 1000. */
CASE(pieces)
{
    enum { SIZE = 50000 };
    size_t piece = (size_t)a->number;
    int fd = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    pattern(want, SIZE, 0);
    for (size_t done = 0; done < SIZE; done += piece) {
        size_t part = piece < SIZE - done ? piece : SIZE - done;
        SAME((long long)part, write(fd, want + done, part));
    }
    SAME(SIZE, look("f").st_size);
    SAME(0, lseek(fd, 0, SEEK_SET));
    for (size_t done = 0; done < SIZE; done += 1000)
        SAME(1000, read(fd, got + done, 1000));
    SAME_BYTES(want, got, SIZE);
    SAME(0, read(fd, got, 1));
}

/* Overwriting the middle leaves the rest. */
CASE(overwrite)
{
    put_pattern("f", 20000);
    pattern(want, 20000, 0);
    int fd = (int)OK(open("f", O_RDWR));
    memset(want + a->number, 'Z', 3000);
    SAME(3000, pwrite(fd, want + a->number, 3000, a->number));
    read_all(fd, got, 20000, 0);
    SAME_BYTES(want, got, 20000);
    SAME(20000, look("f").st_size);
}

/* Vectors with empty and odd elements. */
CASE(vectors)
{
    char one[3], two[4], three[10];
    struct iovec out[4] = {{"ab", 2}, {"", 0}, {"cdefg", 5}, {"hi", 2}};
    struct iovec in[3] = {{one, 3}, {two, 4}, {three, 10}};
    int fd = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    SAME(9, writev(fd, out, 4));
    SAME(9, preadv(fd, in, 3, 0));
    SAME_BYTES("abc", one, 3);
    SAME_BYTES("defg", two, 4);
    SAME_BYTES("hi", three, 2);
    SAME(9, pwritev(fd, out, 4, 5));
    SAME(14, look("f").st_size);
    holds("f", "abcdeabcdefghi");
}

CASE(offsets)
{
    put("f", "0123456789");
    int fd = (int)OK(open("f", O_RDWR));
    char byte;
    SAME(3, lseek(fd, 3, SEEK_SET));
    SAME(1, read(fd, &byte, 1));
    SAME('3', byte);
    SAME(2, lseek(fd, -2, SEEK_CUR));
    SAME(9, lseek(fd, -1, SEEK_END));
    SAME(15, lseek(fd, 5, SEEK_END));
    SAME(0, read(fd, &byte, 1));
    EXPECT(EINVAL, lseek(fd, -1, SEEK_SET));
    EXPECT(EINVAL, lseek(fd, -16, SEEK_CUR));
    EXPECT(EINVAL, lseek(fd, 0, 99));
    SAME(15, lseek(fd, 0, SEEK_CUR));
    EXPECT(EINVAL, pread(fd, &byte, 1, -1));
    EXPECT(EINVAL, pwrite(fd, &byte, 1, -1));
    SAME(1, pread(fd, &byte, 1, 7));
    SAME(15, lseek(fd, 0, SEEK_CUR));
    SAME(1, write(fd, "x", 1));
    SAME(16, look("f").st_size);
}

CASE(shared_offset)
{
    put("f", "abcdef");
    int fd = (int)OK(open("f", O_RDONLY));
    int copy = (int)OK(dup(fd)), other = (int)OK(open("f", O_RDONLY));
    char byte;
    SAME(2, lseek(fd, 2, SEEK_SET));
    SAME(1, read(copy, &byte, 1));
    SAME('c', byte);
    SAME(3, lseek(fd, 0, SEEK_CUR));
    SAME(1, read(other, &byte, 1));
    SAME('a', byte);
    OK(close(fd));
    SAME(1, read(copy, &byte, 1));
    SAME('d', byte);
}

/* A byte at a->number; everything before it is a hole. */
CASE(large_offset)
{
    int fd = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    SAME(5, pwrite(fd, "large", 5, a->number));
    SAME(a->number + 5, look("f").st_size);
    SAME(a->number + 5, lseek(fd, 0, SEEK_END));
    CHECK(look("f").st_blocks < 1000);
    char bytes[8];
    SAME(8, pread(fd, bytes, 8, a->number - 3));
    SAME_BYTES("\0\0\0large", bytes, 8);
    SAME(8, pread(fd, bytes, 8, a->number / 2));
    SAME_BYTES("\0\0\0\0\0\0\0\0", bytes, 8);
    SAME(0, pread(fd, bytes, 8, a->number + 5));
    SAME(2, pwrite(fd, "of", 2, a->number - 1));
    SAME(4, pread(fd, bytes, 4, a->number - 1));
    SAME_BYTES("ofar", bytes, 4);
    EXPECT(0, open("f", O_WRONLY | O_APPEND));
}

CASE(holes)
{
    int fd = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    for (int i = 0; i < 5; i++)
        SAME(1, pwrite(fd, "x", 1, (off_t)i << 22));
    SAME((4LL << 22) + 1, look("f").st_size);
    CHECK(look("f").st_blocks * 512LL < look("f").st_size / 2);
    for (int i = 0; i < 5; i++) {
        SAME(1, pread(fd, got, 1, (off_t)i << 22));
        SAME('x', got[0]);
        SAME(i < 4, pread(fd, got, 1, ((off_t)i << 22) + 1));
        SAME(i < 4 ? 0 : 'x', got[0]);
    }
}

/* Two descriptors append by turns: nothing is lost. */
CASE(append_by_turns)
{
    char text[8];
    int one = (int)OK(open("f", O_WRONLY | O_CREAT | O_APPEND, 0600));
    int two = (int)OK(open("f", a->flags | O_APPEND));
    for (int i = 0; i < 10; i++) {
        snprintf(text, sizeof(text), "<%d>", i);
        SAME(3, write(i % 2 ? two : one, text, 3));
    }
    holds("f", "<0><1><2><3><4><5><6><7><8><9>");
}

CASE(append_switched_on)
{
    put("f", "0123456789");
    int fd = (int)OK(open("f", O_RDWR));
    SAME(1, write(fd, "a", 1));
    OK(fcntl(fd, F_SETFL, O_APPEND));
    SAME(O_APPEND | O_RDWR, fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE));
    SAME(1, write(fd, "b", 1));
    OK(fcntl(fd, F_SETFL, 0));
    SAME(1, pwrite(fd, "c", 1, 1));
    holds("f", "ac23456789b");
}

/* What one descriptor writes, every other reads at once. */
CASE(coherence)
{
    put("f", "");
    int writer = (int)OK(open("f", O_WRONLY)), reader = (int)OK(open("f", O_RDONLY));
    for (size_t i = 0; i < 20; i++) {
        pattern(want, 777, i * 777);
        SAME(777, write(writer, want, 777));
        SAME(777, read(reader, got, sizeof(got)));
        SAME_BYTES(want, got, 777);
        SAME((long long)(i + 1) * 777, look_fd(reader).st_size);
    }
    OK(ftruncate(writer, 10));
    SAME(0, read(reader, got, 1));
    SAME(10, pread(reader, got, 100, 0));
}

CASE(bad_descriptors)
{
    char byte = 0;
    EXPECT(EBADF, read(9999, &byte, 1));
    EXPECT(EBADF, write(9999, &byte, 1));
    EXPECT(EBADF, fsync(9999));
    EXPECT(EBADF, close(9999));
    put("f", "data");
    int fd = (int)OK(open("f", O_RDWR));
    void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    EXPECT(EFAULT, read(fd, page, 4));
    EXPECT(EFAULT, write(fd, page, 4));
    SAME(0, read(fd, &byte, 0));
    OK(munmap(page, 4096));
    holds("f", "data");
}

CASE(syncing)
{
    put("f", "data");
    OK(mkdir("d", 0755));
    int fd = (int)OK(open("f", O_RDWR)), reader = (int)OK(open("f", O_RDONLY));
    int dir = (int)OK(open("d", O_RDONLY | O_DIRECTORY));
    SAME(4, write(fd, "DATA", 4));
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(fsync(reader));
    OK(fdatasync(reader));
    OK(fsync(dir));
    OK(syncfs(fd));
    int sync_fd = (int)OK(open("f", O_WRONLY | O_SYNC | O_APPEND));
    SAME(1, write(sync_fd, "!", 1));
    EXPECT(EBADF, fsync((int)OK(open("f", O_PATH))));
    holds("f", "DATA!");
}

/* Copies within the kernel: sendfile and copy_file_range or its fallback. */
CASE(copies)
{
    put_pattern("f", 300000);
    pattern(want, 300000, 0);
    int in = (int)OK(open("f", O_RDONLY)), out = (int)OK(open("g", O_RDWR | O_CREAT, 0600));
    for (size_t done = 0; done < 300000;)
        done += (size_t)OK(sendfile(out, in, NULL, 300000 - done));
    read_all(out, got, 300000, 0);
    SAME_BYTES(want, got, 300000);
    int copy = (int)OK(open("h", O_RDWR | O_CREAT, 0600));
    off_t from = 1000;
    for (size_t done = 0; done < 100000;) {
        long part = OK(copy_file_range(in, &from, copy, NULL, 100000 - done, 0));
        CHECK(part > 0);
        done += (size_t)part;
    }
    read_all(copy, got, 100000, 0);
    SAME_BYTES(want + 1000, got, 100000);
}

/* A mapping that is only read. */
CASE(read_mapping)
{
    put_pattern("f", 10000);
    pattern(want, 10000, 0);
    int fd = (int)OK(open("f", O_RDONLY));
    void *map = mmap(NULL, 10000, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(map != MAP_FAILED);
    SAME_BYTES(want, map, 10000);
    OK(munmap(map, 10000));
}

/* Reading at random offsets, as databases do. */
CASE(random_access)
{
    put_pattern("f", 200000);
    pattern(want, 200000, 0);
    int fd = (int)OK(open("f", O_RDWR));
    unsigned state = 12345;
    for (int i = 0; i < 100; i++) {
        state = state * 1103515245 + 12345;
        size_t at = (state >> 8) % 190000, size = 1 + state % 5000;
        if (i % 3 == 0) {
            memset(want + at, i, size);
            SAME((long long)size, pwrite(fd, want + at, size, (off_t)at));
        }
        read_all(fd, got, size, (off_t)at);
        SAME_BYTES(want + at, got, size);
    }
    read_all(fd, got, 200000, 0);
    SAME_BYTES(want, got, 200000);
}

/* As another user than the one who opened the file. */
CASE(other_user)
{
    need_privileges();
    put("f", "data");
    OK(chmod("f", 0600));
    int fd = (int)OK(open("f", O_RDWR));
    as(ALICE, ALICES);
    SAME(4, pread(fd, got, 4, 0));
    SAME(4, pwrite(fd, "DATA", 4, 0));
    OK(fsync(fd));
    OK(ftruncate(fd, 2));
    as_self();
    holds("f", "DA");
}

static void sized_cases(void)
{
    static const long sizes[] = {1,     2,     1023,  1024,   1025,   4095,   4096,   4097,   8192,
                                 10000, 65535, 65536, 131072, 131073, 262144, 512000, 1048577};
    static const mode_t starts[] = {0, 1, 100, 4095, 4096, 5000};
    static const long parts[] = {7, 100, 512, 1000, 4096, 5000, 20000, 50000};
    static const long middles[] = {0, 1, 4000, 4096, 8191, 17000};
    static const long far[] = {0x7fffffff,  0x80000000,   0xffffffff,   0x100000000,
                               0x100000001, 0x1000000000, 0x7ffffff0000};
    for (size_t s = 0; s < COUNT(sizes); s++)
        for (size_t o = 0; o < COUNT(starts); o++)
            run(one_piece, (struct arg){.number = sizes[s], .mode = starts[o]},
                "io/piece/%ld-at-%u", sizes[s], starts[o]);
    for (size_t i = 0; i < COUNT(parts); i++)
        run(pieces, (struct arg){.number = parts[i]}, "io/pieces-of-%ld", parts[i]);
    for (size_t i = 0; i < COUNT(middles); i++)
        run(overwrite, (struct arg){.number = middles[i]}, "io/overwrite-at-%ld", middles[i]);
    for (size_t i = 0; i < COUNT(far); i++)
        run(large_offset, (struct arg){.number = far[i]}, "io/large-offset/%lx", far[i]);
}

void suite_io(void)
{
    static const struct plain_case plain[] = {
        {"vectors", vectors},
        {"append-switched-on", append_switched_on},
        {"offsets", offsets},
        {"shared-offset", shared_offset},
        {"holes", holes},
        {"coherence", coherence},
        {"bad-descriptors", bad_descriptors},
        {"syncing", syncing},
        {"copies", copies},
        {"read-mapping", read_mapping},
        {"random-access", random_access},
        {"other-user", other_user},
    };
    sized_cases();
    run(append_by_turns, (struct arg){.flags = O_WRONLY}, "io/append-by-turns/wronly");
    run(append_by_turns, (struct arg){.flags = O_RDWR}, "io/append-by-turns/rdwr");
    run_plain("io", plain, COUNT(plain));
}
