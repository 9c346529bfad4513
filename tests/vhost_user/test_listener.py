"""Paths, inherited descriptors, and frontends that come at the same time."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.vhost_user import HEADER, STATE, BackendError, Frontend
from tests.frontend.vhost_user import Request as R
from tests.vhost_user.conftest import Run
from tests.vhost_user.examples import FEATURES
from tests.vhost_user.fake_backend import FakeBackend
from vhost9p.native.connection import Connection
from vhost9p.vhost_user import listener as listener_module
from vhost9p.vhost_user.listener import Listener, ListenError


@pytest.fixture
def path() -> Iterator[str]:
    """In a short directory: a socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="v9-") as directory:
        yield f"{directory}/s"


def unix_socket(kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    return socket.socket(socket.AF_UNIX, kind)


# ---- paths


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_socket_has_the_mode_that_was_asked_for(path: str, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        listener = Listener.bind(path, mode)
    finally:
        os.umask(old)
    status = os.lstat(path)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == mode
    listener.close()


def test_only_the_owner_may_connect_unless_configured(path: str) -> None:
    listener = Listener.bind(path)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    listener.close()
    assert not os.path.lexists(path)
    listener.close()


def test_stale_socket_is_replaced(path: str) -> None:
    with unix_socket() as stale:
        stale.bind(path)
        stale.listen()
    listener = Listener.bind(path)
    with unix_socket() as client:
        client.connect(path)
    listener.close()
    assert not os.path.lexists(path)


def test_two_find_a_stale_socket_at_the_same_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first is between the try and its own socket."""
    with unix_socket() as stale:
        stale.bind(path)
    second: list[str] = []

    def come_second() -> None:
        try:
            Listener.bind(path).close()
            second.append("took the path")
        except ListenError as error:
            second.append(str(error))

    thread = threading.Thread(target=come_second)
    clear = listener_module._clear

    def clear_slowly(path: str) -> None:
        clear(path)
        if not thread.ident:
            thread.start()
            thread.join(0.3)  # it cannot come through; where it does, it is over by then

    monkeypatch.setattr(listener_module, "_clear", clear_slowly)
    first = Listener.bind(path)
    thread.join()
    assert second == [f"{path} is in use: another process listens there"]
    first.close()


@pytest.mark.parametrize("full", [False, True])
def test_live_socket_is_refused(path: str, full: bool) -> None:
    with unix_socket() as live, unix_socket() as waiting:
        live.bind(path)
        live.listen(0)
        if full:
            waiting.connect(path)
        before = os.lstat(path).st_ino
        with pytest.raises(ListenError, match=f"{path} is in use"):
            Listener.bind(path)
        assert os.lstat(path).st_ino == before


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_what_is_no_socket_is_left_alone(path: str, kind: str) -> None:
    makers: dict[str, Callable[[], object]] = {
        "file": lambda: Path(path).write_text("data"),
        "directory": lambda: os.mkdir(path),
        "link": lambda: os.symlink("/nowhere", path),
        "fifo": lambda: os.mkfifo(path),
    }
    makers[kind]()
    before = os.lstat(path)
    with pytest.raises(ListenError, match=f"{path} exists and is not a socket"):
        Listener.bind(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_socket_of_another_kind_is_left_alone(path: str) -> None:
    with unix_socket(socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ListenError, match=path):
            Listener.bind(path)
    assert os.path.lexists(path)


def test_impossible_paths_are_refused(path: str) -> None:
    for bad, text in (
        (path + "x" * 120, "107 bytes"),
        (os.path.dirname(path) + "/none/s", "none/s: there is no directory"),
        ("", "no path"),
        ("/tmp/a\0b", "NUL"),
    ):
        with pytest.raises(ListenError, match=text):
            Listener.bind(bad)


@pytest.mark.parametrize("error", [OSError(1, "not allowed"), KeyboardInterrupt()], ids=repr)
def test_bind_that_fails_leaves_nothing(
    path: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert os.path.lexists(path)
        raise error

    monkeypatch.setattr(os, "chown", fail)
    with pytest.raises((ListenError, KeyboardInterrupt)):
        Listener.bind(path, group=os.getegid())
    assert not os.path.lexists(path)


def test_the_longest_path_is_bound(path: str) -> None:
    longest = path + "x" * (107 - len(path))
    listener = Listener.bind(longest)
    with unix_socket() as client:
        client.connect(longest)
    listener.close()


def test_close_removes_its_own_socket_only(path: str) -> None:
    listener = Listener.bind(path)
    os.unlink(path)
    with unix_socket() as other:
        other.bind(path)
        listener.close()
        assert os.path.lexists(path)


def test_close_when_the_socket_is_gone_already(path: str) -> None:
    listener = Listener.bind(path)
    os.unlink(path)
    listener.close()


def test_close_after_a_change_of_directory(path: str) -> None:
    before = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        listener = Listener.bind("s")
        os.chdir("/")
        listener.close()
    finally:
        os.chdir(before)
    assert not os.path.lexists(path)


# ---- inherited descriptors


def refused(fd: int, text: str) -> None:
    """The descriptor stays its owner's."""
    with pytest.raises(ListenError, match=text):
        Listener.inherit(fd)


def test_descriptors_that_cannot_be_served() -> None:
    with open(os.devnull, "rb") as file:
        refused(file.fileno(), f"--fd {file.fileno()} is not a socket")
        file.read(1)
    for fd in (12345, -1):
        refused(fd, str(fd))
    with unix_socket() as fresh:
        refused(fresh.fileno(), "neither listens nor is connected")
        fresh.getsockname()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        refused(one.fileno(), "unix stream")
        one.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as network:
        refused(network.fileno(), "unix stream")
        network.getsockname()


def test_inherited_descriptor_is_not_passed_on(path: str) -> None:
    with unix_socket() as sock:
        sock.bind(path)
        sock.listen()
        fd = os.dup(sock.fileno())
        os.set_inheritable(fd, True)
        listener = Listener.inherit(fd)
        inheritable, name = os.get_inheritable(fd), listener.name
        listener.close()
        assert not inheritable
        assert name == f"--fd {fd}"
    assert os.path.lexists(path)


def test_inherited_connection_is_served_once(run: Run) -> None:
    ours, theirs = socket.socketpair()
    backend = FakeBackend()

    async def main() -> None:
        listener = Listener.inherit(theirs.detach())
        serving = asyncio.create_task(listener.serve(backend, Connection()))
        assert await asyncio.to_thread(Frontend(sock=ours).get_features) == FEATURES
        ours.close()
        await serving
        listener.close()

    run(main())
    assert backend.names() == ["reset"]


# ---- connections


def serving(
    run: Run,
    path: str,
    script: Callable[[FakeBackend, asyncio.Task[None]], Coroutine[Any, Any, None]],
    *,
    once: bool = False,
    inherit: bool = False,
) -> FakeBackend:
    """Serves `path` while the script runs, then stops."""
    backend = FakeBackend()

    async def main() -> None:
        listener = Listener.bind(path)
        if inherit:
            listener = Listener.inherit(listener._socket.detach())
        task = asyncio.create_task(listener.serve(backend, Connection(), once=once))
        try:
            async with asyncio.timeout(20):
                await script(backend, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            listener.close()

    run(main())
    return backend


async def features(frontend: Frontend) -> int:
    return await asyncio.to_thread(frontend.get_features)


async def connect(path: str) -> Frontend:
    return await asyncio.to_thread(Frontend, path)


@pytest.mark.parametrize("inherit", [False, True])
def test_one_frontend_after_the_other(run: Run, path: str, inherit: bool) -> None:
    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        for _ in range(3):
            frontend = await connect(path)
            assert await features(frontend) == FEATURES
            frontend.close()

    backend = serving(run, path, script, inherit=inherit)
    assert backend.names() == ["reset"] * 3


def test_second_frontend_is_hung_up_on(
    run: Run, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        first = await connect(path)
        assert await features(first) == FEATURES
        for _ in range(2):
            second = await connect(path)
            with pytest.raises((BackendError, ConnectionError)):
                await features(second)
            second.close()
            assert await features(first) == FEATURES
        first.close()

    backend = serving(run, path, script)
    assert caplog.text.count("second frontend") == 2
    assert backend.names() == ["reset"]


def test_next_frontend_waits_while_the_device_is_being_reset(run: Run, path: str) -> None:
    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        backend.gate = threading.Event()
        first = await connect(path)
        base = HEADER.pack(R.GET_VRING_BASE, 1, 8) + STATE.pack(0, 0)
        first.send_raw(base + HEADER.pack(R.GET_FEATURES, 1, 0))
        await asyncio.to_thread(backend.arrived.wait, 10)
        first.close()  # killed while its ring was being stopped
        second = await connect(path)
        asked = asyncio.create_task(features(second))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not asked.done()
        backend.gate.set()
        assert await asked == FEATURES
        second.close()

    backend = serving(run, path, script)
    assert backend.names() == ["ring_stop", "reset", "reset"]


def test_once_serves_one_frontend(run: Run, path: str) -> None:
    """A connection without a message, as of one who tries whether somebody listens, counts not."""

    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        (await connect(path)).close()
        with pytest.raises(ListenError):
            Listener.bind(path)
        while True:  # the probes above may still be connected
            frontend = await connect(path)
            try:
                assert await features(frontend) == FEATURES
                break
            except (BackendError, ConnectionError):
                frontend.close()
        frontend.close()
        await task

    serving(run, path, script, once=True)


def test_a_connection_that_a_dead_worker_has_accepted_is_found(path: str) -> None:
    """And nothing else: neither a client, nor what another listener has accepted."""
    listener, other = Listener.bind(path), Listener.bind(path + "2")
    connection = Connection()
    listener.adopt(connection)
    assert not connection.is_live
    with unix_socket() as client, unix_socket() as gone, unix_socket() as stranger:
        stranger.connect(path + "2")
        gone.connect(path)
        with other._socket.accept()[0], listener._socket.accept()[0]:
            gone.close()
            client.connect(path)
            listener.adopt(connection)
            assert not connection.is_live
            with listener._socket.accept()[0] as accepted:
                listener.adopt(connection)
                assert connection.is_live
                assert connection.descriptors() == [accepted.fileno()]
                other.adopt(connection)
                assert connection.fd == accepted.fileno()
                connection.forget()
    listener.close()
    other.close()


@pytest.mark.parametrize("messages", [0, 1])
def test_once_is_over_for_the_next_worker_too(run: Run, path: str, messages: int) -> None:
    connection = Connection()
    connection.begin(unix_socket().detach())
    for _ in range(messages):
        connection.received(0)
        connection.handled(b"")
        connection.send()
    connection.end()
    os.close(connection.take_fd())
    connection.ended()

    async def main() -> None:
        listener = Listener.bind(path)
        serving = asyncio.create_task(listener.serve(FakeBackend(), connection, once=True))
        await asyncio.wait([serving], timeout=0.01)
        assert serving.done() == bool(messages)
        serving.cancel()
        await asyncio.wait([serving])
        listener.close()

    run(main())


def test_a_connected_socket_is_not_served_again(run: Run) -> None:
    connection = Connection()
    ours, theirs = socket.socketpair()
    ours.close()
    listener = Listener.inherit(os.dup(theirs.fileno()))
    backend = FakeBackend()

    async def main() -> None:
        await listener.serve(backend, connection)
        await Listener.inherit(theirs.detach()).serve(backend, connection)

    run(main())
    assert backend.names() == ["reset"]


def test_stopping_while_a_frontend_is_connected(run: Run, path: str) -> None:
    frontends = []

    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        frontends.append(await connect(path))
        await features(frontends[0])

    assert serving(run, path, script).names() == ["reset"]
    assert not os.path.lexists(path)
    with pytest.raises(BackendError):
        frontends[0].receive()
    frontends[0].close()


def test_a_connection_that_cannot_be_accepted_is_tried_again(
    run: Run, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that cannot be accepted is tried again."""
    import resource

    async def script(backend: FakeBackend, task: asyncio.Task[None]) -> None:
        frontend = await connect(path)
        assert await features(frontend) == FEATURES
        frontend.close()
        while backend.names() != ["reset"]:
            await asyncio.sleep(0.001)
        late = unix_socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Below this limit all three numbers are taken, whatever another thread closes.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            late.connect(path)
            while "cannot accept" not in caplog.text:
                await asyncio.sleep(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await features(Frontend(sock=late)) == FEATURES
        late.close()

    serving(run, path, script)
