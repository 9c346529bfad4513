/*
 * A second process, which opens and locks one file on request: locks are between processes.
 *
 * Requests and answers go over a socket pair; the peer ends when its end is closed, so none is
 * left when the program dies.
 */
#include "posix.h"

#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>

struct request {
    enum peer_request what;
    short type;
    off_t start, length;
    char path[64];
};

static pid_t child;
static int channel = -1;

static int lock_range(int fd, int command, const struct request *request)
{
    struct flock lock = {.l_type = request->type,
                         .l_whence = SEEK_SET,
                         .l_start = request->start,
                         .l_len = request->length};
    if (fcntl(fd, command, &lock) < 0)
        return -errno;
    return command == F_GETLK ? lock.l_type : 0;
}

static int serve(int *fd, const struct request *request)
{
    switch (request->what) {
    case PEER_OPEN:
        *fd = open(request->path, request->type);
        return *fd < 0 ? -errno : 0;
    case PEER_SETLK:
        return lock_range(*fd, F_SETLK, request);
    case PEER_SETLKW:
        return lock_range(*fd, F_SETLKW, request);
    case PEER_GETLK:
        return lock_range(*fd, F_GETLK, request);
    case PEER_FLOCK:
        return flock(*fd, request->type) < 0 ? -errno : 0;
    case PEER_CLOSE:
        return close(*fd) < 0 ? -errno : 0;
    }
    return -EINVAL;
}

static _Noreturn void serve_all(int socket)
{
    struct request request;
    int fd = -1;
    while (recv(socket, &request, sizeof(request), 0) == sizeof(request)) {
        int answer = serve(&fd, &request);
        if (send(socket, &answer, sizeof(answer), 0) != sizeof(answer))
            break;
    }
    _exit(0);
}

void peer_start(void)
{
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    child = (pid_t)OK(fork());
    if (!child) {
        /* Of an inherited descriptor, an open file's lock would live on here. */
        dup2(ends[1], STDIN_FILENO);
        close_range(STDERR_FILENO + 1, ~0U, 0);
        serve_all(STDIN_FILENO);
    }
    close(ends[1]);
    channel = ends[0];
}

void peer_send(enum peer_request request, short type, off_t start, off_t length, const char *path)
{
    struct request message = {.what = request, .type = type, .start = start, .length = length};
    snprintf(message.path, sizeof(message.path), "%s", path ? path : "");
    OK(send(channel, &message, sizeof(message), 0));
}

int peer_answer(void)
{
    int answer;
    SAME(sizeof(answer), recv(channel, &answer, sizeof(answer), 0));
    return answer;
}

bool peer_answered(int milliseconds)
{
    struct pollfd poller = {.fd = channel, .events = POLLIN};
    return poll(&poller, 1, milliseconds) == 1;
}

int peer(enum peer_request request, short type, off_t start, off_t length, const char *path)
{
    peer_send(request, type, start, length, path);
    return peer_answer();
}

void peer_exit(void)
{
    if (channel < 0)
        return;
    close(channel);
    channel = -1;
    /* It may wait for a lock that the failed case still holds. */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}
