/* stat and its kin: fields of every type, agreement between the calls, statfs. */
#include "posix.h"

#include <sys/statvfs.h>
#include <sys/sysmacros.h>

CASE(fields)
{
    node(a->type, "n");
    struct stat st = look("n");
    SAME(type_bits[a->type], st.st_mode & S_IFMT);
    SAME(a->type == DIR_ ? 2 : 1, (long long)st.st_nlink);
    SAME(geteuid(), st.st_uid);
    SAME(getegid(), st.st_gid);
    SAME((long long)look(".").st_dev, (long long)st.st_dev);
    CHECK(st.st_ino != 0 && st.st_ino != look(".").st_ino);
    CHECK(st.st_blksize > 0);
    if (a->type == CHAR || a->type == BLOCK)
        SAME((long long)makedev(1, 7), (long long)st.st_rdev);
    if (a->type != DIR_)
        SAME(a->type == LINK ? 7 : 0, st.st_size);
}

/* stat, lstat, fstat, fstatat and statx tell the same. */
CASE(agreement)
{
    node(a->type, "n");
    struct stat st = look("n"), other;
    int fd = (int)OK(open("n", O_PATH | O_NOFOLLOW));
    OK(fstat(fd, &other));
    SAME((long long)st.st_ino, (long long)other.st_ino);
    SAME(st.st_mode, other.st_mode);
    SAME((long long)st.st_rdev, (long long)other.st_rdev);
    OK(fstatat(fd, "", &other, AT_EMPTY_PATH));
    SAME((long long)st.st_ino, (long long)other.st_ino);
    SAME(st.st_ctim.tv_nsec, other.st_ctim.tv_nsec);
    struct statx sx;
    OK(statx(AT_FDCWD, "n", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &sx));
    SAME(STATX_BASIC_STATS, sx.stx_mask & STATX_BASIC_STATS);
    SAME((long long)st.st_ino, (long long)sx.stx_ino);
    SAME(st.st_mode, sx.stx_mode);
    SAME(st.st_mtim.tv_sec, sx.stx_mtime.tv_sec);
    SAME(st.st_mtim.tv_nsec, sx.stx_mtime.tv_nsec);
    SAME((long long)st.st_blocks, (long long)sx.stx_blocks);
}

/* Numbers of 40 nodes differ while all live, and stay over another look and a rename. */
CASE(inode_numbers)
{
    enum { NODES = 40 };
    ino_t numbers[NODES];
    char name[16], renamed[16];
    for (int i = 0; i < NODES; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        node(i % 3 == 0 ? DIR_ : i % 3 == 1 ? FILE_ : LINK, name);
        numbers[i] = look(name).st_ino;
        for (int j = 0; j < i; j++)
            CHECK(numbers[i] != numbers[j]);
    }
    for (int i = 0; i < NODES; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        snprintf(renamed, sizeof(renamed), "m%d", i);
        SAME((long long)numbers[i], (long long)look(name).st_ino);
        OK(rename(name, renamed));
        SAME((long long)numbers[i], (long long)look(renamed).st_ino);
    }
}

CASE(size_and_blocks)
{
    put_pattern("f", (size_t)a->number);
    struct stat st = look("f");
    SAME(a->number, st.st_size);
    CHECK(st.st_blocks * 512 >= a->number);
    CHECK(st.st_blocks * 512 <= a->number + (1 << 20));
}

CASE(replaced_node)
{
    /* The name's next holder is another node, of another type. */
    for (enum type type = 0; type < TYPES; type++) {
        if ((type == CHAR || type == BLOCK) && !privileged())
            continue;
        node(type, "n");
        SAME(type_bits[type], look("n").st_mode & S_IFMT);
        SAME(type == LINK ? 7 : 0, type == DIR_ ? 0 : look("n").st_size);
        OK(drop(type, "n"));
    }
}

CASE(growing)
{
    put("f", "");
    int fd = (int)OK(open("f", O_WRONLY | O_APPEND));
    for (int i = 1; i <= 30; i++) {
        SAME(100, write(fd, long_name(100, 'x'), 100));
        SAME(100 * i, look("f").st_size);
        SAME(100 * i, look_fd(fd).st_size);
    }
}

CASE(file_system)
{
    struct statvfs fs, by_descriptor;
    OK(statvfs(".", &fs));
    CHECK(fs.f_bsize > 0 && fs.f_frsize > 0);
    CHECK(fs.f_blocks > 0 && fs.f_blocks >= fs.f_bfree && fs.f_bfree >= fs.f_bavail);
    CHECK(fs.f_files >= fs.f_ffree);
    SAME(NAME_MAX, (long long)fs.f_namemax);
    CHECK(!(fs.f_flag & ST_RDONLY));
    put("f", "");
    OK(fstatvfs((int)OK(open("f", O_RDONLY)), &by_descriptor));
    SAME((long long)fs.f_blocks, (long long)by_descriptor.f_blocks);
    SAME((long long)fs.f_bsize, (long long)by_descriptor.f_bsize);
    SAME((long long)fs.f_fsid, (long long)by_descriptor.f_fsid);
}

CASE(limits)
{
    SAME(NAME_MAX, pathconf(".", _PC_NAME_MAX));
    SAME(PATH_MAX, pathconf(".", _PC_PATH_MAX));
    CHECK(pathconf(".", _PC_LINK_MAX) > 1);
}

void suite_stat(void)
{
    static const long sizes[] = {1, 511, 512, 513, 4096, 5000, 65536, 1000000};
    static const struct plain_case plain[] = {
        {"inode-numbers", inode_numbers},
        {"replaced-node", replaced_node},
        {"growing", growing},
        {"file-system", file_system},
        {"limits", limits},
    };
    for (enum type type = 0; type < TYPES; type++) {
        run(fields, (struct arg){.type = type}, "stat/fields/%s", type_names[type]);
        run(agreement, (struct arg){.type = type}, "stat/agreement/%s", type_names[type]);
    }
    for (size_t i = 0; i < COUNT(sizes); i++)
        run(size_and_blocks, (struct arg){.number = sizes[i]}, "stat/size/%ld", sizes[i]);
    run_plain("stat", plain, COUNT(plain));
}
