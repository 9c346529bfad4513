/*
 * The guest's agent: runs commands for the host, many at a time, over a virtio-serial port, or over
 * the terminal that its argument names.
 *
 * It is the guest's first process (pid 1): it reaps every orphan and never exits. The port is a
 * plain stream of bytes that outlives neither end's restart, so both ends must find the start of
 * a conversation: the agent writes a MAGIC and a HELLO until the host writes the same MAGIC back;
 * each end ignores what it reads before it. The MAGIC is kept inverted here, so that no guest
 * program which prints this binary can forge it.
 *
 * After that both ends send frames: a header (struct header, little-endian), then `size` bytes.
 *
 *   host  SPAWN   u32 uid, gid, number of groups; u32 groups...; NUL-terminated cwd; u32 number of
 *                 arguments; NUL-terminated arguments...; the rest: NUL-terminated NAME=VALUEs
 *         STDIN   bytes for standard input; no bytes: end of file
 *         KILL    i32 signal, for the command's whole process group
 *   guest HELLO   NUL-terminated kernel release, then the kernel's random boot id
 *         STDOUT, STDERR   bytes
 *         EXIT    i32 status as of waitpid; the last frame of an id
 *
 * `id` names the command in all of them; the host chooses it. EXIT is sent when the command itself
 * has ended and what it wrote has been read; what it left running keeps no pipe to the host.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PORT_NAME "org.vhost9p.agent"
#define MAX_FRAME (1u << 20)
#define MAX_COMMANDS 64
#define CHUNK 32768
#define PIPE_CHUNKS 32 /* no pipe holds more: 1 MiB */

enum { SPAWN = 1, STDIN, KILL, HELLO = 16, STDOUT, STDERR, EXIT };

struct header {
    uint32_t size;
    uint32_t id;
    uint32_t type;
};

struct command {
    uint32_t id;
    pid_t pid;
    int status;
    int in, out, err; /* our ends of its pipes, -1 when closed */
    char *pending;    /* input that the pipe had no room for */
    size_t pending_size;
    int close_in; /* close `in` when nothing is pending */
};

static const unsigned char inverted_magic[16] = {0x89, 0x97, 0x90, 0x8c, 0x8b, 0xc6, 0x8f, 0xff,
                                                 0x00, 0x7e, 0x3d, 0x1b, 0xe4, 0x59, 0xa6, 0xd2};
static unsigned char magic[16];
static struct command commands[MAX_COMMANDS]; /* pid 0: free */
static int port = -1;
static char *inbox; /* bytes read from the port and not yet used */
static size_t inbox_size;
static int greeted; /* the host has answered our HELLO */

static void die(const char *what)
{
    fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
    for (;;)
        pause();
}

static void *grow(void *block, size_t size)
{
    void *grown = realloc(block, size ? size : 1);
    if (!grown)
        die("realloc");
    return grown;
}

/* The port may turn non-blocking or have no reader for a moment: wait, never lose a byte. */
static void write_all(const void *data, size_t size)
{
    const char *next = data;
    while (size) {
        ssize_t done = write(port, next, size);
        if (done > 0) {
            next += done;
            size -= (size_t)done;
        } else if (done < 0 && errno != EAGAIN && errno != EINTR) {
            die("write to the port");
        } else {
            struct pollfd wait = {.fd = port, .events = POLLOUT};
            poll(&wait, 1, 100);
        }
    }
}

static void send_frame(uint32_t id, uint32_t type, const void *data, uint32_t size)
{
    struct header header = {.size = size, .id = id, .type = type};
    write_all(&header, sizeof header);
    write_all(data, size);
}

static void send_hello(void)
{
    struct utsname name;
    char hello[sizeof name.release + 64];
    uname(&name);
    size_t size = strlen(name.release) + 1;
    memcpy(hello, name.release, size);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, hello + size, 36);
    if (got != 36)
        die("boot_id");
    close(fd);
    write_all(magic, sizeof magic);
    send_frame(0, HELLO, hello, (uint32_t)(size + 36));
}

/* udev would make /dev/virtio-ports/NAME; without it the name is in sysfs. -1: not there (yet). */
static int open_port(void)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    int fd = -1;
    for (struct dirent *entry; dir && fd < 0 && (entry = readdir(dir));) {
        char path[512], name[64] = "";
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        if (fgets(name, sizeof name, file) && !strcmp(name, PORT_NAME "\n")) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        }
        fclose(file);
    }
    if (dir)
        closedir(dir);
    return fd;
}

