/*
 * connection: the memory of a connection that outlives its process; see connection.c.
 */
#ifndef V9_SERVER_CONNECTION_H
#define V9_SERVER_CONNECTION_H

#include <stdint.h>
#include <sys/socket.h>

#include "server/api.h"

struct v9_transfer {
    uint32_t bytes, fds; /* how many the record had before */
    struct iovec iov;
    struct mmsghdr header; /* msg_len: what the kernel has transferred */
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(V9_MESSAGE_FDS * sizeof(int32_t))];
    } control;
};

struct v9_shared_connection {
    struct v9_connection record;
    struct v9_transfer in, out;
};

#endif
