/*
 * connection: a vhost-user connection that survives the process that serves it.
 *
 * All of its state is in memory that the next process shares: which message is being received,
 * handled or answered, and how far. A process may be killed between any two instructions, and the
 * frontend must see neither a lost nor a torn nor a second message.
 *
 * The system calls are the only steps that cannot be repeated. recvmmsg(2) and sendmmsg(2) with one
 * message do the same as recvmsg and sendmsg, but return the number of bytes through memory, as
 * recvmsg does with the descriptors. So their arguments lie here, too, and the kernel has stored
 * how much it did before a signal can end the process. `transfer` holds that, with the place where
 * the bytes belong; entering it in the record is harmless twice, and is done after the call, or by
 * recovery. A transfer of 0 bytes says that nothing is to be entered.
 *
 * The kernel's stores must not fail for want of a page, which with a signal pending they might: the
 * memory is locked if the limit allows, and touched before each call.
 *
 * Every other step is repeated or not, by one store: `steps` says which part of a message is next,
 * `stage` whether there is a connection. Whoever stores one of these has made all else ready before
 * it. Descriptors are withdrawn from the record before they are closed: a death in between leaks
 * them, and the sweep closes what no record lists.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/commit.h"
#include "server/connection.h"

enum { RECEIVING, HANDLING, SENDING, PARTS }; /* of a message: steps modulo PARTS */

static struct v9_shared_connection *shared_of(struct v9_connection *connection)
{
    return (struct v9_shared_connection *)connection;
}

static bool is_live(const struct v9_connection *connection)
{
    return connection->stage == V9_CONNECTION_OPEN || connection->stage == V9_CONNECTION_ENDING;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* All but the stage. */
static void clear(struct v9_shared_connection *shared)
{
    const size_t kept = sizeof(shared->record.stage);

    memset((uint8_t *)shared + kept, 0, sizeof(*shared) - kept);
    shared->record.fd = shared->record.backend_req_fd = -1;
}

uint32_t v9_connection_size(void)
{
    return sizeof(struct v9_shared_connection);
}

struct v9_connection *v9_connection_at(void *memory)
{
    struct v9_shared_connection *shared = memory;

    mlock(shared, sizeof(*shared));
    if (shared->record.stage == V9_CONNECTION_NONE)
        clear(shared);
    return &shared->record;
}

struct v9_connection *v9_connection_new(void)
{
    void *memory = mmap(NULL, sizeof(struct v9_shared_connection), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return memory == MAP_FAILED ? NULL : v9_connection_at(memory);
}

void v9_connection_free(struct v9_connection *connection)
{
    munmap(connection, sizeof(struct v9_shared_connection));
}

static void set_stage(struct v9_connection *connection, uint32_t stage)
{
    V9_COMMIT();
    connection->stage = stage;
}

void v9_connection_begin(struct v9_connection *connection, int32_t fd)
{
    clear(shared_of(connection));
    connection->fd = fd;
    set_stage(connection, V9_CONNECTION_OPEN);
}

void v9_connection_forget(struct v9_connection *connection)
{
    set_stage(connection, V9_CONNECTION_NONE);
}

void v9_connection_end(struct v9_connection *connection)
{
    shared_of(connection)->in.header.msg_len = shared_of(connection)->out.header.msg_len = 0;
    if (connection->stage != V9_CONNECTION_ENDING)
        connection->deaths = 0;
    set_stage(connection, V9_CONNECTION_ENDING);
    connection->begun = 1;
}

void v9_connection_ended(struct v9_connection *connection)
{
    set_stage(connection, V9_CONNECTION_ENDED);
}

int32_t v9_connection_take_fd(struct v9_connection *connection)
{
    const int32_t fd = connection->fd;

    connection->fd = -1;
    V9_COMMIT();
    return fd;
}

/* ---- transfers ------------------------------------------------------------------------------- */

static void touch(struct v9_shared_connection *shared)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (size_t at = 0; at < sizeof(*shared); at += page) {
        volatile uint8_t *byte = (uint8_t *)shared + at;
        *byte = *byte;
    }
}

/* Makes a transfer of up to `size` bytes ready, which the record then has behind its first `bytes`
 * ones. */
static void prepare(struct v9_shared_connection *shared, struct v9_transfer *transfer,
                    uint8_t *buffer, uint32_t bytes, uint32_t size)
{
    transfer->header.msg_len = 0;
    V9_COMMIT();
    transfer->bytes = bytes;
    transfer->fds = shared->record.fd_count;
    transfer->iov = (struct iovec){buffer + bytes, size};
    transfer->header.msg_hdr = (struct msghdr){.msg_iov = &transfer->iov, .msg_iovlen = 1};
    touch(shared);
}

/* How many bytes of control data hold descriptors. */
static size_t control_size(const struct v9_transfer *in)
{
    const struct cmsghdr *first = &in->control.header;

    if (!in->header.msg_hdr.msg_controllen || first->cmsg_level != SOL_SOCKET ||
        first->cmsg_type != SCM_RIGHTS)
        return 0;
    return first->cmsg_len < sizeof(in->control.bytes) ? first->cmsg_len
                                                       : sizeof(in->control.bytes);
}

/* The descriptors of a transfer become the record's, behind those that it had. */
static void enter_fds(struct v9_connection *record, const struct v9_transfer *in)
{
    const size_t size = control_size(in);
    uint32_t count = in->fds;

    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= size && count < V9_MESSAGE_FDS;
         at += sizeof(int))
        memcpy(&record->fds[count++], &in->control.bytes[at], sizeof(int));
    record->fd_count = count;
    record->fds_lost |= (in->header.msg_hdr.msg_flags & MSG_CTRUNC) != 0;
}

