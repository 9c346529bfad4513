"""The daemon as a process: signals, guests that come and go, what it keeps open."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.vhost_user import Frontend, Request
from tests.frontend.wire import T
from tests.system.share import SECURITY, mounted

FILE_SIZE = 1 << 20


@pytest.fixture(scope="module")
def export(scratch: Path) -> Path:
    export = scratch / "life"
    export.mkdir()
    (export / "file").write_bytes(os.urandom(FILE_SIZE))
    for i in range(200):
        (export / f"entry{i}").touch()
    return export


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    with Daemon("--path", str(export), *SECURITY) as daemon:
        yield daemon


def load(client: Client, root: int, rounds: int = 1) -> None:
    """A ring full of requests of many kinds, none of them waited for."""
    for i in range(rounds):
        name = b"new%d" % i
        fid = client.open(root, b"file", os.O_RDWR)
        directory = client.open(root, [], os.O_RDONLY)
        for j in range(12):
            client.submit(T.READ, fid, 0, 200_000, kick=False)
            client.submit(T.GETATTR, fid, 0x7FF, kick=False)
            client.submit(T.READDIR, directory, 0, 20_000, kick=False)
            client.submit(T.WRITE, fid, 1000 * j, bytes(5000), kick=False)
            client.submit(T.WALK, root, 50_000 + 100 * i + j, [b"file"], kick=False)
            client.submit(T.MKDIR, root, name + b"%d" % j, 0o755, 0, kick=False)
            client.submit(T.UNLINKAT, root, name + b"%d" % j, 0x200, kick=False)
            client.submit(T.FSYNC, fid, 0, kick=False)
        client.ring.kick()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_an_idle_daemon(daemon: Daemon, sign: signal.Signals) -> None:
    daemon.stop(sign)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_a_starting_daemon(export: Path, sign: signal.Signals) -> None:
    """From the moment on that its socket can be seen."""
    daemon = Daemon("--path", str(export), *SECURITY).start(wait=False)
    try:
        daemon.wait_until(lambda: os.path.exists(daemon.socket), "the socket was not made")
        daemon.stop(sign)
    finally:
        daemon.kill()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_a_daemon_under_load(
    daemon: Daemon, export: Path, sign: signal.Signals
) -> None:
    with mounted(daemon, export) as share:
        load(share.client, share.top)
        share.client.reap()
        daemon.stop(sign)


def test_signal_ends_waiting_locks(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        client = share.client
        fid = client.open(share.top, b"file", os.O_RDWR)
        client.lock(fid, 1, proc_id=1)
        client.submit_lock(fid, 1, proc_id=2)
        client.getattr(fid)
        daemon.stop()


def counts(daemon: Daemon) -> dict[str, int]:
    """What must not grow, counted while a new connection has just been answered."""
    frontend = Frontend(daemon.socket)
    frontend.get_features()
    found = {
        "descriptors": daemon.fd_count(),
        "guest mappings": daemon.map_count("guest-ram"),
    }
    frontend.close()
    return found


def repeat(daemon: Daemon, guest: Callable[[], None]) -> None:
    """A guest that comes twenty times leaves nothing behind, whatever the first ones left."""
    for _ in range(3):
        guest()
    before, memory, threads = counts(daemon), daemon.anonymous_kib(), daemon.threads()
    for _ in range(20):
        guest()
    daemon.wait_until(
        lambda: all(now <= before[what] for what, now in counts(daemon).items()),
        f"more than {before} was kept: {counts(daemon)}",
    )
    assert daemon.anonymous_kib() < memory + 4096
    assert daemon.threads() < threads + 20  # a slow disk may call for some, not for one a guest
    daemon.check_output()


def test_guests_killed_under_load_leave_nothing(daemon: Daemon, export: Path) -> None:
    def guest() -> None:
        with mounted(daemon, export) as share:
            load(share.client, share.top)
            share.client.reap()

    repeat(daemon, guest)


def test_guests_that_reboot_under_load_are_served_again(daemon: Daemon, export: Path) -> None:
    """GET_VRING_BASE while requests are in flight: all of them are done when it is answered."""
    with mounted(daemon, export) as share:

        def guest() -> None:
            load(share.client, share.top)
            base = share.machine.stop()
            assert base <= share.machine.ring.avail_idx
            done = share.machine.ring.poll()
            assert share.machine.ring.last_used == base
            share.machine.ring.called()
            for completion in done:
                share.client.finish(completion.head, completion.length)
            share.client.in_flight.clear()
            share.machine.reboot()
            share.client = Client(share.machine)
            share.client.version()
            share.client.attach(share.top)

        for _ in range(3):
            guest()
        before = daemon.fd_count(), daemon.threads(), daemon.map_count("guest-ram")
        for _ in range(20):
            guest()
        assert daemon.fd_count() <= before[0]
        assert daemon.map_count("guest-ram") <= before[2]
        assert daemon.threads() < before[1] + 20


def test_nothing_is_written_after_a_stop(daemon: Daemon, export: Path) -> None:
    """Guest memory and notifications are still once GET_VRING_BASE has been answered."""
    with mounted(daemon, export) as share:
        client, machine = share.client, share.machine
        for _ in range(5):
            load(client, share.top)
            base = machine.stop()
            ring = machine.ring
            seen = ring.memory.read(ring.used, 6 + 8 * ring.size)
            ring.called()
            machine.frontend.get_features()
            assert ring.memory.read(ring.used, 6 + 8 * ring.size) == seen
            assert ring.called() == 0
            assert int.from_bytes(seen[2:4], "little") == base
            machine.start()
            while client.in_flight:
                client.reap()


def leave_at(stage: int, machine: Machine) -> None:
    """A guest's start as far as it gets before it is killed."""
    if stage == 0:
        return
    if stage == 1:
        machine.frontend.send_raw(b"\x01\x00")  # in the middle of a header
        return
    machine.realize()
    if stage == 2:
        return
    machine.send_memory()
    if stage == 3:
        machine.frontend.send(Request.GET_FEATURES)  # whose answer it does not read
        return
    machine.start()
    if stage == 4:
        machine.stop()
    if stage == 5:
        machine.ring.publish(0xFFFF)
        machine.ring.kick(force=True)


