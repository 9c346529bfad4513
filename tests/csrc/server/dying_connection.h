/*
 * A connection whose process dies: at each instruction between two messages, and at any moment.
 *
 * A worker here is a child that shares the record and the descriptors. Each message adds a region
 * to its device, and the reply says how many there are. When it has died, its descriptors are
 * swept: closed, but for those that the record lists. Others open some under the numbers that
 * became free. Then the test's own process goes on as the next worker.
 */
#ifndef SERVER_DYING_CONNECTION_H
#define SERVER_DYING_CONNECTION_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "check.h"
#include "server/api.h"
#include "stepped.h"

enum { HEADER = 12, KEEP = 21, TABLE = 5, PAYLOAD = 8 };
enum { DESCRIPTORS = 64 /* more than there ever are */, STATE = 8192 /* at least the record */ };

#ifdef __SANITIZE_ADDRESS__
enum { EVERY = 7 }; /* the code is many instructions longer: not each point is tried */
#else
enum { EVERY = 1 };
#endif

struct message {
    uint32_t request, flags, size, payload[PAYLOAD / 4];
};

static struct v9_connection *connection;
static uint32_t *regions; /* of the device; shared */
static int frontend = -1;
static uint64_t ours; /* descriptors of the test, one bit each */

/* ---- descriptors ----------------------------------------------------------------------------- */

static uint64_t open_now(void)
{
    uint64_t found = 0;

    for (int fd = 0; fd < DESCRIPTORS; fd++)
        found |= (uint64_t)(fcntl(fd, F_GETFD) >= 0) << fd;
    return found;
}

static uint64_t listed(void)
{
    int32_t fds[V9_CONNECTION_FDS];
    const uint32_t count = v9_connection_list(connection, fds);
    uint64_t found = 0;

    for (uint32_t i = 0; i < count; i++) {
        CHECK(fds[i] >= 0 && fds[i] < DESCRIPTORS && !(found >> fds[i] & 1));
        found |= (uint64_t)1 << fds[i];
    }
    return found;
}

static void close_all(uint64_t fds)
{
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (fds >> fd & 1)
            close(fd);
}

/* ---- the frontend ---------------------------------------------------------------------------- */

static void connect_one(void)
{
    int ends[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    frontend = ends[0];
    v9_connection_begin(connection, ends[1]);
    *regions = 0;
}

static void disconnect(void)
{
    close(frontend);
    close_all(listed());
    v9_connection_forget(connection);
}

/* Sends bytes with so many descriptors, each of a file of its own. */
static void put(const void *data, size_t size, unsigned count)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(16 * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)data, size};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[16];

    for (unsigned i = 0; i < count; i++)
        fds[i] = memfd_create("sent", MFD_CLOEXEC);
    if (count) {
        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        CMSG_FIRSTHDR(&header)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&header)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&header)->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), fds, count * sizeof(int));
    }
    CHECK(sendmsg(frontend, &header, 0) == (ssize_t)size);
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
}

static struct message message_of(uint32_t request)
{
    return (struct message){request, 1, PAYLOAD, {request, 0}};
}

/* The next reply, which has the number of regions, and how many descriptors came. False: there is
 * none. */
static bool take_reply(uint32_t request, uint32_t count, uint32_t fds)
{
    const struct message expected = {request, 5, PAYLOAD, {count, fds}};
    struct message reply;
    const ssize_t size = recv(frontend, &reply, sizeof(reply), MSG_DONTWAIT);

    if (size >= 0)
        CHECK(size == sizeof(reply) && memcmp(&reply, &expected, sizeof(reply)) == 0);
    return size >= 0;
}

