"""A connection on a real socket, on each kind of event loop."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.machine import Machine
from tests.frontend.vhost_user import (
    CONFIG,
    HEADER,
    NO_FD,
    REGION,
    STATE,
    U64,
    BackendError,
    Frontend,
)
from tests.frontend.vhost_user import Request as R
from tests.vhost_user.conftest import Run, kept_fds
from tests.vhost_user.examples import COMMANDS, FEATURES, FIRST, PROTOCOL, QUERIES
from tests.vhost_user.fake_backend import BASE, FakeBackend, memfds
from vhost9p.device_log import DeviceLog
from vhost9p.native.connection import Connection
from vhost9p.vhost_user.channel import Channel
from vhost9p.vhost_user.descriptors import Closer
from vhost9p.vhost_user.session import Session


class Ends:
    """Both ends of a connection: the frontend's blocking socket, and what makes a channel."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.ours.settimeout(10)
        self.frontend = Frontend(sock=self.ours)
        self.backend = FakeBackend()

    def channel(self) -> Channel:
        connection = Connection()
        connection.begin(self._theirs.detach())
        log = DeviceLog(logging.getLogger("vhost9p"), "vm")
        return Channel(connection, self.backend, log, Closer())

    def serve(self, run: Run, talk: Callable[[], None]) -> None:
        """Runs the channel on a loop while `talk` plays the frontend in a thread, then hangs up."""
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                talk()
            except BaseException as error:
                failures.append(error)
            finally:
                self.ours.close()

        async def main() -> None:
            await self.channel().run()

        thread = threading.Thread(target=guarded)
        thread.start()
        try:
            run(main())
        finally:
            thread.join()
        for failure in failures:
            raise failure


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.ours.close()


def message(number: int, payload: bytes = b"", flags: int = 1) -> bytes:
    return HEADER.pack(number, flags, len(payload)) + payload


def send_with_fds(sock: socket.socket, data: bytes, count: int) -> None:
    fds = memfds(count)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        assert sock.sendmsg([data], rights) == len(data)
    finally:
        for fd in fds:
            os.close(fd)


def test_life_of_a_machine(run: Run, ends: Ends) -> None:
    def talk() -> None:
        with Machine(sock=ends.ours) as machine:
            machine.frontend = ends.frontend
            machine.realize()
            assert machine.probe() == "host0"
            machine.start()
            assert machine.stop() == BASE
            machine.replug()

    ends.serve(run, talk)
    names = ends.backend.names()
    assert names.count("reset") == 3  # an owner each, and the end
    assert names[-1] == "reset"
    session = [name for name in names if name not in ("config_read", "mem_add")]
    assert session[:14] == [
        "reset",
        "ring_set_call",
        "ring_set_err",
        "set_features",
        "ring_set_num",
        "ring_set_base",
        "ring_set_addr",
        "ring_set_kick",
        "ring_set_call",
        "ring_enable",
        "ring_set_call",
        "ring_enable",
        "ring_stop",
        "reset",
    ]


STREAM = b"".join(
    message(example.request, example.payload, 1 | 8)
    for example in [*COMMANDS, *QUERIES]
    if not example.fds
)


def answers_to(run: Run, pieces: list[bytes]) -> bytes:
    """What comes back for a stream in pieces; each is received before the next is sent."""
    ends = Ends()
    got = bytearray()

    def talk() -> None:
        ends.frontend.ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL))
        for piece in pieces:
            ends.ours.sendall(piece)
        ends.ours.shutdown(socket.SHUT_WR)
        while data := ends.ours.recv(4096):
            got.extend(data)

    ends.serve(run, talk)
    return bytes(got)


WHOLE_ANSWER: dict[None, bytes] = {}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 60), max_size=40))
def test_any_split_gives_the_same_answers(cuts: list[int]) -> None:
    if not WHOLE_ANSWER:
        WHOLE_ANSWER[None] = answers_to(asyncio.run, [STREAM])
        assert len(WHOLE_ANSWER[None]) > 200
    pieces, rest = [], STREAM
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert answers_to(asyncio.run, [p for p in [*pieces, rest] if p]) == WHOLE_ANSWER[None]


def test_descriptors_reach_their_messages(run: Run, ends: Ends) -> None:
    """Messages sent at once, some with descriptors: none takes its neighbour's."""

    def talk() -> None:
        ends.frontend.ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL))
        ends.ours.sendall(message(R.SET_VRING_CALL, U64.pack(NO_FD), 9))
        send_with_fds(ends.ours, message(R.SET_VRING_KICK, U64.pack(0), 9), 1)
        ends.ours.sendall(message(R.SET_VRING_ERR, U64.pack(NO_FD), 9))
        call = message(R.SET_VRING_CALL, U64.pack(0), 9)
        ends.ours.sendall(call[:12])
        send_with_fds(ends.ours, call[12:], 1)
        for request in (R.SET_VRING_CALL, R.SET_VRING_KICK, R.SET_VRING_ERR, R.SET_VRING_CALL):
            reply = ends.frontend.receive()
            assert (reply.request, reply.payload) == (request, U64.pack(0))

    ends.serve(run, talk)
    given = [(name, fd is None) for name, fd in ends.backend.calls[:4]]
    assert given == [
        ("ring_set_call", True),
        ("ring_set_kick", False),
        ("ring_set_err", True),
        ("ring_set_call", False),
    ]


