"""What a guest sees of the directory, and how its stream is read."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import pytest

from tests.frontend.changes import ring_alone
from tests.frontend.client import AT_REMOVEDIR, WRLCK, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.wire import U
from tests.system.notices.notices import (
    LINE,
    MODE,
    NAME,
    TOUCH,
    data_of,
    events,
    known,
    submit_read,
    waits,
)
from tests.system.share import SECURITY, Share, fails, mounted, remount, serve
from tests.system.test_control import place_of
from tests.system.test_keeper_death import OLD_S, lose_keeper
from tests.system.watching import traced
from vhost9p.changes.ring import CAPACITY, Ring
from vhost9p.control.client import ask
from vhost9p.native.export import FORGET_MTIME, REFRESH_MTIME, RENEW_MTIME

# ---- the directory -------------------------------------------------------------------------------


def test_the_directory_has_what_a_guest_needs(share: Share) -> None:
    client = share.client
    listing = client.listing(share.top, NAME)
    assert {b"events", *TIMES, b"agent"} <= set(listing)
    for name, entry in listing.items():
        (qid,) = client.walk(client.walk_to(share.top, NAME), client.new_fid(), name)
        assert qid.path == entry.qid.path
        attr = client.getattr(client.walk_to(share.top, NAME, name))
        assert (attr.uid, attr.gid, attr.mode & 0o222) == (0, 0, 0)
        assert (qid.version == 0) == (attr.size == 0) == (not name.startswith(b"agent"))
    times = [client.getattr(client.walk_to(share.top, NAME, name)) for name in TIMES]
    assert [attr.mtime_sec for attr in times] == [REFRESH_MTIME, FORGET_MTIME, RENEW_MTIME]


TIMES = (b"refresh", b"forget", b"renew")


def test_it_is_not_listed_and_nobody_can_change_it(share: Share) -> None:
    client, top = share.client, share.top
    assert set(client.listing(top)) == {b"file"}
    with fails(errno.EEXIST):
        client.mkdir(top, NAME)
    with fails(errno.EEXIST):
        client.create(top, NAME)
    with fails(errno.EEXIST):
        client.symlink(top, NAME, b"file")
    with fails(errno.EEXIST):
        client.link(top, client.walk_to(top, b"file"), NAME)
    with fails(errno.EEXIST):
        client.renameat(top, b"file", top, NAME)
    with fails(errno.EBUSY):
        client.renameat(top, NAME, top, b"other")
    with fails(errno.EBUSY):
        client.unlinkat(top, NAME, AT_REMOVEDIR)
    inside = client.walk_to(top, NAME)
    with fails(errno.EROFS):
        client.create(inside, b"new")
    with fails(errno.EROFS):
        client.unlinkat(inside, b"events")
    with fails(errno.EROFS):
        client.open(top, [NAME, b"events"], os.O_RDWR)
    with fails(errno.EROFS):
        client.setattr(client.walk_to(top, NAME, b"events"), MODE, mode=0o777)
    with fails(errno.EROFS, errno.EBUSY):
        client.remove(client.walk_to(top, NAME))
    assert sorted(os.listdir(share.host)) == ["file"]


def test_dotdot_leads_back(share: Share) -> None:
    client = share.client
    (there,) = client.walk(share.top, client.new_fid(), NAME)
    up = client.walk(share.top, client.new_fid(), NAME, b"..", b"file")
    assert len(up) == 3
    assert up[1].path != there.path
    assert up[1].path == client.getattr(share.top).qid.path


def test_what_the_host_has_by_its_name_is_covered(share: Share) -> None:
    (share.host / os.fsdecode(NAME)).mkdir()
    (share.host / os.fsdecode(NAME) / "own").touch()
    client = share.client
    assert set(client.listing(share.top)) == {b"file"}
    assert b"own" not in client.listing(share.top, NAME)
    elsewhere = share.host / "dir" / os.fsdecode(NAME)
    elsewhere.mkdir(parents=True)
    assert set(client.listing(share.top, b"dir")) == {NAME}
    client.unlinkat(client.walk_to(share.top, b"dir"), NAME, AT_REMOVEDIR)
    assert not elsewhere.exists()


@pytest.mark.parametrize("count", [8192, 40])
def test_it_is_listed_if_that_is_asked_for(export: Path, tmp_path: Path, count: int) -> None:
    for name in ("a", "b", ".other"):
        (export / name).mkdir(exist_ok=True)
    args = ("--notify", "--notify-listed", "--notify-name=.other", f"--state-dir={tmp_path}/s")
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        client = share.client
        fid = client.open(share.top, [], os.O_RDONLY | os.O_DIRECTORY)
        entries = list(client.entries(fid, count))
        names = [entry.name for entry in entries]
        assert sorted(names) == [b".", b"..", b".other", b"a", b"b"]
        assert names[-1] == b".other"
        assert entries[-1].qid.path == client.walk(share.top, client.new_fid(), b".other")[0].path
        assert client.readdir(fid, entries[-1].offset) == []
        assert b"events" in client.listing(share.top, b".other")


def test_it_is_beside_the_exports_if_there_are_several(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    exports = [f"--export=name={name},path={tmp_path}/{name}" for name in ("one", "two")]
    args = (*exports, *SECURITY, "--notify", "--notify-listed", f"--state-dir={tmp_path}/state")
    with Daemon(*args) as daemon, mounted(daemon, tmp_path) as share:
        client = share.client
        assert set(client.listing(share.top)) == {b"one", b"two", NAME}
        assert b"events" in client.listing(share.top, NAME)
        assert client.attach(client.new_fid(), aname=NAME).type == 0x80
        with ring_alone(daemon) as ring:
            fid = events(client, share.top)
            ring.append(LINE)
            assert client.read(fid, 0, 100) == LINE


def test_without_notify_there_is_no_such_directory(export: Path) -> None:
    (export / "file").touch()
    with serve(export) as daemon, mounted(daemon, export) as share:
        with fails(errno.ENOENT):
            share.client.walk_to(share.top, NAME)
        share.client.mkdir(share.top, NAME)
        file = share.client.walk_to(share.top, b"file")
        share.client.setattr(file, TOUCH, mtime=(REFRESH_MTIME, 0))
        assert (export / "file").stat().st_mtime == REFRESH_MTIME


def test_the_log_says_why_its_name_is_refused(export: Path, tmp_path: Path) -> None:
    (export / "file").touch()
    args = ("--notify", "--log-failures", f"--state-dir={tmp_path}/state", "--log-level=debug")
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        client = share.client
        with fails(errno.EEXIST):
            client.mkdir(share.top, NAME)
        daemon.wait_line("Tmkdir '/.vhost9p'.*: EEXIST: it is the directory of notices")
        fid = known(share)
        client.setattr(fid, TOUCH, mtime=(FORGET_MTIME, 0))
        with fails(errno.ENOENT):
            client.getattr(fid)
        daemon.wait_line(
            "Tgetattr '/file'.*: ENOENT: the guest has asked to look its name up again"
        )


# ---- the stream ----------------------------------------------------------------------------------


def test_a_read_waits_for_the_next_line(share: Share, ring: Ring) -> None:
    client = share.client
    ring.append(b"changed before 0\n")
    fid = events(client, share.top)
    ring.append(LINE)
    assert client.read(fid, 0, 4096) == LINE
    assert client.read(fid, len(LINE), 4096) == b"", "the rest of the same read(2)"
    ticket = submit_read(client, fid, len(LINE))
    assert waits(share, ticket)
    ring.append(LINE + LINE)
    assert data_of(client, ticket) == LINE + LINE


def test_each_reader_has_its_own_position(share: Share, ring: Ring) -> None:
    client = share.client
    one, other = events(client, share.top), events(client, share.top)
    tickets = [submit_read(client, fid, 0) for fid in (one, other)]
    assert waits(share, tickets[0])
    ring.append(LINE)
    assert [data_of(client, ticket) for ticket in tickets] == [LINE, LINE]
    late = submit_read(client, events(client, share.top), 0)
    assert waits(share, late)


@pytest.mark.parametrize("count", [1, 2, 5, len(LINE), len(LINE) + 1])
def test_a_small_buffer_loses_nothing(share: Share, ring: Ring, count: int) -> None:
    """As Linux's client reads: until a reply is empty, or the buffer is full."""
    client = share.client
    fid = events(client, share.top)
    ring.append(LINE + LINE)
    got = b""
    while len(got) < 2 * len(LINE):
        room = count
        while room and (part := client.read(fid, len(got), room)):
            got += part
            room -= len(part)
    assert got == LINE + LINE
    ticket = submit_read(client, fid, len(got), count)
    if count > 1 and not waits(share, ticket):
        assert data_of(client, ticket) == b""
        ticket = submit_read(client, fid, len(got), count)
    assert waits(share, ticket)


