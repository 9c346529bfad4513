"""What a hostile frontend sends as a descriptor."""

import contextlib
import socket
import struct
from collections.abc import Iterator


@contextlib.contextmanager
def slow_to_close() -> Iterator[int]:
    """A TCP socket with unsent data, whose last close waits for an hour (SO_LINGER), or until the
    block ends. The block closes it, or has it closed."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(65536))
        client.setblocking(True)
        try:
            yield client.detach()
        finally:
            peer.close()
