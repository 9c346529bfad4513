// sources: server/connection.c
/*
 * A connection whose process dies: at each instruction between two messages, and at any moment.
 *
 * A worker here is a child that shares the record and the descriptors. Each message adds a region
 * to its device, and the reply says how many there are. When it has died, its descriptors are
 * swept: closed, but for those that the record lists. Others open some under the numbers that
 * became free. Then the test's own process goes on as the next worker.
 */
#define _GNU_SOURCE
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

/* ---- without deaths -------------------------------------------------------------------------- */

TEST(messages_are_received_in_pieces_and_answered)
{
    const struct message message = message_of(TABLE);

    connect_one();
    put(&message, 5, 2);
    CHECK(serve_all() == -EAGAIN && connection->received == 5 && connection->fd_count == 2);
    put((const uint8_t *)&message + 5, sizeof(message) - 5, 1);
    CHECK(serve_all() == -EAGAIN && take_reply(TABLE, 1, 3));
    put(&message, sizeof(message), 0);
    CHECK(serve_all() == -EAGAIN && take_reply(TABLE, 2, 0) && nothing_more());
    shutdown(frontend, SHUT_WR);
    CHECK(serve_all() == 0 && connection->steps == 6);
    disconnect();
    CHECK(open_now() == ours);
}

TEST(descriptors_for_which_there_is_no_room_are_missed)
{
    const struct message message = message_of(TABLE);

    connect_one();
    put(&message, 12, 7);
    put((const uint8_t *)&message + 12, 4, 2);
    put((const uint8_t *)&message + 16, 4, 1);
    CHECK(serve_all() == -EAGAIN && take_reply(TABLE, 1, 8 | 1 << 8));
    put(&message, sizeof(message), 8);
    CHECK(serve_all() == -EAGAIN && take_reply(TABLE, 2, 8));
    disconnect();
    CHECK(open_now() == ours);
}

TEST(what_does_not_fit_is_refused)
{
    static const uint8_t bytes[V9_REPLY_MAX + 1];

    connect_one();
    CHECK(v9_connection_receive(connection, V9_MESSAGE_MAX + 1) == -EMSGSIZE);
    CHECK(v9_connection_receive(connection, V9_MESSAGE_MAX) == -EAGAIN);
    CHECK(v9_connection_handled(connection, bytes, sizeof(bytes)) == -EMSGSIZE);
    CHECK(connection->steps == 0);
    disconnect();
}

/* As after a call that has sent only a part. */
TEST(the_rest_of_a_reply_is_sent)
{
    uint8_t reply[V9_REPLY_MAX], got[V9_REPLY_MAX];

    for (unsigned i = 0; i < sizeof(reply); i++)
        reply[i] = (uint8_t)i;
    connect_one();
    v9_connection_received(connection, 0);
    CHECK(v9_connection_handled(connection, reply, sizeof(reply)) == 0);
    connection->sent = 100;
    CHECK(v9_connection_send(connection) == 0 && connection->steps == 3);
    CHECK(recv(frontend, got, sizeof(got), MSG_DONTWAIT) == sizeof(reply) - 100);
    CHECK(memcmp(got, reply + 100, sizeof(reply) - 100) == 0);
    disconnect();
}

TEST(a_frontend_that_does_not_read_is_waited_for)
{
    const uint8_t reply[V9_REPLY_MAX] = {1};
    uint8_t got[V9_REPLY_MAX];
    unsigned sent = 0;
    int err = 0;

    connect_one();
    for (; !err; sent++) {
        v9_connection_received(connection, 0);
        CHECK(v9_connection_handled(connection, reply, sizeof(reply)) == 0);
        err = v9_connection_send(connection);
    }
    CHECK(err == -EAGAIN && is_handled());
    CHECK(v9_connection_send(connection) == -EAGAIN);
    for (unsigned i = 1; i < sent; i++)
        CHECK(recv(frontend, got, sizeof(got), MSG_DONTWAIT) == sizeof(got));
    CHECK(nothing_more() && v9_connection_send(connection) == 0);
    CHECK(recv(frontend, got, sizeof(got), MSG_DONTWAIT) == sizeof(got) && nothing_more());
    disconnect();
}

/* ---- deaths at each point -------------------------------------------------------------------- */

static void send_pieces(void)
{
    const struct message table = message_of(TABLE);

    put(&table, 5, 1);
    put((const uint8_t *)&table + 5, sizeof(table) - 5, 2);
    put(&table, sizeof(table), 0);
}

static void check_pieces(void)
{
    CHECK(serve_all() == -EAGAIN);
    CHECK(take_reply(TABLE, 1, 3) && take_reply(TABLE, 2, 0) && nothing_more());
    CHECK(connection->steps == 6 && __builtin_popcountll(listed()) == 1);
}

