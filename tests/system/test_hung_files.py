"""Files whose server is gone: what hangs on them holds up nothing but itself.

A VMM waits for GET_VRING_BASE and for changes of its memory in its main loop: they have to be
answered while host files hang. What such a request completes later must not reach the guest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend import PATIENCE, wire
from tests.frontend.client import SET_SIZE, Client, Ticket
from tests.frontend.copied import wait_for_copies
from tests.frontend.daemon import Daemon
from tests.frontend.memory import GIB, MIB, PAGE
from tests.frontend.wire import T, encode
from tests.system.share import SECURITY, UNSHARE, Share, mounted, remount, skip_without_namespaces
from vhost9p.copies import PAUSE_S
from vhost9p.inventory import Inventory
from vhost9p.native.process import take_descriptor

COUNT = 65536
THREADS_MAX = 64
"""Of a device that serve (V9_THREADS_MAX)."""


class Hung:
    """A guest of an export whose directory `gone` hangs until `release`."""

    def __init__(self, share: Share, control: int, export: Path) -> None:
        self.share = share
        self.export = export
        self._control = control
        self.released = False

    def open(self) -> int:
        return self.share.client.open(self.share.top, (b"gone", b"hung"), os.O_RDWR)

    def release(self) -> None:
        self.released = True
        os.write(self._control, b"x")

    def held(self) -> bool:
        """Whether the daemon still holds the file open: some request on it is not over."""
        return any(link.endswith("/gone/hung") for link in self.share.daemon.fds().values())


@contextlib.contextmanager
def hanging(
    export: Path, config: Path | None = None, *more: str, what: str = "requests"
) -> Iterator[Hung]:
    """A guest of `export`, whose directory `gone` hangs (`what` of it: see hung_files.py). The
    device that it has is the first of `config`, or the only one."""
    skip_without_namespaces()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    (export / "gone").mkdir(parents=True)
    (export / "file").write_bytes(b"data")
    theirs, ours = os.pipe()
    wrapper = [*UNSHARE, sys.executable, "-m", "tests.system.hung_files"]
    wrapper += [str(export / "gone"), str(theirs), what]
    args = ["--config", str(config)] if config else ["--path", str(export), *SECURITY]
    args += [] if config else ["--multidevs", "remap", *more]
    daemon = Daemon(*args, socket=not config, wrapper=wrapper, pass_fds=[theirs])
    if config:
        daemon.socket = str(config.parent / "0")
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, ours)
        undo.enter_context(daemon)
        os.close(theirs)
        share = undo.enter_context(mounted(daemon, export))
        hung = Hung(share, ours, export)
        yield hung
        if not hung.released:
            hung.release()
        daemon.check_output()


@pytest.fixture
def hung(scratch: Path, tmp_path: Path) -> Iterator[Hung]:
    with hanging(scratch / f"hung-{tmp_path.name}") as hung:
        yield hung


@pytest.fixture
def two(scratch: Path, tmp_path: Path) -> Iterator[tuple[Hung, Share]]:
    """The same, and a guest of another device of the same daemon."""
    sockets = tempfile.mkdtemp(prefix="v9-")
    exports = [scratch / f"hung-{tmp_path.name}-{i}" for i in range(2)]
    config = Path(sockets) / "config.yaml"
    config.write_text(
        "devices:\n"
        + "".join(
            f"  - {{socket: {sockets}/{i}, tag: t{i}, path: {export}, multidevs: remap,"
            f" security_model: {SECURITY[1]}}}\n"
            for i, export in enumerate(exports)
        )
    )
    exports[1].mkdir()
    (exports[1] / "file").write_bytes(b"data")
    with hanging(exports[0], config) as hung:
        first = hung.share.daemon.socket
        hung.share.daemon.socket = f"{sockets}/1"
        with mounted(hung.share.daemon, exports[1]) as other:
            hung.share.daemon.socket = first
            yield hung, other
    shutil.rmtree(sockets)


def serves(share: Share) -> None:
    """Requests of C and of Python are answered."""
    client = share.client
    assert client.getattr(share.top).nlink > 0
    client.mkdir(share.top, b"new")
    client.unlinkat(share.top, b"new", 0x200)
    fid = client.open(share.top, b"file")
    assert client.read(fid, 0, 10) == b"data"
    client.fsync(fid)
    client.clunk(fid)


HANGERS: dict[str, Callable[[Client, int], Ticket]] = {
    "read": lambda c, fid: c.submit(T.READ, fid, 0, COUNT),
    "write": lambda c, fid: c.submit(T.WRITE, fid, 0, bytes(COUNT)),
    "fsync": lambda c, fid: c.submit(T.FSYNC, fid, 0),
    "setattr": lambda c, fid: c.submit(T.SETATTR, fid, SET_SIZE, *[0] * 8),
}


@pytest.mark.parametrize("kind", HANGERS)
def test_other_requests_go_on_while_some_hang(hung: Hung, kind: str) -> None:
    """Each of several that hang takes a thread along; there are others."""
    client = hung.share.client
    fid = hung.open()
    tickets = [HANGERS[kind](client, fid) for _ in range(6)]
    serves(hung.share)
    assert not any(ticket.reply for ticket in tickets)
    hung.release()
    for ticket in tickets:
        fields = client.wait(ticket).fields
        assert kind != "read" or fields[0] == b"h" * COUNT


@pytest.mark.parametrize("kind", HANGERS)
def test_the_other_device_goes_on(two: tuple[Hung, Share], kind: str) -> None:
    """Whatever a guest has hanging, and in whatever number, another one does not wait for it."""
    hung, other = two
    fid = hung.open()
    tickets = [HANGERS[kind](hung.share.client, fid) for _ in range(100)]
    for _ in range(3):
        serves(other)
        other.machine.frontend.get_features()
    remount(other)
    serves(other)
    assert not any(ticket.reply for ticket in tickets)
    hung.release()
    for ticket in tickets:
        hung.share.client.wait(ticket)


def test_what_a_worker_lists_does_not_hold_up_main(scratch: Path) -> None:
    """A worker that was taken over lists a file whose close hangs. Each process that main creates
    closes main's descriptors."""
    with hanging(scratch / "hung-listed", what="close") as hung:
        daemon = hung.share.daemon
        wait_for_copies(daemon)
        hung.open()
        hung_fds = [fd for fd in daemon.fds() if hangs_at_close(daemon.worker, fd)]
        assert hung_fds
        with inventory_of(daemon) as inventory:
            listed = inventory.read(0)
            assert listed
            said = "its worker lists what no session has"
            deadline = time.monotonic() + PATIENCE
            while said not in daemon.output:
                inventory.write(0, [*listed.fds, *hung_fds], anew=True)
                time.sleep(PAUSE_S)
                assert time.monotonic() < deadline
        assert not any(hangs_at_close(daemon.pid, fd) for fd in fds_of(daemon.pid))
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.wait_line("INFO: upgraded from version ")
        serves(hung.share)