@pytest.mark.parametrize("count", [9, 60, 253])
def test_a_message_with_too_many_descriptors_is_refused(run: Run, ends: Ends, count: int) -> None:
    def talk() -> None:
        ends.frontend.ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL))
        for number in (R.SET_OWNER, R.SET_MEM_TABLE, 99):
            send_with_fds(ends.ours, message(number, b"", 9), count)
            reply = ends.frontend.receive()
            assert reply.request == number
            assert reply.payload != U64.pack(0)
        assert ends.frontend.get_features() == FEATURES

    ends.serve(run, talk)
    assert ends.backend.names() == ["reset"]


def test_descriptors_that_were_cut_off_are_missed(run: Run, ends: Ends) -> None:
    """Eight are what the message needs and all that is received of more: yet it is refused."""
    table = struct.pack("=II", 8, 0) + REGION.pack(*FIRST) * 8

    def talk() -> None:
        ends.frontend.ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL))
        for count, code in ((8, 0), (9, errno.EMFILE), (8, 0)):
            send_with_fds(ends.ours, message(R.SET_MEM_TABLE, table, 9), count)
            assert ends.frontend.receive().payload == U64.pack(code)

    ends.serve(run, talk)
    assert ends.backend.names() == ["mem_set_table", "mem_set_table", "reset"]


@pytest.mark.parametrize("length", [0, 1, 11, 12, 19])
def test_hanging_up_in_the_middle_of_a_message(run: Run, ends: Ends, length: int) -> None:
    def talk() -> None:
        if length:
            send_with_fds(ends.ours, message(R.SET_VRING_KICK, U64.pack(0))[:length], 3)

    ends.serve(run, talk)
    assert ends.backend.names() == ["reset"]


def test_monstrous_message_ends_the_connection(
    run: Run, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def talk() -> None:
        assert ends.frontend.get_features() == FEATURES
        send_with_fds(ends.ours, HEADER.pack(R.SET_FEATURES, 1, 1 << 30), 2)
        with pytest.raises(BackendError):
            ends.frontend.receive()

    ends.serve(run, talk)
    assert "vm: hanging up: request 2 claims 1073741824 bytes" in caplog.text
    assert ends.backend.names() == ["reset"]


def test_a_frontend_that_reads_late_loses_no_answer(run: Run, ends: Ends) -> None:
    """Its answers fill the socket, then we stop taking its messages; none is lost."""
    rounds = 3000
    query = message(R.GET_CONFIG, CONFIG.pack(0, 256, 0) + bytes(256))

    def talk() -> None:
        def write() -> None:
            for _ in range(rounds):
                ends.ours.sendall(query)

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(rounds):
            assert len(ends.frontend.receive().payload) == 268
        writer.join()

    ends.serve(run, talk)
    assert ends.backend.names().count("config_read") == rounds


def test_frontend_that_never_reads(run: Run, ends: Ends) -> None:
    def talk() -> None:
        query = message(R.GET_CONFIG, CONFIG.pack(0, 256, 0) + bytes(256))
        ends.ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ends.ours.send(query)

    ends.serve(run, talk)
    assert ends.backend.names()[-1] == "reset"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=100), st.integers(0, 10)), max_size=8))
def test_any_bytes_neither_raise_nor_leak(pieces: list[tuple[bytes, int]]) -> None:
    ends = Ends()

    def talk() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for data, count in pieces:
                send_with_fds(ends.ours, data, count)

    ends.serve(asyncio.run, talk)
    assert ends.backend.names()[-1] == "reset"


# ---- slow devices


Script = Callable[[asyncio.Task[None], threading.Event], Coroutine[Any, Any, None]]


def slowly(run: Run, ends: Ends, script: Script) -> None:
    """Runs a channel whose device waits for an event, and a script beside it on the same loop."""

    async def main() -> None:
        ends.backend.gate = threading.Event()
        task = asyncio.create_task(ends.channel().run())
        await script(task, ends.backend.gate)
        assert task.done()

    run(main())


def test_messages_wait_for_a_slow_one_and_the_loop_does_not(run: Run, ends: Ends) -> None:
    async def script(task: asyncio.Task[None], gate: threading.Event) -> None:
        ends.ours.sendall(message(R.GET_VRING_BASE, STATE.pack(0, 0)))
        ends.ours.sendall(message(R.SET_VRING_NUM, STATE.pack(0, 128)) + message(R.GET_FEATURES))
        await asyncio.to_thread(ends.backend.arrived.wait, 10)
        for _ in range(20):
            await asyncio.sleep(0)
        assert ends.backend.names() == ["ring_stop"]
        gate.set()
        base = await asyncio.to_thread(ends.frontend.receive)
        assert base.payload == STATE.pack(0, BASE)
        features = await asyncio.to_thread(ends.frontend.receive)
        assert features.request == R.GET_FEATURES
        ends.ours.close()
        await task

    slowly(run, ends, script)
    assert ends.backend.names() == ["ring_stop", "ring_set_num", "reset"]


