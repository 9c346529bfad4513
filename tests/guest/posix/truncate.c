/* truncate and ftruncate: sizes, zeros, types, limits. */
#include "posix.h"

#include <sys/resource.h>

/* From a->number bytes to a->mode bytes; a->flags: through a descriptor. */
CASE(resizes)
{
    static unsigned char want[200000], got[200000];
    size_t from = (size_t)a->number, to = a->mode;
    put_pattern("f", from);
    if (a->flags)
        OK(ftruncate((int)OK(open("f", O_RDWR)), (off_t)to));
    else
        OK(truncate("f", (off_t)to));
    SAME((long long)to, look("f").st_size);
    memset(want, 0, sizeof(want));
    pattern(want, from < to ? from : to, 0);
    int fd = (int)OK(open("f", O_RDONLY));
    for (size_t done = 0; done < to;) {
        long part = OK(read(fd, got + done, to - done));
        CHECK(part > 0);
        done += (size_t)part;
    }
    SAME(0, read(fd, got + to, 1));
    SAME_BYTES(want, got, to);
}

/* What was cut off does not come back. */
CASE(shrink_then_grow)
{
    put("f", "0123456789");
    int fd = (int)OK(open("f", O_RDWR));
    OK(ftruncate(fd, 4));
    OK(ftruncate(fd, 8));
    char got[9];
    SAME(8, pread(fd, got, 9, 0));
    SAME_BYTES("0123\0\0\0\0", got, 8);
    OK(truncate("f", 0));
    OK(truncate("f", 6));
    SAME(6, pread(fd, got, 9, 0));
    SAME_BYTES("\0\0\0\0\0\0", got, 6);
}

CASE(offset_stays)
{
    put("f", "0123456789");
    int fd = (int)OK(open("f", O_RDWR));
    SAME(8, lseek(fd, 8, SEEK_SET));
    OK(ftruncate(fd, 2));
    SAME(8, lseek(fd, 0, SEEK_CUR));
    SAME(1, write(fd, "x", 1));
    SAME(9, look("f").st_size);
    char got[9];
    SAME(9, pread(fd, got, 9, 0));
    SAME_BYTES("01\0\0\0\0\0\0x", got, 9);
}

CASE(other_types)
{
    node(a->type, "n");
    EXPECT(a->error, truncate("n", 0));
    EXPECT(a->error, truncate("n", 10));
    SAME(type_bits[a->type], look("n").st_mode & S_IFMT);
}

CASE(negative)
{
    put("f", "data");
    int fd = (int)OK(open("f", O_RDWR));
    EXPECT(EINVAL, truncate("f", -1));
    EXPECT(EINVAL, ftruncate(fd, -1));
    EXPECT(EINVAL, ftruncate(fd, LONG_MIN));
    holds("f", "data");
}

/* Beyond the largest file: EFBIG, or success where the file system has no such limit. */
CASE(huge)
{
    put("f", "data");
    int result = truncate("f", 0x3fffffffffffffff);
    EITHER(0, EFBIG, result);
    SAME(result ? 4 : 0x3fffffffffffffff, look("f").st_size);
}

CASE(above_4_gib)
{
    put("f", "data");
    OK(truncate("f", a->number));
    SAME(a->number, look("f").st_size);
    int fd = (int)OK(open("f", O_RDWR));
    char got[8];
    SAME(4, pread(fd, got, 8, a->number - 4));
    SAME_BYTES("\0\0\0\0", got, 4);
    SAME(2, pwrite(fd, "zz", 2, a->number - 1));
    SAME(a->number + 1, look_fd(fd).st_size);
    CHECK(look("f").st_blocks < 1000);
    OK(ftruncate(fd, 4));
    holds("f", "data");
}

