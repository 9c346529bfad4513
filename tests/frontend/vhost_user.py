"""The frontend's half of vhost-user: messages on the socket, and what a VMM may send.

Source: QEMU's docs/interop/vhost-user.rst. A message is a header {u32 request, u32 flags,
u32 size} in native byte order and a payload, with up to eight descriptors beside it. Flags hold
the version (1) in bits 0-1, "this is a reply" in bit 2 and "need reply" in bit 3. A request
either has a reply of its own, or, where REPLY_ACK is negotiated and bit 3 is set, an u64 that
is 0 on success.

`Frontend` knows single messages only; the order in which a VMM sends them is in machine.py.
"""

from __future__ import annotations

import array
import errno
import socket
import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tests.frontend import PATIENCE
from tests.frontend.memory import Region

HEADER = struct.Struct("=III")
U64 = struct.Struct("=Q")
STATE = struct.Struct("=II")
ADDRESSES = struct.Struct("=IIQQQQ")
REGION = struct.Struct("=QQQQ")
CONFIG = struct.Struct("=III")

VERSION = 1
REPLY_FLAG = 1 << 2
NEED_REPLY_FLAG = 1 << 3
NO_FD = 1 << 8  # in the u64 of SET_VRING_KICK, CALL and ERR
MAX_FDS = 8

NOTIFY_ON_EMPTY_BIT = 24
INDIRECT_BIT = 28
EVENT_IDX_BIT = 29
PROTOCOL_FEATURES_BIT = 30
VERSION_1_BIT = 32
RING_PACKED_BIT = 34