def fds_of(pid: int) -> list[int]:
    return [int(each) for each in os.listdir(f"/proc/{pid}/fd")]


def hangs_at_close(pid: int, fd: int) -> bool:
    """Whether it is the hanging file, and no O_PATH descriptor of it, whose close asks nobody."""
    try:
        info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
        link = os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return False
    flags = int(info.split("flags:\t")[1].split()[0], 8)
    return link.endswith("/hung") and not flags & os.O_PATH


@contextlib.contextmanager
def inventory_of(daemon: Daemon) -> Iterator[Inventory]:
    """That of the only VM, which has one device."""
    links = {int(each.name): os.readlink(each) for each in Path(f"/proc/{daemon.pid}/fd").iterdir()}
    file = min(number for number, link in links.items() if "vhost9p-inventory" in link)
    assert "eventfd" in links[file + 1], "the bell"
    pidfd = os.pidfd_open(daemon.pid)
    inventory = Inventory(1, take_descriptor(pidfd, file), take_descriptor(pidfd, file + 1))
    yield inventory
    inventory.close()
    os.close(pidfd)


def test_threads_that_stepped_in_go_again(hung: Hung) -> None:
    daemon, client = hung.share.daemon, hung.share.client
    fid = hung.open()
    before = daemon.threads()
    tickets = [HANGERS["read"](client, fid) for _ in range(20)]
    serves(hung.share)
    assert daemon.threads() > before + 10
    hung.release()
    for ticket in tickets:
        client.wait(ticket)
    serves(hung.share)
    daemon.wait_until(lambda: daemon.threads() <= before + 2, "threads were kept")


def test_one_kick_for_what_hangs_and_the_next(hung: Hung) -> None:
    """Whoever takes the first of two requests leaves the second to somebody who is awake."""
    client = hung.share.client
    fid = hung.open()
    stuck = client.submit(T.READ, fid, 0, COUNT, kick=False)
    others = [client.submit(T.GETATTR, hung.share.top, 0x7FF, kick=False) for _ in range(3)]
    hung.share.machine.ring.kick()
    for other in others:
        client.wait(other)
    assert stuck.reply is None
    hung.release()
    client.wait(stuck)


def test_a_hundred_reads_that_hang_are_answered_later(hung: Hung) -> None:
    """More than there may be threads: then nothing goes on, and nothing is lost."""
    client = hung.share.client
    fid = hung.open()
    daemon = hung.share.daemon
    others = daemon.threads()
    tickets = [client.submit(T.READ, fid, 4096 * i, 4096) for i in range(100)]
    tickets.append(client.submit(T.GETATTR, fid, 0x7FF))
    daemon.wait_until(lambda: daemon.threads() >= THREADS_MAX, "no threads take over")
    assert daemon.threads() < others + THREADS_MAX
    hung.release()
    for ticket in tickets:
        client.wait(ticket)
    serves(hung.share)


