// sources: server/connection.c
/*
 * A connection whose process dies, at each instruction between two messages, and at any moment
 * (server/dying_connection.h).
 */
#define _GNU_SOURCE
#include "server/dying_connection.h"

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

TEST(other_numbers_are_entered_and_descriptors_of_a_message_are_missed)
{
    const struct message table = message_of(TABLE);
    const int32_t wrong[2] = {DESCRIPTORS, -1};
    int32_t known[2] = {-1, -1}, instead[2] = {-1, -1};

    connect_one();
    known[0] = connection->fd;
    instead[0] = dup(connection->fd);
    put(&table, sizeof(table), 2);
    CHECK(v9_connection_receive(connection, sizeof(table)) == sizeof(table));
    CHECK(connection->fd_count == 2);
    for (uint32_t i = 0; i < connection->fd_count; i++)
        close(connection->fds[i]);
    CHECK(v9_connection_lose_descriptors(connection, wrong, wrong) == -ESTALE);
    CHECK(connection->fd_count == 2);
    for (int i = 0; i < 2; i++) { /* a process may die in it */
        CHECK(v9_connection_lose_descriptors(connection, known, instead) == 0);
        CHECK(connection->fd == instead[0] && !connection->fd_count && connection->fds_lost);
    }
    CHECK(v9_connection_recover(connection) == 1 && !connection->fd_count);
    CHECK(connection->received == sizeof(table));
    close(known[0]);
    disconnect();
    CHECK(open_now() == ours);
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

/* ---- messages at which processes die --------------------------------------------------------- */

static void die(uint32_t blame, bool was_begun)
{
    CHECK(v9_connection_blame(connection, blame) == was_begun);
    CHECK(v9_connection_blame(connection, blame) == 0); /* once */
    CHECK(v9_connection_recover(connection) == 1);
}

TEST(deaths_at_a_message_are_counted_until_the_next)
{
    connect_one();
    die(1, false);
    v9_connection_received(connection, 0);
    die(1, true);
    CHECK(connection->deaths == 1);
    die(1, false); /* before it was handled once more */
    v9_connection_received(connection, 0);
    die(0, true); /* an accident */
    v9_connection_received(connection, 0);
    die(1, true);
    CHECK(connection->deaths == 2);
    v9_connection_received(connection, 0);
    CHECK(v9_connection_handled(connection, (const uint8_t *)"", 0) == 0);
    die(1, false);
    CHECK(v9_connection_send(connection) == 0);
    v9_connection_received(connection, 0);
    CHECK(connection->deaths == 0);
    die(1, true);
    CHECK(connection->deaths == 1);
    disconnect();
}

TEST(deaths_at_the_end_of_a_connection_are_counted_by_themselves)
{
    connect_one();
    v9_connection_received(connection, 0);
    die(1, true);
    v9_connection_end(connection);
    CHECK(connection->deaths == 0);
    for (uint32_t deaths = 1; deaths < 4; deaths++) {
        die(1, true);
        v9_connection_end(connection);
        CHECK(connection->deaths == deaths);
    }
    v9_connection_ended(connection);
    die(1, false);
    disconnect();
}