static bool nothing_more(void)
{
    uint8_t byte;
    return recv(frontend, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* ---- the worker ------------------------------------------------------------------------------ */

static uint32_t wanted(void)
{
    const struct message *message = (const struct message *)connection->message;
    const uint32_t size = connection->received < HEADER ? HEADER : HEADER + message->size;

    return size - connection->received;
}

/* Replaces the one that was kept, as the session does. */
static void keep(int32_t fd)
{
    const int32_t old = connection->backend_req_fd;

    connection->backend_req_fd = fd;
    if (old >= 0 && old != fd)
        close(old);
}

/* How many descriptors came, and whether more were lost. */
static uint32_t fds_of(const struct v9_connection *from)
{
    return from->fd_count | from->fds_lost << 8;
}

static void handle(void)
{
    const struct message *message = (const struct message *)connection->message;
    struct message reply = {message->request, 5, PAYLOAD, {0, fds_of(connection)}};
    int32_t fds[V9_MESSAGE_FDS];
    const uint32_t count = connection->fd_count;

    v9_connection_received(connection, *regions);
    if (connection->noted_regions == *regions)
        ++*regions;
    reply.payload[0] = *regions;
    for (uint32_t i = 0; i < count; i++)
        fds[i] = connection->fds[i];
    if (message->request == KEEP && count)
        keep(fds[0]);
    CHECK(v9_connection_handled(connection, (const uint8_t *)&reply, sizeof(reply)) == 0);
    for (uint32_t i = 0; i < count; i++)
        if (fds[i] != connection->backend_req_fd)
            close(fds[i]);
}

static bool is_handled(void)
{
    return connection->steps % 3 == 2;
}

/* Serves until no message is there: 0 at the end of the stream, else -errno. */
static int serve_all(void)
{
    int result = 1;

    while (result > 0) {
        if (is_handled())
            result = v9_connection_send(connection) < 0 ? -errno : 1;
        else if (wanted())
            result = v9_connection_receive(connection, wanted());
        else
            handle();
    }
    return result;
}

static void serve(void)
{
    serve_all();
}

static void close_connection(void)
{
    int32_t fds[V9_MESSAGE_FDS], fd;
    uint32_t count;

    v9_connection_end(connection);
    fd = v9_connection_take_fd(connection);
    if (fd >= 0)
        close(fd);
    count = v9_connection_take_fds(connection, fds);
    for (uint32_t i = 0; i < count; i++)
        close(fds[i]);
    keep(-1);
    v9_connection_ended(connection);
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static uint8_t *last_state;

/* Whether the last instruction has changed the record or the table of descriptors. */
static bool has_changed(void)
{
    static uint64_t last_open;
    const uint64_t now = open_now();
    const bool changed = now != last_open || memcmp(last_state, connection, STATE) != 0;

    memcpy(last_state, connection, STATE);
    last_open = now;
    return changed;
}

/* A worker does its work up to its change number `points`, and dies. False: it had less to do. */
static bool dies_at(void (*work)(void), unsigned points)
{
    const pid_t child = stepped_start(work);
    bool more = true;

    has_changed();
    while (points && (more = stepped_once(child)))
        points -= has_changed();
    stepped_kill(child);
    return more;
}

/* What the keeper does; then others take the numbers that are free. Returns theirs. */
static uint64_t clean_up(void)
{
    const uint64_t before = ours | (uint64_t)1 << frontend;
    uint64_t now;

    CHECK(v9_connection_recover(connection) == 1);
    CHECK(!(listed() & ~open_now()));
    close_all(open_now() & ~before & ~listed());
    now = open_now();
    while (dup(0) < 40)
        ;
    return open_now() & ~now;
}

/* Has a worker die at each of its points, and `check` what the next one does. `before` it sends. */
static void deaths(void (*before)(void), void (*work)(void), void (*check)(void))
{
    unsigned points = 0;
    uint64_t others = 0;
    bool more = true;

    while (more) {
        connect_one();
        before();
        more = dies_at(work, points);
        points += EVERY;
        others = clean_up();
        check();
        CHECK((open_now() & others) == others);
        disconnect();
        close_all(others);
        if (!CHECK(open_now() == ours))
            return;
    }
    CHECK(points / EVERY > 1 && points > 10);
}

SET_UP()
{
    connection = v9_connection_new();
    last_state = malloc(STATE);
    regions = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(connection && last_state && regions != MAP_FAILED);
    ours = open_now();
}

TEAR_DOWN()
{
    v9_connection_free(connection);
    free(last_state);
    munmap(regions, 4096);
}

#endif
