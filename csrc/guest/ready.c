/*
 * What a service manager is told once all mounts are followed (sd_notify(3)): what it starts then
 * finds its watches held, and the mounts in their places.
 *
 * Each process that follows a mount has the write end of a pipe, and closes it when it is ready.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int ends[2] = {-1, -1};

void agent_ready_begin(void)
{
    if (getenv("NOTIFY_SOCKET") && pipe2(ends, O_CLOEXEC))
        ends[0] = ends[1] = -1; /* then nobody is told, and the manager says that it waits */
}

void agent_ready(void)
{
    close(ends[0]);
    close(ends[1]);
}

static void tell(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path)
        return;
    memcpy(address.sun_path, path, length);
    if (*path == '@')
        address.sun_path[0] = '\0'; /* an abstract name */
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const char state[] = "READY=1";
    if (sendto(fd, state, sizeof state - 1, 0, (struct sockaddr *)&address, size) < 0)
        agent_say("%s: %s", path, strerror(errno));
    close(fd);
}

void agent_ready_await(void)
{
    char byte;
    if (ends[0] < 0)
        return;
    close(ends[1]);
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
        ;
    close(ends[0]);
    tell(getenv("NOTIFY_SOCKET"));
}