static int open_terminal(const char *path)
{
    struct termios settings;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || tcgetattr(fd, &settings))
        die(path);
    cfmakeraw(&settings);
    if (tcsetattr(fd, TCSANOW, &settings))
        die(path);
    return fd;
}

static struct command *find(uint32_t id)
{
    for (int i = 0; i < MAX_COMMANDS; i++)
        if (commands[i].pid && commands[i].id == id)
            return &commands[i];
    return NULL;
}

/* Reads parts of a SPAWN off a buffer that ends with a NUL; dies on one that lies about itself. */
struct cursor {
    char *next, *end;
};

static uint32_t take_u32(struct cursor *c)
{
    uint32_t value;
    if (c->end - c->next < 4) {
        errno = EPROTO;
        die("SPAWN is too short");
    }
    memcpy(&value, c->next, 4);
    c->next += 4;
    return value;
}

static char *take_string(struct cursor *c)
{
    char *string = c->next;
    if (c->next >= c->end) {
        errno = EPROTO;
        die("SPAWN is too short");
    }
    c->next += strlen(string) + 1;
    return string;
}

static void fail_child(const char *what, const char *which)
{
    fprintf(stderr, "agent: %s %s: %s\n", what, which, strerror(errno));
    _exit(127);
}

/* In the child: becomes the command that a SPAWN describes. */
static void become(struct cursor c)
{
    gid_t groups[64];
    uint32_t uid = take_u32(&c), gid = take_u32(&c), count = take_u32(&c);
    for (uint32_t i = 0; i < count; i++)
        groups[i % 64] = take_u32(&c);
    const char *cwd = take_string(&c);
    uint32_t argc = take_u32(&c);
    char **argv = grow(NULL, (argc + 1) * sizeof *argv);
    for (uint32_t i = 0; i < argc; i++)
        argv[i] = take_string(&c);
    argv[argc] = NULL;
    clearenv();
    while (c.next < c.end)
        putenv(take_string(&c));
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    if (count > 64 || setgroups(count, groups) || setresgid(gid, gid, gid) ||
        setresuid(uid, uid, uid))
        fail_child("cannot become user", argv[0]);
    if (chdir(cwd))
        fail_child("cannot enter", cwd);
    execvp(argv[0], argv);
    fail_child("cannot run", argv[0]);
}

static void refuse(uint32_t id, const char *why)
{
    int32_t status = 127 << 8;
    send_frame(id, STDERR, why, (uint32_t)strlen(why));
    send_frame(id, EXIT, &status, sizeof status);
}

static void spawn(uint32_t id, char *data, uint32_t size)
{
    struct command *command = NULL;
    int in[2], out[2], err[2];
    for (int i = 0; i < MAX_COMMANDS && !command; i++)
        if (!commands[i].pid)
            command = &commands[i];
    if (!command) {
        refuse(id, "agent: too many commands at once\n");
        return;
    }
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        die("pipe2");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        become((struct cursor){data, data + size});
    }
    setpgid(pid, pid); /* here too: a KILL may come before the child has run */
    close(in[0]);
    close(out[1]);
    close(err[1]);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    *command = (struct command){.id = id, .pid = pid, .in = in[1], .out = out[0], .err = err[0]};
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Writes what is pending as far as the pipe has room. A command that does not read loses it. */
static void feed(struct command *command)
{
    while (command->in >= 0 && command->pending_size) {
        ssize_t done = write(command->in, command->pending, command->pending_size);
        if (done < 0 && errno == EAGAIN)
            return;
        if (done < 0) {
            close_end(&command->in);
            break;
        }
        command->pending_size -= (size_t)done;
        memmove(command->pending, command->pending + done, command->pending_size);
    }
    if (command->close_in)
        close_end(&command->in);
}

static void take_input(struct command *command, const char *data, uint32_t size)
{
    if (!size)
        command->close_in = 1;
    command->pending = grow(command->pending, command->pending_size + size);
    memcpy(command->pending + command->pending_size, data, size);
    command->pending_size += size;
    feed(command);
}

/* Passes on what a pipe holds now, at most `chunks` times CHUNK; closes it at its end. */
static void drain(struct command *command, int *fd, uint32_t type, int chunks)
{
    static char chunk[CHUNK];
    while (*fd >= 0 && chunks--) {
        ssize_t got = read(*fd, chunk, sizeof chunk);
        if (got > 0)
            send_frame(command->id, type, chunk, (uint32_t)got);
        else if (got == 0 || errno != EAGAIN)
            close_end(fd);
        else
            return;
    }
}