def test_seeking_back_reads_again(share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top)
    ring.append(LINE + b"removed file\n")
    assert client.read(fid, 0, 4096) == LINE + b"removed file\n"
    assert client.read(fid, len(LINE), 4096) == b"removed file\n"


def test_a_descriptor_that_does_not_block_gets_nothing(share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top, os.O_RDONLY | os.O_NONBLOCK)
    assert client.read(fid, 0, 4096) == b""
    ring.append(LINE)
    assert client.read(fid, 0, 4096) == LINE
    assert client.read(fid, len(LINE), 4096) == b""


def test_a_reader_that_is_too_slow_finds_an_overflow(share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top)
    ring.append(LINE)
    assert client.read(fid, 0, 4) == LINE[:3]
    assert client.read(fid, 3, 1) == b""
    for _ in range(5):
        ring.append(LINE * (CAPACITY // 4 // len(LINE)))
    stead = b"\noverflow\n"
    got = b"".join(client.read(fid, 3 + i, 1) for i in range(len(stead)))
    assert got == stead
    ticket = submit_read(client, fid, 3 + len(stead))
    assert waits(share, ticket)
    ring.append(LINE)
    assert data_of(client, ticket) == LINE
    assert client.read(fid, 1, 100) == stead, "what was before is gone, too"


def test_a_flushed_read_ends(share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top)
    ticket = submit_read(client, fid, 0)
    assert waits(share, ticket)
    client.flush(ticket)
    assert ticket.reply is not None
    ring.append(LINE)
    assert client.read(fid, 0, 100) == LINE


@pytest.mark.usefixtures("ring")
def test_a_clunk_ends_the_reads_of_its_fid(share: Share) -> None:
    client = share.client
    fid, other = events(client, share.top), events(client, share.top)
    tickets = [submit_read(client, each, 0) for each in (fid, other)]
    assert waits(share, tickets[0])
    client.clunk(fid)
    with fails(errno.EBADF):
        client.wait(tickets[0])
    assert waits(share, tickets[1])
    with fails(errno.EROFS):
        client.remove(other)
    with fails(errno.EBADF):
        client.wait(tickets[1])


def test_a_new_session_ends_all(share: Share, ring: Ring) -> None:
    client = share.client
    ticket = submit_read(client, events(client, share.top), 0)
    assert waits(share, ticket)
    remount(share)
    assert ticket.reply is not None
    ring.append(LINE)
    fid = events(client, share.top)
    ring.append(LINE)
    assert client.read(fid, 0, 100) == LINE


def test_a_ring_that_stops_interrupts_reads(share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top)
    ticket = submit_read(client, fid, 0)
    assert waits(share, ticket)
    share.machine.stop()
    with fails(errno.EINTR):
        client.wait(ticket)
    share.machine.start()
    ticket = submit_read(client, fid, 0)
    assert waits(share, ticket)
    ring.append(LINE)
    assert data_of(client, ticket) == LINE


def test_a_quarter_of_the_ring_may_wait(daemon: Daemon, export: Path, ring: Ring) -> None:
    with mounted(daemon, export, ring_size=16) as share:
        client = share.client
        fid = events(client, share.top)
        (refused,), tickets = client.wait_for(1, [submit_read(client, fid, 0) for _ in range(5)])
        with fails(errno.EAGAIN):
            client.wait(refused)
        file = client.open(share.top, b"file", os.O_RDWR)
        client.lock(file, WRLCK, 0, 10, proc_id=1)
        blocked = client.wait(client.submit_lock(file, WRLCK, 0, 10, proc_id=2))
        assert blocked.fields == (1,), "LOCK_BLOCKED: locks share the room"
        ring.append(LINE)
        assert [data_of(client, each) for each in tickets] == [LINE] * 4


def test_a_killed_worker_is_not_noticed(daemon: Daemon, share: Share, ring: Ring) -> None:
    client = share.client
    fid, other = events(client, share.top), events(client, share.top)
    ring.append(LINE)
    assert client.read(fid, 0, 4096) == LINE
    kill(daemon.worker)
    assert client.read(fid, len(LINE), 4096) == b""
    ticket = submit_read(client, fid, len(LINE))
    assert waits(share, ticket)
    for number in range(3):
        kill(daemon.worker)
        assert waits(share, ticket), number
    ring.append(b"removed file\n")
    assert data_of(client, ticket) == b"removed file\n"
    assert client.read(other, 0, 4096) == LINE + b"removed file\n"


def test_its_requests_are_shown_and_counted_by_its_name(
    daemon: Daemon, share: Share, ring: Ring, tmp_path: Path
) -> None:
    client = share.client
    with traced(daemon, tmp_path) as tracer:
        fid = events(client, share.top)
        ring.append(LINE)
        assert client.read(fid, 0, 4096) == LINE
        tracer.wait_for(lambda: "Tread" in tracer.text)
    assert "'/.vhost9p/events' offset 0" in tracer.text
    answer = [*ask(place_of(daemon), {"command": "counts"})]
    read = {each["export"]: each["counts"]["read"] for each in answer if "counts" in each}
    assert read == {"": 0, ".vhost9p": len(LINE)}


def test_a_reader_gets_what_it_has_read_although_the_worker_dies(
    export: Path, tmp_path: Path
) -> None:
    """The client has lines, and asks for more in the same read(2). It has to hear that there is
    nothing, also by a worker that follows one which was about to say so; and only once."""
    die = tmp_path / "die"
    wrapper = [sys.executable, "-m", "tests.system.dying_reader", str(die)]
    args = "--path", str(export), *SECURITY, "--notify", "--sandbox=none"
    daemon = Daemon(*args, f"--state-dir={tmp_path}/state", wrapper=wrapper)
    with daemon, mounted(daemon, export) as share, ring_alone(daemon) as ring:
        client = share.client
        fid = events(client, share.top)
        ring.append(LINE)
        assert client.read(fid, 0, 4096) == LINE
        die.touch()
        assert client.read(fid, len(LINE), 4096) == b""
        assert not die.exists()
        ticket = submit_read(client, fid, len(LINE))
        assert waits(share, ticket)
        ring.append(LINE)
        assert data_of(client, ticket) == LINE


def test_a_keeper_that_dies_takes_nothing_along(daemon: Daemon, share: Share, ring: Ring) -> None:
    client = share.client
    fid = events(client, share.top)
    ticket = submit_read(client, fid, 0)
    assert waits(share, ticket)
    time.sleep(OLD_S)
    lose_keeper(daemon)
    ring.append(LINE)
    assert data_of(client, ticket) == LINE


def test_dialect_u_reads_it_too(daemon: Daemon, export: Path, ring: Ring) -> None:
    with mounted(daemon, export, speaks=DialectUClient) as share:
        client = share.client
        fid = client.walk_to(share.top, NAME, b"events")
        client.call(U.OPEN, fid, 0)
        ticket = submit_read(client, fid, 0)
        ring.append(LINE)
        assert data_of(client, ticket) == LINE
        client.clunk(fid)
        with pytest.raises(P9Errno):
            client.walk_to(share.top, NAME, b"nothing")