def test_guests_that_leave_at_any_stage_leave_nothing(daemon: Daemon) -> None:
    def guest() -> None:
        for stage in range(7):
            with Machine(daemon.socket) as machine:
                leave_at(stage, machine)

    repeat(daemon, guest)


def test_once_serves_one_guest(export: Path) -> None:
    daemon = Daemon("--path", str(export), *SECURITY, "--once")
    with daemon:
        with mounted(daemon, export) as share:
            share.client.getattr(share.top)
        assert daemon.wait() == 0
        assert not os.path.exists(daemon.socket)


def test_an_inherited_listening_socket_is_used(export: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        daemon = Daemon(
            f"--fd={listener.fileno()}", "--path", str(export), *SECURITY,
            socket=False, pass_fds=[listener.fileno()],
        )  # fmt: skip
        listener.bind(daemon.socket)
        listener.listen()
        with daemon:
            for _ in range(2):
                with mounted(daemon, export) as share:
                    share.client.getattr(share.top)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.wait() == 0
            assert os.path.exists(daemon.socket)  # it is not the daemon's to remove
            os.unlink(daemon.socket)


def test_an_inherited_connection_is_served_once(export: Path) -> None:
    """The one connection there will ever be: the daemon ends with it."""
    ours, theirs = socket.socketpair()
    with theirs:
        daemon = Daemon(
            "--fd", str(theirs.fileno()), "--path", str(export), *SECURITY,
            socket=False, pass_fds=[theirs.fileno()],
        ).start(wait=False)  # fmt: skip
    try:
        with Machine(sock=ours) as machine:
            client = Client(machine.boot())
            client.version()
            client.attach(1)
            assert client.getattr(1).nlink > 0
        assert daemon.wait() == 0
        daemon.check_output()
    finally:
        daemon.kill()


def test_stale_socket_is_replaced(export: Path) -> None:
    daemon = Daemon("--path", str(export), *SECURITY)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(daemon.socket)
    with daemon, mounted(daemon, export) as share:
        share.client.getattr(share.top)


def test_one_daemon_serves_two_devices(scratch: Path) -> None:
    """One socket each; a guest's fids and locks are its own."""
    first, second = scratch / "first", scratch / "second"
    first.mkdir()
    second.mkdir()
    (first / "a").write_bytes(b"first")
    (second / "b").write_bytes(b"second")
    daemon = Daemon(socket=False)
    other = str(daemon.directory / "other.sock")
    config = daemon.directory / "vm.yaml"
    config.write_text(
        f"devices:\n"
        f"- socket: {daemon.socket}\n  tag: first\n  path: {first}\n"
        f"  security_model: {SECURITY[1]}\n"
        f"- socket: {other}\n  tag: second\n  path: {second}\n  security_model: {SECURITY[1]}\n"
    )
    daemon.args = ["--config", str(config)]
    with daemon, mounted(daemon, first) as one:
        path, daemon.socket = daemon.socket, other
        with mounted(daemon, second) as two:
            assert one.machine.probe() == "first"
            assert two.machine.probe() == "second"
            assert set(one.client.listing(one.top)) == {b"a"}
            assert set(two.client.listing(two.top)) == {b"b"}
            load_free = two.client.open(two.top, b"b")
            assert two.client.read(load_free, 0, 10) == b"second"
        daemon.socket = path
    assert not os.path.exists(other)
