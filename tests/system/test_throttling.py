"""A throttled export: what its limits hold up waits, and nothing else does.

A limit of 1 byte a second lets the first request through, which finds an empty bucket, and holds
those after it up for longer than any test takes: nothing here looks at a clock. Where a test says
that exactly so many requests have gone, the server has seen a later request already.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.frontend import wire
from tests.frontend.client import Client, P9Errno, Ticket
from tests.frontend.daemon import Daemon
from tests.frontend.machine import QEMU_PROTOCOL
from tests.frontend.memory import GIB, MIB
from tests.frontend.vhost_user import Protocol
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, mounted, remount

NO_SLOTS = QEMU_PROTOCOL & ~(1 << Protocol.CONFIGURE_MEM_SLOTS)
SIZE = 10_000
DATA = bytes(range(250)) * (SIZE // 250)


def limits(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--throttling", pair)]


@contextlib.contextmanager
def serving(export: Path, *args: str) -> Iterator[Daemon]:
    export.mkdir(exist_ok=True)
    (export / "file").write_bytes(DATA)
    with Daemon("--path", str(export), *SECURITY, *args) as daemon:
        yield daemon


@contextlib.contextmanager
def throttled(
    export: Path, *pairs: str, event_idx: bool = True, protocol: int = QEMU_PROTOCOL
) -> Iterator[Share]:
    """A guest whose export has limits; FILE is open for reading and writing."""
    with (
        serving(export, *limits(*pairs)) as daemon,
        mounted(daemon, export, event_idx=event_idx, protocol=protocol) as share,
    ):
        yield share


@pytest.fixture
def export(scratch: Path, tmp_path: Path) -> Path:
    return scratch / f"throttled-{tmp_path.name}"


def open_file(share: Share) -> int:
    return share.client.open(share.top, b"file", os.O_RDWR)


def reads(client: Client, fid: int, count: int, size: int = SIZE) -> list[Ticket]:
    return [client.submit(T.READ, fid, 0, size) for _ in range(count)]


def writes(client: Client, fid: int, count: int, size: int = SIZE) -> list[Ticket]:
    """Behind the data that there are."""
    return [client.submit(T.WRITE, fid, SIZE * (i + 1), bytes(size)) for i in range(count)]


def gone(share: Share, tickets: Sequence[Ticket]) -> int:
    """How many of the tickets are back, now that a later request is."""
    share.client.getattr(share.top)
    return sum(ticket.reply is not None for ticket in tickets)


def serves(share: Share) -> None:
    """Requests of C and of Python that move no data are answered."""
    client = share.client
    assert client.getattr(share.top).nlink > 0
    client.mkdir(share.top, b"new")
    client.unlinkat(share.top, b"new", 0x200)
    client.clunk(client.walk_to(share.top, b"file"))


# ---- which requests a limit is about


@pytest.mark.parametrize(
    ("pair", "read", "written"),
    [
        ("bps-total=1", 1, 0),
        ("bps-read=1", 1, 8),
        ("bps-write=1", 8, 1),
        ("iops-total=1", 1, 0),
        ("iops-read=1", 1, 8),
        ("iops-write=1", 8, 1),
    ],
)
def test_each_limit_holds_back_its_own_requests(
    export: Path, pair: str, read: int, written: int
) -> None:
    """Of 8 reads, and then 8 writes, those go that are not limited, and the first that is."""
    # Each counts for 10 000 requests, so that none is due within the test.
    with throttled(export, pair, *(["iops-size=1"] if pair[0] == "i" else [])) as share:
        fid = open_file(share)
        assert gone(share, reads(share.client, fid, 8)) == read
        assert gone(share, writes(share.client, fid, 8)) == written


def test_only_file_data_count(export: Path) -> None:
    """Not attributes, directories, extended attributes or what fails anyway."""
    with throttled(export, "bps-total=1", "iops-total=1", "iops-size=1") as share:
        client = share.client
        fid = open_file(share)
        assert gone(share, reads(client, fid, 2)) == 1
        for _ in range(20):
            serves(share)
            with contextlib.suppress(P9Errno):  # where the host has no such attributes
                client.setxattr(fid, b"user.test", bytes(1000))
                assert client.getxattr(fid, b"user.test") == bytes(1000)
        with pytest.raises(P9Errno) as error:
            client.write(client.open(share.top, b"file", os.O_RDONLY), 1 << 63, b"")
        assert error.value.errno == errno.EINVAL


def test_a_burst_passes_at_once(export: Path) -> None:
    """max is what one second may move at once; with a length the rate holds for that long."""
    with throttled(export, "bps-read=1", f"bps-read-max={4 * SIZE}") as share:
        # The bucket takes 4, and may be overfull by one.
        assert gone(share, reads(share.client, open_file(share), 20)) == 5
    long = ["bps-read=1", f"bps-read-max={20 * SIZE}", "bps-read-max-length=2"]
    with throttled(export, *long) as share:
        tickets = reads(share.client, open_file(share), 60)
        share.client.wait(tickets[40])  # two seconds' worth, and one
        assert gone(share, tickets[41:]) == 0


@pytest.mark.parametrize("unit", ["bps", "iops"])
@pytest.mark.parametrize("what", ["total", "read", "write"])
def test_each_limit_has_a_burst_of_its_own(export: Path, unit: str, what: str) -> None:
    """Each limit has a burst of its own, and a length."""
    key, ask = f"{unit}-{what}", writes if what == "write" else reads
    burst = [f"{key}=1", f"{key}-max={4 * SIZE}", *(["iops-size=1"] if unit == "iops" else [])]
    with throttled(export, *burst) as share:
        assert gone(share, ask(share.client, open_file(share), 20)) == 5
    with throttled(export, *burst, f"{key}-max-length=100") as share:
        tickets = ask(share.client, open_file(share), 20)
        share.client.wait(tickets[5])  # one more, since the rate goes on


def test_a_large_request_counts_as_several(export: Path) -> None:
    with throttled(export, "iops-read=1", "iops-read-max=25000", "iops-size=1") as share:
        fid = open_file(share)
        assert gone(share, reads(share.client, fid, 8)) == 3  # 10 000 each
    with throttled(export, "iops-read=1", "iops-read-max=25000", "iops-size=10") as share:
        fid = open_file(share)
        assert gone(share, reads(share.client, fid, 40)) == 26  # 1000 each


# ---- what goes on meanwhile


@pytest.mark.parametrize("event_idx", [True, False])
def test_other_requests_go_on_while_some_wait(export: Path, event_idx: bool) -> None:
    """With all but one of the ring's places waiting; kicks arrive as they always do."""
    with throttled(export, "bps-read=1", event_idx=event_idx) as share:
        fid = open_file(share)
        tickets = reads(share.client, fid, share.machine.ring.size - 1, 512)
        for _ in range(20):
            serves(share)
            share.client.write(fid, 0, b"data")
        assert gone(share, tickets) == 1


