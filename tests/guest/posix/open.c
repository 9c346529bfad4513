/* open: creation modes, the effect of each flag, and what cannot be opened. */
#include "posix.h"

#include <sys/statvfs.h>
#include <sys/wait.h>

/* a->mode under the umask a->number, which is what the new file has less of. */
CASE(creation_mode)
{
    umask((mode_t)a->number);
    int fd = (int)OK(open("f", O_CREAT | O_WRONLY | O_EXCL, a->mode));
    SAME_MODE(a->mode & ~(mode_t)a->number, "f");
    SAME(a->mode & ~a->number, look_fd(fd).st_mode & 07777);
    SAME(0, look_fd(fd).st_size);
    SAME(1, look_fd(fd).st_nlink);
}

/* The descriptor of a new file has the access asked for whatever the file's mode denies. */
CASE(creation_access)
{
    need_privileges();
    OK(mkdir("d", 0777));
    as(ALICE, ALICES);
    int fd = (int)OK(open("d/f", O_CREAT | O_EXCL | O_RDWR, a->mode));
    SAME(4, write(fd, "data", 4));
    char got[4];
    SAME(4, pread(fd, got, 4, 0));
    SAME_BYTES("data", got, 4);
    OK(ftruncate(fd, 2));
    OK(close(fd));
    EXPECT(a->mode & 0200 ? 0 : EACCES, open("d/f", O_WRONLY));
    SAME(2, look("d/f").st_size);
}

CASE(creation_owner)
{
    as(ALICE, ALICES);
    put("f", "");
    SAME(ALICE, look("f").st_uid);
    SAME(ALICES, look("f").st_gid);
    as_effective(BOB, BOBS);
    put("g", "");
    SAME(BOB, look("g").st_uid);
    SAME(BOBS, look("g").st_gid);
}

CASE(creat_existing)
{
    put("f", "data");
    OK(chmod("f", 0612));
    int fd = (int)OK(open("f", O_CREAT | O_RDWR, 0777));
    SAME_MODE(0612, "f");
    OK(close(fd));
    holds("f", "data");
    OK(close((int)OK(open("f", O_CREAT | O_TRUNC | O_WRONLY, 0777))));
    SAME_MODE(0612, "f");
    holds("f", "");
}

CASE(creat_through_link)
{
    OK(mkdir("d", 0777));
    OK(symlink("d/target", "l"));
    OK(close((int)OK(open("l", O_CREAT | O_WRONLY, 0640))));
    SAME_MODE(0640, "d/target");
    CHECK(S_ISLNK(look("l").st_mode));
}

CASE(exclusive_existing)
{
    node(a->type, "n");
    struct stat old = look("n");
    EXPECT(EEXIST, open("n", O_CREAT | O_EXCL | O_RDWR, 0600));
    EXPECT(EEXIST, open("n", O_CREAT | O_EXCL | O_RDONLY | O_TRUNC, 0600));
    SAME((long long)old.st_ino, (long long)look("n").st_ino);
    SAME(old.st_mode, look("n").st_mode);
    CHECK(!exists("nowhere"));
}

CASE(directory_flag)
{
    node(a->type, "n");
    EXPECT(a->error, open("n", O_RDONLY | O_DIRECTORY));
    EXPECT(a->type == LINK ? ENOTDIR : a->error, open("n", O_PATH | O_DIRECTORY | O_NOFOLLOW));
}