CASE(file_size_limit)
{
    struct rlimit old, limit;
    put("f", "");
    OK(getrlimit(RLIMIT_FSIZE, &old));
    limit = (struct rlimit){.rlim_cur = 1000, .rlim_max = old.rlim_max};
    int fd = (int)OK(open("f", O_RDWR));
    OK(setrlimit(RLIMIT_FSIZE, &limit));
    int truncated = truncate("f", 1001), truncate_errno = errno;
    long written = pwrite(fd, "0123456789", 10, 995);
    long beyond = pwrite(fd, "x", 1, 1000);
    int write_errno = errno;
    OK(setrlimit(RLIMIT_FSIZE, &old));
    SAME(-1, truncated);
    SAME(EFBIG, truncate_errno);
    SAME(5, written);
    SAME(-1, beyond);
    SAME(EFBIG, write_errno);
    SAME(1000, look("f").st_size);
}

/* The right to write decides, not ownership: a group member truncates the group's file. */
CASE(by_group_member)
{
    put("f", "0123456789");
    give("f", ALICE, TEAM);
    OK(chmod("f", 0660));
    as_member(BOB, BOBS, TEAM);
    OK(truncate("f", 5));
    OK(ftruncate((int)OK(open("f", O_WRONLY)), 3));
    OK(open("f", O_WRONLY | O_TRUNC));
    SAME(0, look("f").st_size);
    SAME(ALICE, look("f").st_uid);
    as(CAROL, CAROLS);
    EXPECT(EACCES, truncate("f", 5));
}

CASE(through_symlink)
{
    put("f", "data");
    OK(symlink("f", "l"));
    OK(truncate("l", 2));
    holds("f", "da");
    SAME(1, look("l").st_size);
}

CASE(of_directory_descriptor)
{
    OK(mkdir("d", 0755));
    EXPECT(EISDIR, truncate("d", 0));
    EXPECT(EINVAL, ftruncate((int)OK(open("d", O_RDONLY)), 0));
    EXPECT(EBADF, ftruncate(9999, 0));
}

CASE(blocks)
{
    put_pattern("f", 100000);
    CHECK(look("f").st_blocks >= 100000 / 512);
    OK(truncate("f", 0));
    SAME(0, look("f").st_blocks);
    OK(truncate("f", 1 << 30));
    SAME(0, look("f").st_blocks);
}

void suite_truncate(void)
{
    static const long sizes[] = {0, 1, 100, 4095, 4096, 4097, 65536, 131073};
    static const struct {
        enum type type;
        int error;
    } types[] = {{DIR_, EISDIR}, {FIFO, EINVAL}, {SOCK, EINVAL}, {CHAR, EINVAL}, {BLOCK, EINVAL}};
    static const struct plain_case plain[] = {
        {"shrink-then-grow", shrink_then_grow},
        {"offset-stays", offset_stays},
        {"negative-EINVAL", negative},
        {"huge", huge},
        {"file-size-limit-EFBIG", file_size_limit},
        {"by-group-member", by_group_member},
        {"through-symlink", through_symlink},
        {"directory-descriptor", of_directory_descriptor},
        {"blocks", blocks},
    };
    for (size_t from = 0; from < COUNT(sizes); from++)
        for (size_t to = 0; to < COUNT(sizes); to++)
            for (int descriptor = 0; descriptor < 2; descriptor++)
                run(resizes,
                    (struct arg){
                        .number = sizes[from], .mode = (mode_t)sizes[to], .flags = descriptor},
                    "truncate/%s/%ld-to-%ld", descriptor ? "descriptor" : "path", sizes[from],
                    sizes[to]);
    for (size_t i = 0; i < COUNT(types); i++)
        run(other_types, (struct arg){.type = types[i].type, .error = types[i].error},
            "truncate/%s-%s", type_names[types[i].type], strerrorname_np(types[i].error));
    run(above_4_gib, (struct arg){.number = 0x7fffffff}, "truncate/large/2-gib");
    run(above_4_gib, (struct arg){.number = 0x100000000}, "truncate/large/4-gib");
    run(above_4_gib, (struct arg){.number = 0x1000000005}, "truncate/large/64-gib");
    run_plain("truncate", plain, COUNT(plain));
}
