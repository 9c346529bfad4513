"""Fuzzes what a frontend sends: bytes and descriptors through a socket, messages into a session.

An input is a list of messages: half of them are of a known request, with a payload of its size and
mostly as many descriptors as it may have; the others are any bytes. They arrive cut up anyhow, with
descriptors of all kinds. Nothing but VhostUserError may be raised, and that inside the session; a
message gets a reply of its number if it has one or asks for an acknowledgement, and else none; and
every descriptor is closed once.
"""

from __future__ import annotations

import array
import logging
import os
import socket
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["vhost9p.vhost_user"]):
    from vhost9p.vhost_user import messages
    from vhost9p.vhost_user.framing import BrokenStream, message_of, missing
    from vhost9p.vhost_user.session import Session

from tests.fuzz import engine
from tests.vhost_user.fake_backend import FakeBackend
from vhost9p.device_log import DeviceLog
from vhost9p.native.connection import Connection

PIECE = 64
"""The largest number of bytes that arrive together."""
REQUESTS = list(messages.Request)


def make(kind: int) -> int:
    """A descriptor of memory, an event, a pipe, a socket, a file."""
    if kind == 0:
        return os.memfd_create("memory")
    if kind == 1:
        return os.eventfd(0)
    if kind == 2:
        fd, other = os.pipe()
        os.close(other)
        return fd
    if kind == 3:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours.detach()
    return os.open("/dev/null", os.O_RDONLY)


def message(choices: atheris.FuzzedDataProvider) -> tuple[bytes, int]:
    """The bytes of one message, and how many descriptors come with it: of a known request, nearly
    right; or any."""
    how = choices.ConsumeIntInRange(0, 255)
    fds = choices.ConsumeIntInRange(0, 10)
    if how & 1:
        return bytes(choices.ConsumeBytes(PIECE)), fds
    request = REQUESTS[how // 2 % len(REQUESTS)]
    size, wrong = _size(request), choices.ConsumeIntInRange(0, 7)
    payload = bytes(choices.ConsumeBytes(size)).ljust(size, b"\0")
    if wrong == 7:
        payload += bytes(choices.ConsumeBytes(8))
    flags = messages.VERSION | choices.ConsumeIntInRange(0, 1) * messages.NEED_REPLY_FLAG
    if wrong == 6:
        flags = choices.ConsumeIntInRange(0, 15)
    if wrong != 5:
        fds = request.fds[fds % len(request.fds)]
    return messages.HEADER.pack(request.number, flags, len(payload)) + payload, fds


def _size(request: messages.Request) -> int:
    """A length that a payload of the request may have."""
    payload = request.payload
    if issubclass(payload, messages.Fixed):
        return payload.LAYOUT.size
    if payload is messages.RingFd:
        return messages.U64.LAYOUT.size
    if payload is messages.Config:
        return messages.Config.HEAD.size + 8
    return 8 + messages.MemoryRegion.LAYOUT.size


def put(frontend: socket.socket, data: bytes, fds: list[int]) -> None:
    """Sends a piece of a message, and the frontend's descriptors."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with suppress(OSError):  # the other end may be shut down: it was sent as a descriptor
        frontend.sendmsg([data], rights)
    for fd in fds:
        os.close(fd)


def step(connection: Connection, session: Session, frontend: socket.socket) -> bool:
    """Handles a message, if it is whole, as a channel does."""
    try:
        while size := missing(connection.data):
            if not connection.receive(size):
                return False
    except BlockingIOError:
        return False
    asked, before = message_of(connection), connection.protocol_features
    reply = session.handle(asked)
    check_reply(asked, reply, before | connection.protocol_features)
    connection.send()
    if reply:
        assert frontend.recv(len(reply) + 1) == reply
    return True


def send(
    connection: Connection,
    session: Session,
    frontend: socket.socket,
    choices: atheris.FuzzedDataProvider,
) -> None:
    """Sends one message in pieces, and has the session handle what comes of it."""
    data, count = message(choices)
    fds = [make(choices.ConsumeIntInRange(0, 4)) for _ in range(count)]
    while data:
        piece = choices.ConsumeIntInRange(1, PIECE)
        put(frontend, data[:piece], fds)
        data, fds = data[piece:], []
        while step(connection, session, frontend):
            pass
    for fd in fds:  # no byte to send them with
        os.close(fd)


def check_reply(asked: messages.Message, reply: bytes, protocol_features: int) -> None:
    """The frontend waits for exactly this many bytes, or for none."""
    acknowledges = asked.needs_reply and protocol_features >> messages.REPLY_ACK_BIT & 1
    request = messages.Request.find(asked.number)
    has_reply = request is not None and request.has_reply
    assert bool(reply) == bool(has_reply or acknowledges)
    if reply:
        size = len(reply) - messages.HEADER.size
        assert messages.HEADER.unpack_from(reply) == (asked.number, 5, size)
        assert has_reply or size == messages.U64.LAYOUT.size


def once(data: bytes) -> None:
    """One input: one connection."""
    choices = atheris.FuzzedDataProvider(data)
    before = os.listdir("/proc/self/fd")
    frontend, backend = socket.socketpair()
    backend.setblocking(False)
    CONNECTION.begin(backend.detach())
    session = Session(FakeBackend(), CONNECTION, DeviceLog(logging.getLogger("fuzz"), "fuzz"))
    with suppress(BrokenStream):
        while choices.remaining_bytes():
            send(CONNECTION, session, frontend, choices)
    CONNECTION.end()
    for fd in CONNECTION.take_fds():
        os.close(fd)
    session.close()
    os.close(CONNECTION.take_fd())
    CONNECTION.ended()
    frontend.close()
    assert os.listdir("/proc/self/fd") == before


CONNECTION = Connection()

if __name__ == "__main__":
    engine.fuzz(__file__, once)