TEST(each_message_is_answered_once)
{
    deaths(send_pieces, serve, check_pieces);
}

static void send_one_to_keep(void)
{
    const struct message kept = message_of(KEEP);

    put(&kept, sizeof(kept), 1);
    serve();
    put(&kept, sizeof(kept), 1);
}

static void check_kept(void)
{
    CHECK(serve_all() == -EAGAIN);
    CHECK(take_reply(KEEP, 1, 1) && take_reply(KEEP, 2, 1) && nothing_more());
    CHECK(__builtin_popcountll(listed()) == 2);
}

TEST(a_descriptor_is_kept_and_replaced)
{
    deaths(send_one_to_keep, serve, check_kept);
}

static void send_too_many(void)
{
    const struct message table = message_of(TABLE);

    put(&table, 12, 7);
    put((const uint8_t *)&table + 12, sizeof(table) - 12, 3);
}

static void check_too_many(void)
{
    CHECK(serve_all() == -EAGAIN);
    CHECK(take_reply(TABLE, 1, 8 | 1 << 8) && nothing_more());
    CHECK(__builtin_popcountll(listed()) == 1);
}

TEST(descriptors_that_were_lost_are_missed_by_the_next_worker_too)
{
    deaths(send_too_many, serve, check_too_many);
}

static void send_a_part(void)
{
    const struct message table = message_of(TABLE), kept = message_of(KEEP);

    put(&kept, sizeof(kept), 1);
    put(&table, 5, 2);
    serve();
}

static void check_end(void)
{
    close_connection();
    CHECK(connection->stage == V9_CONNECTION_ENDED && !listed());
    CHECK(take_reply(KEEP, 1, 1) && recv(frontend, &(uint8_t){0}, 1, MSG_DONTWAIT) == 0);
}

TEST(the_end_is_ended_by_the_next_worker)
{
    deaths(send_a_part, close_connection, check_end);
}

/* ---- deaths at any moment -------------------------------------------------------------------- */

static void serve_until_killed(void)
{
    struct pollfd ready = {.fd = connection->fd};

    for (;;) {
        serve_all();
        ready.events = is_handled() ? POLLOUT : POLLIN;
        poll(&ready, 1, -1);
    }
}

static pid_t start_worker(void)
{
    const pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

    if (child == 0)
        serve_until_killed();
    return child;
}

static uint32_t sent, taken; /* messages, replies */

static bool take_one(void)
{
    const bool is_there = take_reply(taken % 3 ? TABLE : KEEP, taken + 1, taken % 4);

    taken += is_there;
    return is_there;
}

/* Sends and takes what it can for so long. */
static void talk(long ns)
{
    struct pollfd ready = {frontend, POLLIN, 0};
    const struct message message = message_of(sent % 3 ? TABLE : KEEP);

    if (sent - taken < 8)
        put(&message, sizeof(message), sent++ % 4);
    ppoll(&ready, 1, &(struct timespec){0, ns}, NULL);
    while (take_one())
        ;
}

TEST(thousands_of_deaths_a_second_lose_nothing)
{
    uint32_t random = 1, inside = 0;

    connect_one();
    for (unsigned death = 0; death < 3000; death++) {
        const pid_t child = start_worker();
        for (unsigned rounds = (random = random * 69069 + 1) >> 30; rounds; rounds--)
            talk(random >> 13);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        inside += connection->steps % 3 || connection->received;
        CHECK(v9_connection_recover(connection) == 1);
        close_all(open_now() & ~(ours | (uint64_t)1 << frontend | listed()));
    }
    serve();
    while (take_one())
        ;
    CHECK(taken == sent && taken > 1000 && inside > 50);
    CHECK(__builtin_popcountll(listed()) <= 2);
    disconnect();
    CHECK(open_now() == ours);
}

/* ---- a record that makes no sense -------------------------------------------------------------
 */

TEST(a_damaged_record_ends_its_connection)
{
    uint32_t *const damaged[] = {&connection->received,   &connection->fd_count,
                                 &connection->reply_size, &connection->sent,
                                 &connection->stage,      (uint32_t *)&connection->fd};
    int32_t fds[V9_CONNECTION_FDS];

    for (unsigned i = 0; i < sizeof(damaged) / sizeof(*damaged); i++) {
        connect_one();
        const uint64_t theirs = listed();
        *damaged[i] = UINT32_MAX;
        CHECK(v9_connection_list(connection, fds) <= V9_CONNECTION_FDS);
        CHECK(v9_connection_recover(connection) == 0);
        CHECK(connection->stage == V9_CONNECTION_ENDING && !listed());
        close_all(theirs);
        disconnect();
    }
    CHECK(open_now() == ours);
}