def test_flush_waits_for_what_hangs(hung: Hung) -> None:
    """The buffers are the server's until the original is answered; Rflush comes after it."""
    client = hung.share.client
    ticket = client.submit(T.READ, hung.open(), 0, COUNT)
    flush = client.submit(T.FLUSH, ticket.tag)
    serves(hung.share)
    assert (ticket.reply, flush.reply) == (None, None)
    hung.release()
    client.wait(flush)
    assert ticket.reply is not None


@pytest.mark.parametrize("kind", ["read", "fsync", "setattr"])
def test_stop_is_answered(hung: Hung, kind: str) -> None:
    """With EIO for what hangs; guest memory is not written to when it is over at last."""
    share, client, machine = hung.share, hung.share.client, hung.share.machine
    ticket = HANGERS[kind](client, hung.open())
    client.getattr(share.top)  # it has been taken from the ring, then
    base = machine.stop()
    assert base == machine.ring.avail_idx
    (done,) = machine.ring.poll()
    # The ticket is not finished, so that its buffers are not used again.
    assert client.in_flight[done.head] is ticket
    reply = wire.decode(ticket.buffers.gather(done.length))
    assert (reply.type, reply.tag, reply.fields) == (wire.RLERROR, ticket.tag, (errno.EIO,))
    before = [machine.memory.read(gpa, size) for gpa, size in ticket.buffers.writable]
    used = machine.memory.read(machine.ring.used, 6 + 8 * machine.ring.size)
    machine.ring.called()
    hung.release()
    assert machine.memory.read(machine.ring.used, 6 + 8 * machine.ring.size) == used
    machine.reboot()
    share.client = Client(machine)
    remount(share)
    share.daemon.wait_until(lambda: not hung.held(), "a fid of a hanging request was kept")
    assert before == [machine.memory.read(gpa, size) for gpa, size in ticket.buffers.writable]
    serves(share)


def test_memory_is_taken_from_what_hangs(hung: Hung) -> None:
    """REM_MEM_REG of the region that a hanging read is to fill."""
    share, machine = hung.share, hung.share.machine
    fid = hung.open()
    region = machine.memory.add_region(16 * GIB, 2 * MIB)
    machine.send_memory()
    request, reply = machine.memory.alloc(64), machine.memory.alloc(COUNT, PAGE, region)
    message = encode(T.READ, 5, fid, 0, COUNT - 11)
    machine.memory.write(request, message)
    machine.ring.add([(request, len(message))], [(reply, COUNT)])
    machine.ring.kick()
    serves(share)
    machine.frontend.rem_mem_reg(region)
    machine.sent_regions.remove(region)
    (done,) = machine.ring.wait()
    assert done.length in (0, 11)
    before = bytes(region.view)
    hung.release()
    share.client.clunk(fid)
    share.daemon.wait_until(lambda: not hung.held(), "a fid of a hanging request was kept")
    assert bytes(region.view) == before
    serves(share)


def test_next_guest_is_served(hung: Hung) -> None:
    """A guest that leaves behind what hangs does not take the daemon along."""
    share = hung.share
    fid = hung.open()
    for kind in ("read", "write", "fsync"):
        HANGERS[kind](share.client, fid)
    serves(share)
    share.machine.close()
    with mounted(share.daemon, hung.export) as other:
        serves(other)
        assert hung.held()
        hung.release()
        share.daemon.wait_until(lambda: not hung.held(), "a fid of a hanging request was kept")
        serves(other)


def test_daemon_can_be_stopped(hung: Hung) -> None:
    fid = hung.open()
    for hang in HANGERS.values():
        hang(hung.share.client, fid)
    hung.share.daemon.stop()
    hung.released = True


@pytest.mark.parametrize("sandbox", ["none", "auto"])
def test_the_next_keeper_waits_for_a_worker_that_hangs(
    scratch: Path, tmp_path: Path, sandbox: str
) -> None:
    """The kernel cannot end it before its system call has ended. Without a pid namespace its keeper
    may end before it does."""
    with hanging(scratch / f"hung-{tmp_path.name}", None, "--sandbox", sandbox) as hung:
        daemon, client = hung.share.daemon, hung.share.client
        HANGERS["fsync"](client, hung.open())
        serves(hung.share)
        worker = os.pidfd_open(daemon.worker)
        os.kill(daemon.keepers[0], signal.SIGKILL)
        if sandbox == "none":
            daemon.wait_line("a worker outlives its keeper, so the next keeper waits")
            assert not daemon.keepers
        assert not select.select([worker], [], [], 0)[0]
        hung.release()
        daemon.wait_until(lambda: daemon.output.count("serving ") == 2, "it is not served again")
        assert select.select([worker], [], [], 0)[0]
        os.close(worker)