class Request(IntEnum):
    """Requests of the frontend."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


class Protocol(IntEnum):
    """Bits of the protocol features."""

    MQ = 0
    REPLY_ACK = 3
    BACKEND_REQ = 5
    CONFIG = 9
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


class BackendError(Exception):
    """The backend acknowledged a request with a non-zero value, or broke the protocol."""


class Message(NamedTuple):
    """One message as it came from the backend."""

    request: int
    flags: int
    payload: bytes


class Frontend:
    """One connection to a backend. `protocol` holds the negotiated protocol feature bits."""

    def __init__(self, path: str | None = None, sock: socket.socket | None = None) -> None:
        self.path = path or ""
        self.socket = sock or _connect(self.path)
        self.socket.settimeout(PATIENCE)
        self.protocol = 0

    def close(self) -> None:
        self.socket.close()

    def has(self, bit: Protocol) -> bool:
        return bool(self.protocol >> bit & 1)

    # ---- raw messages

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends bytes as they are: for malformed messages."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.socket.sendmsg([data], ancillary)
            if sent < len(data):
                self.socket.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise BackendError("the backend has closed the connection") from error

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        need_reply: bool = False,
        flags: int = VERSION,
    ) -> None:
        """Sends one message and waits for nothing."""
        if need_reply:
            flags |= NEED_REPLY_FLAG
        self.send_raw(HEADER.pack(request, flags, len(payload)) + payload, fds)

    def receive(self) -> Message:
        """Receives one message. Raises BackendError when the backend has closed the socket."""
        request, flags, size = HEADER.unpack(self._exactly(HEADER.size))
        return Message(request, flags, self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise BackendError("the backend has closed the connection")
            data += part
        return data

    def query(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        need_reply: bool = False,
    ) -> bytes:
        """Sends a request that has a reply of its own and returns the reply's payload."""
        self.send(request, payload, fds, need_reply=need_reply)
        reply = self.receive()
        if reply.request != request or reply.flags != VERSION | REPLY_FLAG:
            raise BackendError(f"reply to {request} has header {reply[:2]}")
        return reply.payload

    def ack(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Sends a request with need_reply and returns the value of the acknowledgement."""
        return int(U64.unpack(self.query(request, payload, fds, need_reply=True))[0])

    def command(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a request without a reply of its own, acknowledged where that is negotiated."""
        if not self.has(Protocol.REPLY_ACK):
            self.send(request, payload, fds)
        elif code := self.ack(request, payload, fds):
            raise BackendError(f"request {request} was refused with {code}")

    def query_u64(self, request: int) -> int:
        return int(U64.unpack(self.query(request))[0])

    def silent(self) -> bool:
        """Whether nothing unread lies in the socket after the backend has answered all before.

        GET_FEATURES is answered after everything that was sent before it; so its reply comes
        first exactly when the backend had nothing else to say.
        """
        self.send(Request.GET_FEATURES)
        return self.receive().request == Request.GET_FEATURES

    # ---- requests

    def get_features(self) -> int:
        return self.query_u64(Request.GET_FEATURES)

    def set_features(self, features: int) -> None:
        self.command(Request.SET_FEATURES, U64.pack(features))

    def get_protocol_features(self) -> int:
        return self.query_u64(Request.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, bits: int) -> None:
        """Sent without need_reply: acknowledgements are not negotiated before it."""
        self.send(Request.SET_PROTOCOL_FEATURES, U64.pack(bits))
        self.protocol = bits

    def get_config(self, offset: int, size: int, flags: int = 0) -> bytes:
        """Reads config space; the reply has the request's size and offset."""
        request = CONFIG.pack(offset, size, flags) + bytes(size)
        reply = self.query(Request.GET_CONFIG, request)
        if not reply:
            raise BackendError("GET_CONFIG was refused")
        if len(reply) != len(request) or CONFIG.unpack_from(reply)[:2] != (offset, size):
            raise BackendError(f"GET_CONFIG({offset}, {size}) was answered by {reply[:12]!r}")
        return reply[CONFIG.size :]

    def set_mem_table(self, regions: Sequence[Region]) -> None:
        payload = struct.pack("=II", len(regions), 0)
        payload += b"".join(_region(region) for region in regions)
        self.command(Request.SET_MEM_TABLE, payload, [region.memfd.fd for region in regions])

    def add_mem_reg(self, region: Region) -> None:
        self.command(Request.ADD_MEM_REG, U64.pack(0) + _region(region), [region.memfd.fd])

    def rem_mem_reg(self, region: Region, *, with_fd: bool = False) -> None:
        fds = [region.memfd.fd] if with_fd else []
        self.command(Request.REM_MEM_REG, U64.pack(0) + _region(region), fds)

    def set_vring_num(self, num: int, index: int = 0) -> None:
        self.command(Request.SET_VRING_NUM, STATE.pack(index, num))

    def set_vring_base(self, base: int, index: int = 0) -> None:
        self.command(Request.SET_VRING_BASE, STATE.pack(index, base))

    def get_vring_base(self, index: int = 0) -> int:
        payload = self.query(Request.GET_VRING_BASE, STATE.pack(index, 0))
        got, base = STATE.unpack(payload)
        if got != index:
            raise BackendError(f"GET_VRING_BASE({index}) was answered for ring {got}")
        return int(base)

    def set_vring_addr(self, desc: int, used: int, avail: int, index: int = 0) -> None:
        """Ring addresses, in the frontend's address space (uva)."""
        self.command(Request.SET_VRING_ADDR, ADDRESSES.pack(index, 0, desc, used, avail, 0))

    def set_vring_fd(self, request: Request, fd: int | None, index: int = 0) -> None:
        """SET_VRING_KICK, CALL or ERR; None sends the no-descriptor bit."""
        value = index | (NO_FD if fd is None else 0)
        self.command(request, U64.pack(value), [] if fd is None else [fd])

    def set_vring_enable(self, enable: bool, index: int = 0) -> None:
        self.command(Request.SET_VRING_ENABLE, STATE.pack(index, int(enable)))


def _region(region: Region) -> bytes:
    return REGION.pack(region.gpa, region.size, region.uva, region.mmap_offset)


def _connect(path: str, patience: float = PATIENCE) -> socket.socket:
    """Connects; a socket that is bound but does not listen yet is tried again."""
    deadline = time.monotonic() + patience
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            if error.errno != errno.ECONNREFUSED or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return sock