def test_hanging_up_during_a_slow_message(run: Run, ends: Ends) -> None:
    async def script(task: asyncio.Task[None], gate: threading.Event) -> None:
        ends.ours.sendall(message(R.GET_VRING_BASE, STATE.pack(0, 0)))
        await asyncio.to_thread(ends.backend.arrived.wait, 10)
        ends.ours.close()
        gate.set()
        await task

    slowly(run, ends, script)
    assert ends.backend.names() == ["ring_stop", "reset"]


def test_cancellation_waits_for_the_device(run: Run, ends: Ends) -> None:
    async def script(task: asyncio.Task[None], gate: threading.Event) -> None:
        ends.ours.sendall(message(R.GET_VRING_BASE, STATE.pack(0, 0)))
        await asyncio.to_thread(ends.backend.arrived.wait, 10)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.001)
        assert ends.backend.names() == ["ring_stop"]
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    slowly(run, ends, script)
    assert ends.backend.names() == ["ring_stop", "reset"]
    assert ends.backend.finished == 2


def test_cancellation_waits_for_the_reset(run: Run, ends: Ends) -> None:
    async def script(task: asyncio.Task[None], gate: threading.Event) -> None:
        ends.ours.close()
        await asyncio.to_thread(ends.backend.arrived.wait, 10)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.001)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    slowly(run, ends, script)
    assert ends.backend.names() == ["reset"]
    assert ends.backend.finished == 1


@pytest.mark.parametrize("length", [0, 5])
def test_cancellation_while_nothing_happens(run: Run, ends: Ends, length: int) -> None:
    async def script(task: asyncio.Task[None], gate: threading.Event) -> None:
        gate.set()
        send_with_fds(ends.ours, message(R.GET_FEATURES)[: length or 12], 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    slowly(run, ends, script)
    assert ends.backend.names() == ["reset"]


def test_abandoned_tells_a_dead_frontend_from_a_live_one(run: Run, ends: Ends) -> None:
    async def main() -> None:
        ends.backend.gate = threading.Event()
        channel = ends.channel()
        task = asyncio.create_task(channel.run())
        ends.ours.sendall(message(R.GET_VRING_BASE, STATE.pack(0, 0)) + message(R.GET_FEATURES))
        await asyncio.to_thread(ends.backend.arrived.wait, 10)
        assert not channel.abandoned
        ends.ours.close()
        assert channel.abandoned  # with a message unread and one in hand
        ends.backend.gate.set()
        await task
        assert channel.abandoned

    run(main())


def test_device_that_cannot_be_reset(
    run: Run, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends.backend.errors["reset"] = RuntimeError("a mistake")
    ends.serve(run, lambda: None)
    assert "could not be reset" in caplog.text


def test_coming_and_going_is_logged(run: Run, ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = kept_fds()
    ends.serve(run, lambda: None)
    assert [record.message for record in caplog.records if record.name.startswith("vhost9p")] == [
        "vm: connected",
        "vm: disconnected",
    ]
    assert kept_fds() < before


def test_a_thread_that_cannot_be_had(
    run: Run, ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The host has a limit of threads. Nothing was set up: the frontend is disconnected."""
    ends.ours.sendall(message(R.GET_FEATURES))
    caplog.set_level(logging.INFO)

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", fail)
        await ends.channel().run()

    run(main())
    with pytest.raises(ConnectionResetError):
        ends.ours.recv(1)
    assert "connection lost: no thread can be started: can't start new thread" in caplog.text
    assert "Traceback" not in caplog.text


def test_abandoned_is_not_asked_of_a_descriptor_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection's thread takes it away meanwhile: a new frontend must not be turned away."""
    ends = Ends()
    channel = ends.channel()
    ends.ours.close()
    poll, taking = select.poll, threading.Thread(target=channel._close_socket, args=[os.close])

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()

        def register(self, fd: int, events: int) -> None:
            self._poll.register(fd, events)
            taking.start()
            taking.join(0.2)  # as long as it would need, were it not to wait

        def poll(self, timeout: int) -> list[tuple[int, int]]:
            return self._poll.poll(timeout)

    monkeypatch.setattr(select, "poll", Poll)
    assert channel.abandoned
    taking.join()
    monkeypatch.undo()
    assert channel.abandoned


def test_an_end_that_fails(
    run: Run, ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is, it stays with this connection, and the rest of the end is made."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Session, "close", fail)
    ends.serve(run, lambda: None)
    assert ends.backend.names() == []
    assert "the end of the connection failed" in caplog.text
