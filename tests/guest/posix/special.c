/* mknod and mkfifo: types, modes, device numbers, owners, who may; sockets that are used. */
#include "posix.h"

#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static int make(const struct arg *a, const char *path)
{
    if (a->type == FIFO)
        return mkfifo(path, a->mode);
    return mknod(path, type_bits[a->type] | a->mode, (dev_t)a->number);
}

CASE(creation_mode)
{
    if (a->type == CHAR || a->type == BLOCK)
        need_privileges();
    umask((mode_t)a->flags);
    OK(make(a, "n"));
    struct stat st = look("n");
    SAME((long long)(type_bits[a->type] | (a->mode & ~(mode_t)a->flags)), st.st_mode);
    SAME(1, (long long)st.st_nlink);
    SAME(0, st.st_size);
    SAME(geteuid(), st.st_uid);
}

CASE(existing)
{
    if (a->type == CHAR || a->type == BLOCK)
        need_privileges();
    node(a->other, "n");
    struct stat old = look("n");
    EXPECT(EEXIST, make(a, "n"));
    SAME(old.st_mode, look("n").st_mode);
    SAME((long long)old.st_ino, (long long)look("n").st_ino);
    CHECK(!exists("nowhere"));
}

CASE(owner)
{
    as(ALICE, ALICES);
    if (a->type == CHAR || a->type == BLOCK) {
        EXPECT(EPERM, make(a, "n"));
        CHECK(!exists("n"));
        return;
    }
    OK(make(a, "n"));
    SAME(ALICE, look("n").st_uid);
    SAME(ALICES, look("n").st_gid);
}

CASE(device_number)
{
    need_privileges();
    OK(make(a, "n"));
    struct stat st = look("n");
    SAME(major((dev_t)a->number), major(st.st_rdev));
    SAME(minor((dev_t)a->number), minor(st.st_rdev));
    OK(rename("n", "m"));
    SAME((long long)st.st_rdev, (long long)look("m").st_rdev);
    OK(unlink("m"));
}

CASE(wrong_type)
{
    EXPECT(EPERM, mknod("n", S_IFDIR | 0755, 0));
    EXPECT(EINVAL, mknod("n", S_IFLNK | 0755, 0));
    EXPECT(EINVAL, mknod("n", 0030000 | 0644, 0));
    SAME(0, entries("."));
    OK(mknod("n", 0644, 0));
    CHECK(S_ISREG(look("n").st_mode));
}

/* A node is looked at, changed and linked like a file, without being opened. */
CASE(handling)
{
    node(a->type, "n");
    OK(chmod("n", 0751));
    SAME_MODE(0751, "n");
    OK(link("n", "m"));
    SAME(2, (long long)look("m").st_nlink);
    OK(rename("m", "o"));
    OK(utimensat(AT_FDCWD, "n", (struct timespec[2]){{1000, 0}, {2000, 0}}, 0));
    SAME(2000, look("o").st_mtim.tv_sec);
    OK(unlink("n"));
    SAME(1, (long long)look("o").st_nlink);
    SAME(type_bits[a->type], look("o").st_mode & S_IFMT);
}

/* A bound socket is a node that takes connections until it is removed. */
CASE(bound_socket)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "s"};
    const struct sockaddr *generic = (const struct sockaddr *)&address;
    int server = (int)OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int client = (int)OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    OK(bind(server, generic, sizeof(address)));
    CHECK(S_ISSOCK(look("s").st_mode));
    EXPECT(EADDRINUSE, bind(client, generic, sizeof(address)));
    EXPECT(ECONNREFUSED, connect(client, generic, sizeof(address)));
    OK(listen(server, 1));
    OK(connect(client, generic, sizeof(address)));
    int taken = (int)OK(accept(server, NULL, NULL));
    SAME(2, write(client, "hi", 2));
    char got[2];
    SAME(2, read(taken, got, 2));
    OK(unlink("s"));
    EXPECT(ENOENT, connect(client, generic, sizeof(address)));
}

void suite_node(void)
{
    static const enum type types[] = {FILE_, FIFO, SOCK, CHAR, BLOCK};
    static const mode_t modes[] = {0, 0644, 0755, 0600, 0777, 04755, 02711, 01666};
    static const mode_t masks[] = {0, 022, 077, 0777};
    static const unsigned numbers[][2] = {{1, 3},     {0, 0},      {255, 255}, {259, 7},
                                          {4, 65535}, {511, 4097}, {4095, 1},  {12, 1048575}};
    static const struct plain_case plain[] = {
        {"wrong-type", wrong_type},
        {"bound-socket", bound_socket},
    };
    for (size_t t = 0; t < COUNT(types); t++) {
        enum type type = types[t];
        for (size_t m = 0; m < COUNT(modes); m++)
            for (size_t u = 0; u < COUNT(masks); u++)
                run(creation_mode,
                    (struct arg){.type = type, .mode = modes[m], .flags = (int)masks[u]},
                    "node/%s/mode/%04o/umask-%03o", type_names[type], modes[m], masks[u]);
        for (enum type other = 0; other < TYPES; other++)
            run(existing, (struct arg){.type = type, .other = other}, "node/%s/%s-EEXIST",
                type_names[type], type_names[other]);
        run(owner, (struct arg){.type = type, .mode = 0644, .number = makedev(1, 7)}, "node/%s/%s",
            type_names[type], type == CHAR || type == BLOCK ? "user-EPERM" : "owner");
        run(handling, (struct arg){.type = type}, "node/%s/handling", type_names[type]);
    }
    for (size_t n = 0; n < COUNT(numbers); n++)
        for (enum type type = CHAR; type <= BLOCK; type++)
            run(device_number,
                (struct arg){.type = type,
                             .mode = 0600,
                             .number = (long)makedev(numbers[n][0], numbers[n][1])},
                "node/%s/number/%u-%u", type_names[type], numbers[n][0], numbers[n][1]);
    run_plain("node", plain, COUNT(plain));
}