def test_another_device_goes_on(export: Path, scratch: Path, tmp_path: Path) -> None:
    """Two devices in one process, one of them throttled."""
    other = scratch / f"free-{tmp_path.name}"
    for path in (export, other):
        path.mkdir()
        (path / "file").write_bytes(DATA)
    daemon = Daemon(socket=False)
    model = SECURITY[1]
    config = daemon.directory / "vm.yaml"
    config.write_text(
        f"devices:\n"
        f"- {{socket: 9p.sock, path: {export}, security_model: {model},\n"
        f"   throttling: {{bps-total: 1, iops-total: 1}}}}\n"
        f"- {{socket: other.sock, tag: other, path: {other}, security_model: {model}}}\n"
    )
    daemon.args = ["--config", str(config)]
    with daemon, mounted(daemon, export) as slow:
        first, daemon.socket = daemon.socket, str(daemon.directory / "other.sock")
        with mounted(daemon, other) as fast:
            tickets = reads(slow.client, open_file(slow), 50)
            fid = open_file(fast)
            for _ in range(50):
                assert fast.client.read(fid, 0, SIZE) == DATA
                fast.client.write(fid, 0, DATA)
            assert gone(slow, tickets) == 1
        daemon.socket = first


def test_another_export_of_the_device_goes_on(export: Path) -> None:
    """Two exports under one tag, one of them throttled."""
    for name in ("slow", "fast"):
        (export / name).mkdir(parents=True)
        (export / name / "file").write_bytes(DATA)
    daemon = Daemon()
    config = daemon.directory / "vm.yaml"
    config.write_text(
        f"socket: 9p.sock\n"
        f"security_model: {SECURITY[1]}\n"
        f"exports:\n"
        f"- {{name: slow, path: {export}/slow, throttling: {{bps-total: 1}}}}\n"
        f"- {{name: fast, path: {export}/fast}}\n"
    )
    daemon.args = ["--config", str(config)]
    with daemon, mounted(daemon, export) as share:
        client = share.client
        slow = client.open(share.top, (b"slow", b"file"), os.O_RDWR)
        fast = client.open(share.top, (b"fast", b"file"), os.O_RDWR)
        tickets = [*reads(client, slow, 20), *writes(client, slow, 20)]
        for _ in range(20):
            assert client.read(fast, 0, SIZE) == DATA
            client.write(fast, 0, DATA)
        assert gone(share, tickets) == 1


def test_all_are_answered_in_order(export: Path) -> None:
    """Reads in the order in which they came, writes too; and neither waits for the other's end.
    Nothing but the timer makes them go."""
    with throttled(export, "iops-total=200") as share:
        client = share.client
        fid = open_file(share)
        reading, writing = reads(client, fid, 50, 100), writes(client, fid, 50, 100)
        left = {*reading, *writing}
        order = []
        while left:
            back = client.reap()
            order += back
            left -= {*back}
        assert [ticket for ticket in order if ticket in reading] == reading
        assert [ticket for ticket in order if ticket in writing] == writing
        assert order.index(writing[0]) < order.index(reading[-1])
        assert order.index(reading[0]) < order.index(writing[-1])
        for ticket in reading:
            assert wire.decode(ticket.reply or b"").type == T.READ + 1


