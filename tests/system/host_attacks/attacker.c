/*
 * The host's process: changes names, over and over, until it is told to end.
 *
 *   attacker COMMAND FROM TO [COMMAND FROM TO]...
 *
 * exchange: the two names change their files (RENAME_EXCHANGE), so that neither is ever missing.
 * move: FROM gets the name TO.
 * put: FROM gets TO as a further name, in place of what has it. A node that is put is always the
 *      same inode, which the tests watch.
 * mount: the tree FROM is mounted on TO; unmount: it goes again.
 *
 * At SIGTERM it finishes the round, and prints how many it has made.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t ends;

static void end(int number)
{
    ends = 1;
}

static int exchange(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE);
}

static int put(const char *from, const char *to)
{
    char beside[4096];

    snprintf(beside, sizeof(beside), "%s~", to);
    if (link(from, beside) < 0 || rename(beside, to) < 0)
        return -1;
    /* rename(2) leaves a name that is the same file as the other. */
    return unlink(beside) < 0 && errno != ENOENT ? -1 : 0;
}

static int mount_tree(const char *from, const char *to)
{
    return mount(from, to, NULL, MS_BIND, NULL);
}

static int unmount(const char *from, const char *to)
{
    return umount2(to, MNT_DETACH);
}

static const struct command {
    const char *name;
    int (*run)(const char *from, const char *to);
} commands[] = {
    {"exchange", exchange}, {"move", rename},     {"put", put},
    {"mount", mount_tree},  {"unmount", unmount},
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        if (!strcmp(name, commands[i].name))
            return &commands[i];
    errx(1, "no such command: %s", name);
}

int main(int argc, char **argv)
{
    const int count = (argc - 1) / 3;
    const struct command *steps[64];
    unsigned long rounds = 0;

    if (!count || count > 64 || argc != 3 * count + 1)
        errx(1, "usage: attacker COMMAND FROM TO...");
    for (int i = 0; i < count; i++)
        steps[i] = find(argv[1 + 3 * i]);
    signal(SIGTERM, end);
    puts("ready");
    fflush(stdout);
    for (; !ends; rounds++)
        for (int i = 0; i < count; i++)
            if (steps[i]->run(argv[2 + 3 * i], argv[3 + 3 * i]) < 0)
                err(1, "%s %s %s", steps[i]->name, argv[2 + 3 * i], argv[3 + 3 * i]);
    printf("%lu\n", rounds);
}