CASE(directory_flag_links)
{
    OK(mkdir("d", 0777));
    put("f", "");
    OK(symlink("d", "to-dir"));
    OK(symlink("f", "to-file"));
    EXPECT(0, open("to-dir", O_RDONLY | O_DIRECTORY));
    EXPECT(ENOTDIR, open("to-file", O_RDONLY | O_DIRECTORY));
    EXPECT(ENOTDIR, open("to-dir", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    EXPECT(0, open("d", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
}

CASE(nofollow)
{
    put("f", "");
    OK(symlink("f", "l"));
    EXPECT(ELOOP, open("l", O_RDONLY | O_NOFOLLOW));
    EXPECT(ELOOP, open("l", O_WRONLY | O_NOFOLLOW | O_TRUNC));
    EXPECT(ELOOP, open("l", O_WRONLY | O_NOFOLLOW | O_CREAT, 0600));
    EXPECT(0, open("f", O_RDWR | O_NOFOLLOW));
    int fd = (int)OK(open("l", O_PATH | O_NOFOLLOW));
    CHECK(S_ISLNK(look_fd(fd).st_mode));
    char target[4];
    SAME(1, readlinkat(fd, "", target, sizeof(target)));
}

/* A directory opens for reading only. */
CASE(directory_writing)
{
    OK(mkdir("d", 0777));
    EXPECT(EISDIR, open("d", a->flags, 0600));
    SAME(0, entries("d"));
}

CASE(directory_reading)
{
    OK(mkdir("d", 0777));
    int fd = (int)OK(open("d", O_RDONLY));
    char byte;
    EXPECT(EISDIR, read(fd, &byte, 1));
    EXPECT(EBADF, write(fd, "x", 1));
    EXPECT(EINVAL, ftruncate(fd, 0));
    CHECK(S_ISDIR(look_fd(fd).st_mode));
}

CASE(truncate_flag)
{
    put("f", "some data");
    int reader = (int)OK(open("f", O_RDONLY));
    int fd = (int)OK(open("f", a->flags));
    SAME(0, look_fd(fd).st_size);
    SAME(0, look_fd(reader).st_size);
    char byte;
    SAME(0, read(reader, &byte, 1));
    SAME(1, write(fd, "x", 1));
    SAME(1, read(reader, &byte, 1));
}

CASE(append_flag)
{
    put("f", "abc");
    int fd = (int)OK(open("f", a->flags));
    SAME(2, write(fd, "de", 2));
    SAME(0, lseek(fd, 0, SEEK_SET));
    SAME(1, write(fd, "f", 1));
    SAME(6, lseek(fd, 0, SEEK_CUR));
    OK(truncate("f", 1));
    SAME(1, write(fd, "g", 1));
    holds("f", "ag");
}

CASE(access_modes)
{
    char byte = 'x';
    put("f", "a");
    int reader = (int)OK(open("f", O_RDONLY)), writer = (int)OK(open("f", O_WRONLY));
    int path = (int)OK(open("f", O_PATH));
    EXPECT(EBADF, write(reader, &byte, 1));
    EXPECT(EBADF, read(writer, &byte, 1));
    EXPECT(EINVAL, ftruncate(reader, 0));
    EXPECT(EBADF, read(path, &byte, 1));
    EXPECT(EBADF, write(path, &byte, 1));
    EXPECT(EBADF, fchmod(path, 0600));
    SAME(O_RDONLY, fcntl(reader, F_GETFL) & O_ACCMODE);
    SAME(O_WRONLY, fcntl(writer, F_GETFL) & O_ACCMODE);
    SAME(1, look_fd(path).st_size);
    OK(fchmod(reader, 0600));
    SAME_MODE(0600, "f");
}

/* Flags that leave a regular file as it is. */
CASE(harmless_flag)
{
    put("f", "old");
    int fd = (int)OK(open("f", O_RDWR | a->flags));
    SAME(3, write(fd, "new", 3));
    OK(close(fd));
    holds("f", "new");
}

CASE(no_atime)
{
    put("f", "");
    give("f", ALICE, ALICES);
    OK(chmod("f", 0666));
    as(BOB, BOBS);
    EXPECT(EPERM, open("f", O_RDONLY | O_NOATIME));
    EXPECT(0, open("f", O_RDONLY));
    as(ALICE, ALICES);
    EXPECT(0, open("f", O_RDONLY | O_NOATIME));
}

CASE(fifo)
{
    node(FIFO, "n");
    EXPECT(ENXIO, open("n", O_WRONLY | O_NONBLOCK));
    int reader = (int)OK(open("n", O_RDONLY | O_NONBLOCK));
    int writer = (int)OK(open("n", O_WRONLY | O_NONBLOCK));
    SAME(5, write(writer, "bytes", 5));
    char got[5];
    SAME(5, read(reader, got, 5));
    SAME_BYTES("bytes", got, 5);
    EXPECT(ESPIPE, lseek(reader, 0, SEEK_SET));
    OK(unlink("n"));
    SAME(1, write(writer, "x", 1));
    SAME(1, read(reader, got, 5));
}

CASE(socket_node)
{
    node(SOCK, "n");
    EXPECT(ENXIO, open("n", O_RDONLY));
    EXPECT(ENXIO, open("n", O_RDWR | O_NONBLOCK));
    EXPECT(0, open("n", O_PATH));
}

static void copy_program(const char *path)
{
    static char buffer[1 << 16];
    int in = (int)OK(open("/proc/self/exe", O_RDONLY));
    int out = (int)OK(open(path, O_WRONLY | O_CREAT | O_EXCL, 0755));
    for (long size; (size = OK(read(in, buffer, sizeof(buffer)))) > 0;)
        SAME(size, write(out, buffer, (size_t)size));
    OK(close(out));
    struct statvfs fs;
    OK(statvfs(path, &fs));
    if (fs.f_flag & ST_NOEXEC)
        skip("mounted noexec");
}

/* Runs the copy until `input` is closed; the parent goes on once the exec has happened. */
static pid_t run_copy(const char *path, int *input)
{
    int held[2], started[2];
    OK(pipe2(held, O_CLOEXEC));
    OK(pipe2(started, O_CLOEXEC));
    pid_t child = (pid_t)OK(fork());
    if (!child) {
        dup2(held[0], STDIN_FILENO);
        execl(path, path, "--hold", (char *)NULL);
        _exit(write(started[1], "", 1) != 1);
    }
    close(started[1]);
    char byte;
    SAME(0, read(started[0], &byte, 1));
    *input = held[1];
    return child;
}

/* A running program cannot be written to; it can be unlinked and goes on. */
CASE(text_busy)
{
    int input, status;
    copy_program("program");
    pid_t child = run_copy("program", &input);
    EXPECT(ETXTBSY, open("program", O_WRONLY));
    EXPECT(ETXTBSY, open("program", O_RDWR | O_TRUNC));
    EXPECT(ETXTBSY, truncate("program", 0));
    EXPECT(0, open("program", O_RDONLY));
    OK(unlink("program"));
    OK(close(input));
    SAME(child, waitpid(child, &status, 0));
    SAME(0, status);
}

static void flags_cases(void)
{
    static const struct {
        int flags;
        const char *name;
    } directory[] = {{O_WRONLY, "wronly"},          {O_RDWR, "rdwr"},
                     {O_RDONLY | O_TRUNC, "trunc"}, {O_WRONLY | O_APPEND, "append"},
                     {O_RDONLY | O_CREAT, "creat"}, {O_WRONLY | O_CREAT | O_TRUNC, "creat-trunc"}},
      harmless[] = {{O_SYNC, "sync"},     {O_DSYNC, "dsync"},        {O_NONBLOCK, "nonblock"},
                    {O_NOCTTY, "noctty"}, {O_CLOEXEC, "cloexec"},    {O_EXCL, "excl-without-creat"},
                    {O_CREAT, "creat"},   {O_LARGEFILE, "largefile"}};
    for (size_t i = 0; i < COUNT(directory); i++)
        run(directory_writing, (struct arg){.flags = directory[i].flags},
            "open/directory/%s-EISDIR", directory[i].name);
    for (size_t i = 0; i < COUNT(harmless); i++)
        run(harmless_flag, (struct arg){.flags = harmless[i].flags}, "open/flag/%s",
            harmless[i].name);
    run(truncate_flag, (struct arg){.flags = O_WRONLY | O_TRUNC}, "open/truncate/wronly");
    run(truncate_flag, (struct arg){.flags = O_RDWR | O_TRUNC}, "open/truncate/rdwr");
    run(truncate_flag, (struct arg){.flags = O_RDWR | O_TRUNC | O_APPEND}, "open/truncate/append");
    run(append_flag, (struct arg){.flags = O_WRONLY | O_APPEND}, "open/append/wronly");
    run(append_flag, (struct arg){.flags = O_RDWR | O_APPEND}, "open/append/rdwr");
}

void suite_open(void)
{
    static const mode_t modes[] = {0,    0400, 0200,  0600,  0444,  0644,  0666,
                                   0755, 0777, 01644, 02755, 04755, 06777, 07777};
    static const mode_t masks[] = {0, 022, 027, 077, 0111, 0777};
    static const mode_t denying[] = {0, 0400, 0200, 0444};
    static const struct plain_case plain[] = {
        {"creation-owner", creation_owner},
        {"creat-existing", creat_existing},
        {"creat-through-link", creat_through_link},
        {"directory-flag/links", directory_flag_links},
        {"nofollow", nofollow},
        {"directory/reading", directory_reading},
        {"access-modes", access_modes},
        {"no-atime", no_atime},
        {"fifo", fifo},
        {"socket-ENXIO", socket_node},
        {"text-busy", text_busy},
    };
    for (size_t m = 0; m < COUNT(modes); m++)
        for (size_t u = 0; u < COUNT(masks); u++)
            run(creation_mode, (struct arg){.mode = modes[m], .number = masks[u]},
                "open/creation-mode/%04o/umask-%03o", modes[m], masks[u]);
    for (size_t i = 0; i < COUNT(denying); i++)
        run(creation_access, (struct arg){.mode = denying[i]}, "open/creation-access/%03o",
            denying[i]);
    for (enum type type = 0; type < TYPES; type++) {
        int error = type == DIR_ ? 0 : type == LINK ? ENOENT : ENOTDIR;
        run(exclusive_existing, (struct arg){.type = type}, "open/exclusive/%s-EEXIST",
            type_names[type]);
        run(directory_flag, (struct arg){.type = type, .error = error}, "open/directory-flag/%s",
            type_names[type]);
    }
    run_plain("open", plain, COUNT(plain));
    flags_cases();
}