static void enter_received(struct v9_shared_connection *shared)
{
    struct v9_transfer *in = &shared->in;

    if (!in->header.msg_len)
        return;
    enter_fds(&shared->record, in);
    shared->record.received = in->bytes + in->header.msg_len;
    V9_COMMIT();
}

static void enter_sent(struct v9_shared_connection *shared)
{
    if (shared->out.header.msg_len)
        shared->record.sent = shared->out.bytes + shared->out.header.msg_len;
    V9_COMMIT();
}

int v9_connection_receive(struct v9_connection *connection, uint32_t size)
{
    struct v9_shared_connection *shared = shared_of(connection);
    struct msghdr *header = &shared->in.header.msg_hdr;
    const uint32_t fds = V9_MESSAGE_FDS - connection->fd_count;

    if (size > V9_MESSAGE_MAX - connection->received)
        return -EMSGSIZE;
    prepare(shared, &shared->in, connection->message, connection->received, size);
    /* The kernel closes the descriptors for which there is no room, and says so (MSG_CTRUNC). */
    header->msg_control = shared->in.control.bytes;
    header->msg_controllen = fds ? CMSG_LEN(fds * sizeof(int32_t)) : 0;
    if (recvmmsg(connection->fd, &shared->in.header, 1, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL) < 0)
        return -errno;
    enter_received(shared);
    return (int)shared->in.header.msg_len;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static uint32_t part(const struct v9_connection *connection)
{
    return connection->steps % PARTS;
}

/* The present part is over. What it has transferred is entered. */
static void step(struct v9_shared_connection *shared)
{
    shared->in.header.msg_len = shared->out.header.msg_len = 0;
    V9_COMMIT();
    shared->record.steps++;
}

void v9_connection_received(struct v9_connection *connection, uint32_t regions)
{
    if (part(connection) == RECEIVING) {
        connection->noted_regions = regions;
        connection->noted_protocol_features = connection->protocol_features;
        connection->deaths = 0;
        step(shared_of(connection));
    }
    V9_COMMIT();
    connection->begun = 1;
}

int v9_connection_handled(struct v9_connection *connection, const uint8_t *reply, uint32_t size)
{
    if (size > V9_REPLY_MAX)
        return -EMSGSIZE;
    memcpy(connection->reply, reply, size);
    connection->reply_size = size;
    connection->sent = 0;
    connection->begun = 0;
    step(shared_of(connection));
    return 0;
}

int v9_connection_send(struct v9_connection *connection)
{
    struct v9_shared_connection *shared = shared_of(connection);
    const uint32_t left = connection->reply_size - connection->sent;

    if (left) {
        prepare(shared, &shared->out, connection->reply, connection->sent, left);
        if (sendmmsg(connection->fd, &shared->out.header, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return -errno;
        enter_sent(shared);
    }
    if (connection->sent < connection->reply_size)
        return (int)(connection->reply_size - connection->sent);
    connection->received = connection->fd_count = connection->fds_lost = 0;
    step(shared);
    return 0;
}

/* ---- descriptors, and what is left of a dead process ------------------------------------------
 */

/* A message that was handled has none: whoever handled it closes them. */
static uint32_t own_fds(const struct v9_connection *connection, int32_t *fds)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < connection->fd_count && i < V9_MESSAGE_FDS; i++)
        if (part(connection) != SENDING && connection->fds[i] != connection->backend_req_fd)
            fds[count++] = connection->fds[i];
    return count;
}

uint32_t v9_connection_take_fds(struct v9_connection *connection, int32_t fds[V9_MESSAGE_FDS])
{
    const uint32_t count = own_fds(connection, fds);

    connection->fd_count = 0;
    V9_COMMIT();
    return count;
}

uint32_t v9_connection_list(const struct v9_connection *connection, int32_t fds[V9_CONNECTION_FDS])
{
    uint32_t count;

    if (!is_live(connection))
        return 0;
    count = own_fds(connection, fds);
    if (connection->fd >= 0)
        fds[count++] = connection->fd;
    if (connection->backend_req_fd >= 0)
        fds[count++] = connection->backend_req_fd;
    return count;
}

int v9_connection_blame(struct v9_connection *connection, uint32_t blame)
{
    const bool begun = connection->begun && is_live(connection);

    connection->begun = 0;
    V9_COMMIT(); /* a death from here on is none of the message's */
    if (begun && blame)
        connection->deaths++;
    return begun;
}

/* Whether a transfer stays within its buffer. */
static bool fits(const struct v9_transfer *transfer, uint32_t room)
{
    return transfer->bytes <= room && transfer->header.msg_len <= room - transfer->bytes &&
           transfer->fds <= V9_MESSAGE_FDS;
}

static bool makes_sense(const struct v9_shared_connection *shared)
{
    const struct v9_connection *record = &shared->record;

    return record->stage <= V9_CONNECTION_ENDED &&
           (record->stage != V9_CONNECTION_OPEN || record->fd >= 0) &&
           record->received <= V9_MESSAGE_MAX && record->fd_count <= V9_MESSAGE_FDS &&
           record->reply_size <= V9_REPLY_MAX && record->sent <= record->reply_size &&
           fits(&shared->in, V9_MESSAGE_MAX) && fits(&shared->out, V9_REPLY_MAX);
}

/* May itself be cut short: without a socket it makes no sense again. */
static void give_up(struct v9_shared_connection *shared)
{
    struct v9_connection *record = &shared->record;

    record->fd = record->backend_req_fd = -1;
    V9_COMMIT();
    record->received = record->fd_count = record->reply_size = record->sent = 0;
    record->deaths = record->begun = 0;
    shared->in = shared->out = (struct v9_transfer){0};
    set_stage(record, V9_CONNECTION_ENDING);
}

static bool is_one_of(int32_t fd, int32_t known, int32_t instead)
{
    return fd == known || fd == instead;
}

int v9_connection_lose_descriptors(struct v9_connection *connection, const int32_t known[2],
                                   const int32_t instead[2])
{
    struct v9_shared_connection *shared = shared_of(connection);

    if (!is_live(connection) || !makes_sense(shared))
        return 0; /* it has none, or is given up */
    if (!is_one_of(connection->fd, known[0], instead[0]) ||
        !is_one_of(connection->backend_req_fd, known[1], instead[1]))
        return -ESTALE;
    connection->fd = instead[0];
    connection->backend_req_fd = instead[1];
    enter_received(shared);
    connection->fds_lost |= connection->fd_count > 0 && part(connection) != SENDING;
    V9_COMMIT();
    shared->in.fds = 0;
    shared->in.header.msg_hdr.msg_controllen = 0;
    V9_COMMIT();
    connection->fd_count = 0;
    return 0;
}

int v9_connection_recover(struct v9_connection *connection)
{
    struct v9_shared_connection *shared = shared_of(connection);

    if (!makes_sense(shared)) {
        give_up(shared);
        return 0;
    }
    if (connection->stage == V9_CONNECTION_OPEN) {
        enter_received(shared);
        enter_sent(shared);
    }
    return 1;
}