static void finish(struct command *command)
{
    int32_t status = command->status;
    drain(command, &command->out, STDOUT, PIPE_CHUNKS);
    drain(command, &command->err, STDERR, PIPE_CHUNKS);
    close_end(&command->in);
    close_end(&command->out);
    close_end(&command->err);
    free(command->pending);
    send_frame(command->id, EXIT, &status, sizeof status);
    *command = (struct command){0};
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    int status;
    while (read(signals, &info, sizeof info) == (ssize_t)sizeof info)
        ;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (int i = 0; i < MAX_COMMANDS; i++) {
            if (commands[i].pid == pid) {
                commands[i].status = status;
                finish(&commands[i]);
            }
        }
    }
}

static void handle(const struct header *header, char *data)
{
    struct command *command = find(header->id);
    int32_t signal_number;
    if (header->type == SPAWN) {
        spawn(header->id, data, header->size);
    } else if (header->type == STDIN && command) {
        take_input(command, data, header->size);
    } else if (header->type == KILL && command && header->size == sizeof signal_number) {
        memcpy(&signal_number, data, sizeof signal_number);
        kill(-command->pid, signal_number);
    }
}

static void consume(size_t size)
{
    inbox_size -= size;
    memmove(inbox, inbox + size, inbox_size);
}

/* Handles the whole frames in the inbox. */
static void handle_inbox(void)
{
    struct header header;
    char *found = greeted ? NULL : memmem(inbox, inbox_size, magic, sizeof magic);
    if (found) {
        consume((size_t)(found - inbox) + sizeof magic);
        greeted = 1;
    }
    while (greeted && inbox_size >= sizeof header) {
        memcpy(&header, inbox, sizeof header);
        if (header.size > MAX_FRAME) {
            errno = EPROTO;
            die("frame is too long");
        }
        if (inbox_size < sizeof header + header.size)
            return;
        /* A copy of its own, with a NUL behind it: the child of a SPAWN keeps pointers into it. */
        char *data = grow(NULL, header.size + 1);
        memcpy(data, inbox + sizeof header, header.size);
        data[header.size] = '\0';
        consume(sizeof header + header.size);
        handle(&header, data);
        free(data);
    }
}

static void read_port(void)
{
    inbox = grow(inbox, inbox_size + CHUNK);
    ssize_t got = read(port, inbox + inbox_size, CHUNK);
    if (got > 0) {
        inbox_size += (size_t)got;
        handle_inbox();
    } else if (got == 0 || errno != EAGAIN) {
        usleep(50000); /* nobody is connected at the other end */
    }
}

/* One round: waits for something to do, at most a quarter of a second before the first answer. */
static void serve(int signals)
{
    struct pollfd polled[2 + 3 * MAX_COMMANDS] = {{.fd = port, .events = POLLIN},
                                                  {.fd = signals, .events = POLLIN}};
    for (int i = 0; i < MAX_COMMANDS; i++) {
        struct command *command = &commands[i];
        struct pollfd *three = polled + 2 + 3 * i;
        int used = command->pid != 0;
        three[0] = (struct pollfd){.fd = used ? command->out : -1, .events = POLLIN};
        three[1] = (struct pollfd){.fd = used ? command->err : -1, .events = POLLIN};
        three[2] = (struct pollfd){.fd = used && command->pending_size ? command->in : -1,
                                   .events = POLLOUT};
    }
    if (!greeted)
        send_hello();
    poll(polled, 2 + 3 * MAX_COMMANDS, greeted ? -1 : 250);
    for (int i = 0; i < MAX_COMMANDS; i++) {
        const struct pollfd *three = polled + 2 + 3 * i;
        if (three[0].revents)
            drain(&commands[i], &commands[i].out, STDOUT, 1);
        if (three[1].revents)
            drain(&commands[i], &commands[i].err, STDERR, 1);
        if (three[2].revents)
            feed(&commands[i]);
    }
    if (polled[1].revents)
        reap(signals);
    if (polled[0].revents)
        read_port();
}

int main(int argc, char **argv)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    signal(SIGPIPE, SIG_IGN);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        die("signalfd");
    for (size_t i = 0; i < sizeof magic; i++)
        magic[i] = (unsigned char)~inverted_magic[i];
    while ((port = argc > 1 ? open_terminal(argv[1]) : open_port()) < 0)
        usleep(10000);
    for (;;)
        serve(signals);
}