# ---- what ends the waiting


def fields_of(ticket: Ticket) -> tuple[int, tuple[object, ...]]:
    assert ticket.reply is not None
    reply = wire.decode(ticket.reply)
    return reply.type, reply.fields


def test_a_flushed_request_ends_at_once(export: Path) -> None:
    """Whoever is flushed ends at once, without having begun; the others go on waiting."""
    with throttled(export, "bps-total=1") as share:
        client = share.client
        fid = open_file(share)
        tickets = [*reads(client, fid, 4), *writes(client, fid, 3)]
        assert gone(share, tickets) == 1
        for number in (2, 3, 1, 5):  # in the middle, at the end, alone, in the other queue
            order = []
            flush = client.submit(T.FLUSH, tickets[number].tag)
            while flush.reply is None:
                order += client.reap()
            assert order == [tickets[number], flush]
            assert fields_of(tickets[number]) == (wire.RLERROR, (errno.EINTR,))
        tickets += reads(client, fid, 1)
        assert gone(share, tickets) == 5
        client.flush(tickets[-1])
        assert share.get("file") == DATA


def test_a_new_session_ends_what_waits(export: Path) -> None:
    with throttled(export, "bps-total=1") as share:
        fid = open_file(share)
        tickets = [*reads(share.client, fid, 4), *writes(share.client, fid, 4)]
        remount(share)
        assert fields_of(tickets[0])[0] == T.READ + 1
        for ticket in tickets[1:]:
            assert fields_of(ticket) == (wire.RLERROR, (errno.EINTR,))
        assert share.get("file") == DATA
        assert gone(share, reads(share.client, open_file(share), 2)) == 0  # the limit stays


def test_a_stopped_and_continued_guest_sees_no_error(export: Path) -> None:
    """A VM that is stopped finds no error when it is continued: what waited goes before the
    stop. It is charged for it."""
    with throttled(export, "bps-total=1") as share:
        machine, client = share.machine, share.client
        fid = open_file(share)
        tickets = [*reads(client, fid, 30), *writes(client, fid, 30)]
        assert gone(share, tickets) == 1
        assert machine.stop() == machine.ring.avail_idx
        for done in machine.ring.poll():
            client.finish(done.head, done.length)
        for number, ticket in enumerate(tickets):
            kind, (result,) = fields_of(ticket)
            assert (kind, result) == ((T.READ + 1, DATA) if number < 30 else (T.WRITE + 1, SIZE))
        assert share.get("file") == DATA + bytes(30 * SIZE)
        machine.start()
        assert gone(share, reads(client, fid, 5)) == 0
        serves(share)


def test_a_reboot_or_unplug_ends_what_waits(export: Path) -> None:
    with throttled(export, "bps-total=1") as share:
        assert gone(share, reads(share.client, open_file(share), 20)) == 1
        share.machine.reboot()
        share.client = Client(share.machine)
        remount(share)
        assert gone(share, reads(share.client, open_file(share), 20)) == 0
        share.machine.replug()
        share.client = Client(share.machine)
        remount(share)
        serves(share)


def test_a_disconnected_frontend_leaves_nothing(export: Path) -> None:
    """A VMM that is killed leaves nothing behind."""
    with serving(export, *limits("bps-total=1")) as daemon:
        idle = daemon.fd_count()
        for _ in range(3):
            with mounted(daemon, export) as share:
                fid = open_file(share)
                gone(share, [*reads(share.client, fid, 20), *writes(share.client, fid, 20)])
            daemon.wait_until(lambda: daemon.fd_count() <= idle, "descriptors are left")


@pytest.mark.parametrize("protocol", [QEMU_PROTOCOL, NO_SLOTS], ids=["slots", "table"])
def test_a_waiting_request_finds_its_buffers_in_new_memory(export: Path, protocol: int) -> None:
    """What waits finds its buffers again, wherever the guest's memory is now."""
    with throttled(export, "bps-read=1", protocol=protocol) as share:
        machine, client = share.machine, share.client
        tickets = reads(client, open_file(share), 10)
        assert gone(share, tickets) == 1
        region = machine.memory.add_region(64 * GIB, 16 * MIB)
        machine.send_memory()
        assert gone(share, tickets) == 1
        machine.memory.remove_region(region)
        machine.send_memory()
        assert gone(share, tickets) == 1
        machine.stop()
        for done in machine.ring.poll():
            client.finish(done.head, done.length)
        assert [fields_of(ticket) for ticket in tickets] == [(T.READ + 1, (DATA,))] * 10
