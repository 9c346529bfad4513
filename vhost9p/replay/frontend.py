"""The smallest frontend: memory, a split virtqueue, and one request at a time.

The device gets one region of memory with the ring, the request and its reply. Of the features it is
asked for VERSION_1 alone, so that its ring is enabled as soon as it has a kick descriptor. Sources:
QEMU's docs/interop/vhost-user.rst; virtio 1.3, section 2.7.
"""

import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Self

from vhost9p import memory_file

_HEADER = struct.Struct("=III")
_VERSION_1 = 1 << 32
_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEM_TABLE = 1, 2, 3, 5
_SET_NUM, _SET_ADDR, _SET_BASE, _SET_KICK, _SET_CALL = 8, 9, 10, 12, 13
_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE = 1, 2
_RING_SIZE = 2
_DESC, _AVAIL, _USED, _REQUEST = 0, 4096, 8192, 65536
MESSAGE_MAX = 16 << 20
"""Bytes of a request, and of its reply."""
_SIZE = _REQUEST + 2 * MESSAGE_MAX
_UVA = 1 << 40
PATIENCE_S = 60.0
"""Seconds in which a request has to be answered."""


class NoReply(Exception):
    """The device does not answer; the text says how."""


class Frontend:
    """A started device behind a socket."""

    def __init__(self, path: str) -> None:
        """Raises OSError, NoReply."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._file = memory_file.create("vhost9p-replay")
        os.ftruncate(self._file, _SIZE)
        self._memory = mmap.mmap(self._file, _SIZE)
        self._kick = os.eventfd(0, os.EFD_CLOEXEC)
        self._call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._count = 0
        """Requests so far, modulo 65536: the index of the ring."""
        self._set_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._memory.close()
        for fd in (self._file, self._kick, self._call):
            os.close(fd)

    def _send(self, request: int, payload: bytes, fds: Sequence[int] = ()) -> None:
        message = _HEADER.pack(request, 1, len(payload)) + payload
        socket.send_fds(self._socket, [message], fds)

    def _set_up(self) -> None:
        self._send(_GET_FEATURES, b"")
        self._receive()
        self._send(_SET_OWNER, b"")
        self._send(_SET_FEATURES, struct.pack("=Q", _VERSION_1))
        table = struct.pack("=IIQQQQ", 1, 0, 0, _SIZE, _UVA, 0)
        self._send(_SET_MEM_TABLE, table, [self._file])
        self._send(_SET_NUM, struct.pack("=II", 0, _RING_SIZE))
        self._send(_SET_BASE, struct.pack("=II", 0, 0))
        addresses = (_UVA + at for at in (_DESC, _USED, _AVAIL, 0))
        self._send(_SET_ADDR, struct.pack("=IIQQQQ", 0, 0, *addresses))
        self._send(_SET_CALL, struct.pack("=Q", 0), [self._call])
        self._send(_SET_KICK, struct.pack("=Q", 0), [self._kick])

    def _receive(self) -> None:
        """A reply with a number, which nothing depends on."""
        left = _HEADER.size + 8
        while left:
            data = self._socket.recv(left)
            if not data:
                raise NoReply("the daemon has ended the connection")
            left -= len(data)

    def ask(self, request: bytes, room: int) -> tuple[bytes, int]:
        """Sends a request that is to have a reply of at most `room` bytes. Returns the reply, and
        the nanoseconds that it has taken. Raises NoReply."""
        memory, reply_at = self._memory, _REQUEST + MESSAGE_MAX
        memory[_REQUEST : _REQUEST + len(request)] = request
        _DESCRIPTOR.pack_into(memory, _DESC, _REQUEST, len(request), _NEXT, 1)
        _DESCRIPTOR.pack_into(memory, _DESC + 16, reply_at, room, _WRITE, 0)
        struct.pack_into("<H", memory, _AVAIL + 4 + 2 * (self._count % _RING_SIZE), 0)
        self._count = (self._count + 1) % 65536
        began = time.monotonic_ns()
        struct.pack_into("<H", memory, _AVAIL + 2, self._count)
        os.eventfd_write(self._kick, 1)
        self._wait()
        took = time.monotonic_ns() - began
        at = _USED + 4 + 8 * ((self._count - 1) % _RING_SIZE)
        (size,) = struct.unpack_from("<I", memory, at + 4)
        return bytes(memory[reply_at : reply_at + min(size, room)]), took

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while struct.unpack_from("<H", self._memory, _USED + 2) != (self._count,):
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._call, self._socket.fileno()], [], [], left)
            if self._socket.fileno() in ready:
                raise NoReply("the daemon has ended the connection")
            if not ready:
                raise NoReply(f"no reply has come within {PATIENCE_S:g} s")
            os.eventfd_read(self._call)
