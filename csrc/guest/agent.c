/*
 * The processes: one that follows each mount, and one that ends it with the mount.
 *
 * A read of `events` waits in the kernel, where nothing but a signal that kills ends it; and it
 * keeps a mount alive that has been taken out of the tree (umount -l). So the first process looks
 * at the table of mounts, which poll(2) reports changes of, and kills the one that reads.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_MOUNTS 64
#define READ_SIZE 65536
#define NEARBY 64 /* lines among which one that a later one repeats is left out */
#define USUAL_PINS 8192
#define OTHER_DESCRIPTORS 64

struct follower {
    pid_t process;
    int mount;
};

static bool verbose;

void agent_say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("vhost9p agent: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

/* Takes the lines that one read has brought; each has its newline. */
static void take_lines(const struct mount *mount, char *text, size_t size)
{
    static struct line lines[2 * READ_SIZE / 8]; /* no line is shorter */
    size_t count = 0;
    for (char *next = text, *end; (end = memchr(next, '\n', size - (size_t)(next - text)));) {
        if (verbose)
            printf("%.*s\n", (int)(end - next), next);
        if (count < sizeof lines / sizeof *lines && agent_line(next, &lines[count]))
            count++;
        next = end + 1;
    }
    fflush(stdout);
    for (size_t i = 0; i < count; i++) {
        bool repeated = false;
        for (size_t later = i + 1; later < count && later <= i + NEARBY && !repeated; later++)
            repeated = agent_line_repeats(&lines[i], &lines[later]);
        if (!repeated)
            agent_change(mount, &lines[i]);
    }
    agent_changes_end(mount);
}

/* Reads until that fails. A line that comes in parts is kept until it is whole. */
static void follow(const struct mount *mount, pid_t parent)
{
    static char text[2 * READ_SIZE], rest[READ_SIZE];
    size_t kept = 0;
    if (!mount->caches_names)
        agent_pin(mount, ".");
    if (verbose)
        puts("ready");
    fflush(stdout);
    agent_ready();
    for (;;) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* which each change of the user undoes */
        if (getppid() != parent)
            _exit(1);
        ssize_t got = read(mount->events, text + kept, READ_SIZE);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            break;
        if (got <= 0) {
            sleep(1);
            continue;
        }
        size_t size = kept + (size_t)got;
        char *last = memrchr(text, '\n', size);
        size_t whole = last ? (size_t)(last - text) + 1 : 0;
        kept = size - whole;
        if (kept > READ_SIZE)
            kept = 0; /* no line is that long */
        memcpy(rest, text + whole, kept);
        take_lines(mount, text, whole);
        memcpy(text, rest, kept);
    }
    agent_say("%s: no more changes can be read: %s", mount->name, strerror(errno));
}

static void start(struct follower *follower, const char *directory)
{
    struct mount mount;
    if (agent_mount(&mount, directory))
        exit(1);
    if (mount.read_only)
        agent_say("%s: mounted read-only, so inotify cannot be fired", directory);
    pid_t first = getpid();
    follower->mount = mount.id;
    follower->process = fork();
    if (follower->process < 0) {
        agent_say("fork: %s", strerror(errno));
        exit(1);
    }
    if (!follower->process) {
        follow(&mount, first);
        _exit(1);
    }
    close(mount.events);
    close(mount.root);
}

static void allow_pins(unsigned long pins)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < pins + OTHER_DESCRIPTORS) {
        struct rlimit more = {pins + OTHER_DESCRIPTORS, pins + OTHER_DESCRIPTORS};
        if (!setrlimit(RLIMIT_NOFILE, &more))
            files = more;
    }
    if (files.rlim_max < pins + OTHER_DESCRIPTORS)
        pins = files.rlim_max > OTHER_DESCRIPTORS ? files.rlim_max - OTHER_DESCRIPTORS : 0;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    agent_pin_limit((unsigned)pins);
}

/* Kills followers whose mount is gone; returns when all have ended. */
static void wait_for_end(struct follower *followers, int count)
{
    struct pollfd table = {.fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC),
                           .events = POLLPRI};
    for (int left = count; left;) {
        poll(&table, 1, 1000);
        for (int i = 0; i < count; i++) {
            if (!followers[i].process)
                continue;
            if ((table.revents & POLLPRI) && !agent_mounted(followers[i].mount))
                kill(followers[i].process, SIGKILL);
            if (waitpid(followers[i].process, NULL, WNOHANG) == followers[i].process) {
                followers[i].process = 0;
                left--;
            }
        }
    }
}

static void usage(const char *problem)
{
    agent_say("%s; usage: agent [-s] [-v] [-p PINS] [DIRECTORY ...]", problem);
    exit(2);
}

/* Where this program is; it ends if that cannot be found out. */
static const char *own_directory(void)
{
    static char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    char *slash = length > 0 ? strrchr(path, '/') : NULL;
    if (!slash)
        usage("no DIRECTORY");
    *slash = '\0';
    return path;
}

int main(int count, char **words)
{
    static struct follower followers[MOST_MOUNTS];
    unsigned long pins = USUAL_PINS;
    char *end;
    opterr = 0;
    for (int option; (option = getopt(count, words, "tvp:")) != -1;) {
        if (option == 't') /* does this run here? */
            return !agent_kernel_suits();
        verbose = verbose || option == 'v';
        if (option == 'p') {
            pins = strtoul(optarg, &end, 10);
            if (*end || !*optarg || pins > 1000000)
                usage("-p takes a number of directories, up to 1000000");
        }
        if (option == '?')
            usage("this is no option");
    }
    if (!agent_kernel_suits())
        usage("this needs Linux 5.8 or later (-s does not)");
    allow_pins(pins);
    agent_ready_begin();
    int mounts = count - optind;
    if (mounts > MOST_MOUNTS)
        usage("too many mounts");
    if (!mounts)
        start(&followers[0], own_directory());
    for (int i = 0; i < mounts; i++)
        start(&followers[i], words[optind + i]);
    agent_ready_await();
    wait_for_end(followers, mounts ? mounts : 1);
    return 1;
}
