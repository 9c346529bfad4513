"""What changes at a reload, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.frontend import PATIENCE
from tests.frontend.client import LOCK_SUCCESS, SET_UID, WRLCK, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import ORDWR, DialectUClient
from tests.frontend.machine import Machine
from tests.system.reloads.site import ROOT, Site, is_locked, mounts_of
from tests.system.share import AS_USER, IS_ROOT, fails, needs_root
from vhost9p.control.client import ask, daemons
from vhost9p.trace.events import Event
from vhost9p.tracer import Gap, Tracer


def test_exports_come_and_go(site: Site) -> None:
    client = site.client
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    assert client.lock(kept, WRLCK) == LOCK_SUCCESS
    gone = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    folder = client.new_fid()
    client.walk(ROOT, folder, b"a")
    line = site.reload("c", "b")
    assert f"export c ({site.base}/c) added; export a ({site.base}/a) removed" in line
    assert site.names() == [b"b", b"c"]
    assert site.read(b"c", b"file") == b"c"
    with fails(errno.ENOENT):
        client.walk(ROOT, client.new_fid(), b"a")
    with fails(errno.ESTALE):
        client.read(gone, 0, 10)
    with fails(errno.ESTALE):
        client.walk(folder, client.new_fid(), b"file")
    assert client.read(kept, 0, 10) == b"b"
    client.write(kept, 0, b"B")
    assert (site.base / "b/file").read_text() == "B"
    client.clunk(gone)
    client.clunk(folder)


def test_another_directory_at_the_same_path_is_another_export(site: Site) -> None:
    """It was removed and made again, or something is mounted there: the guest is not left with what
    nobody finds any more."""
    client = site.client
    gone = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    (site.base / "a").rename(site.base / "old")
    (site.base / "a").mkdir()
    (site.base / "a/file").write_text("new")
    assert site.read(b"a", b"file") == b"a"
    line = site.hang_up(": reloaded: ")
    assert line.endswith(f"reloaded: export a: another directory is at {site.base}/a now")
    assert site.names() == [b"a", b"b"]
    assert site.read(b"a", b"file") == b"new"
    with fails(errno.ESTALE):
        client.read(gone, 0, 10)
    assert client.read(kept, 0, 10) == b"b"
    assert mounts_of(site.daemon) == ["a", "b"]
    assert "nothing has changed" in site.hang_up(": reloaded: ")
    (site.base / "a").rename(site.base / "older")
    assert f"{site.base}/a cannot be exported" in site.hang_up("cannot be exported")
    assert site.read(b"a", b"file") == b"new"


def test_counts_and_traces_name_the_exports_that_there_are(site: Site) -> None:
    """The indexes of exports do not follow from their order any more."""
    site.read(b"a", b"file")
    site.reload("c", "b")
    (place,) = (each for each in daemons() if each.pid == site.daemon.pid)

    def counted() -> dict[str, int]:
        answer = ask(place, {"command": "counts"})
        return {each["export"]: each["counts"]["read"] for each in answer if "counts" in each}

    tracer = Tracer(str(site.file), 0)
    before = counted()
    assert before.keys() == {"", "b", "c"}
    site.read(b"c", b"file")
    after = counted()
    assert {name: after[name] - before[name] for name in after} == {"": 0, "b": 0, "c": 1}
    assert "/c/file" in paths_seen(tracer)
    site.reload("d", "b")
    site.read(b"d", b"file")
    assert counted() == {"": 0, "b": 0, "d": 1}
    assert paths_seen(tracer) >= {"/d/file"}


def paths_seen(tracer: Tracer) -> set[str]:
    """What has been read, once that has been seen."""
    found, deadline = set(), time.monotonic() + PATIENCE
    for each in tracer.events():
        assert not isinstance(each, Gap), "the trace goes on"
        assert time.monotonic() < deadline, "a read is recorded"
        if isinstance(each, Event):
            found |= {each.path} if each.request.name == "Tread" else set()
        elif found:
            break
    return found


def test_a_removed_export_keeps_nothing(site: Site) -> None:
    """Its locks, its descriptors and its mount are released, and it may come again."""
    client = site.client
    file = site.base / "a/file"
    held = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    assert client.lock(held, WRLCK) == LOCK_SUCCESS
    assert is_locked(file)
    site.reload("b")
    assert not is_locked(file)
    assert not any(str(site.base / "a") in path for path in site.daemon.fds().values())
    assert mounts_of(site.daemon) == ["b"]
    site.reload("b", "a")
    with fails(errno.ESTALE):
        client.read(held, 0, 1)
    assert site.read(b"a", b"file") == b"a"
    again = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    assert client.lock(again, WRLCK) == LOCK_SUCCESS
    client.clunk(held)
    assert is_locked(file)


def test_many_reloads_leave_nothing_behind(site: Site) -> None:
    """No descriptor, in no process, and no mount."""
    kept = site.client.open(ROOT, (b"b", b"file"), os.O_RDWR)

    def counts() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{site.daemon.pid}/fd")), len(site.daemon.fds())

    site.reload("b", "d")
    before = counts()
    for _ in range(5):
        site.reload("c", "b")
        site.reload("b", "d")
    site.daemon.wait_until(
        lambda: all(now <= then for now, then in zip(counts(), before, strict=True)),
        f"{before} descriptors again",
    )
    assert mounts_of(site.daemon) == ["b", "d"]
    assert site.names() == [b"b", b"d"]
    assert site.client.read(kept, 0, 9) == b"b"


def test_the_same_in_the_other_dialect(base: Path) -> None:
    with Site(base, speaks=DialectUClient) as site:
        client = site.client
        assert isinstance(client, DialectUClient)
        kept = client.walk_open(ROOT, b"b", b"file", mode=ORDWR)
        gone = client.walk_open(ROOT, b"a", b"file", mode=ORDWR)
        site.reload("c", "b")
        entries = {each.name for each in client.stats(client.walk_open(ROOT))}
        assert entries == {b".", b"..", b"b", b"c"}
        assert client.read(client.walk_open(ROOT, b"c", b"file"), 0, 9) == b"c"
        for act in (
            lambda: client.read(gone, 0, 1),
            lambda: client.wstat(gone, name=b"other"),
            lambda: client.stat(gone),
        ):
            with fails(errno.ESTALE):
                act()
        client.clunk(gone)
        client.write(kept, 0, b"B")


def test_identities_stay(site: Site) -> None:
    """Numbers of files that stay are the same, and none of the new ones is like them."""
    client = site.client
    before = client.walk(ROOT, client.new_fid(), b"b", b"file")
    root = client.getattr(ROOT)
    site.reload("c", "b", "a")
    assert client.walk(ROOT, client.new_fid(), b"b", b"file") == before
    now = client.getattr(ROOT)
    assert now.qid.path == root.qid.path
    assert now.qid.version != root.qid.version
    assert (now.mtime_sec, now.mtime_nsec) != (root.mtime_sec, root.mtime_nsec)
    new = client.walk(ROOT, client.new_fid(), b"c", b"file")
    assert not {each.path for each in new} & {each.path for each in before}


def test_options_change_at_once(site: Site) -> None:
    client = site.client
    for name in ("hidden", "seen"):
        (site.base / "a" / name).mkdir()
        (site.base / "a" / name / "x").write_text(name)
    written = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    secret = client.open(ROOT, (b"a", b"hidden", b"x"))
    folder = client.walk_to(ROOT, b"a", b"hidden")
    line = site.reload("a, readonly: true, hide: [hidden], throttling: {iops-total: 1000}", "b")
    for change in (
        "export a: readonly from false to true",
        "export a: hide",
        "export a: throttling",
    ):
        assert change in line
    assert client.read(written, 0, 1) == b"a"
    with fails(errno.EROFS):
        client.write(written, 0, b"A")
    with fails(errno.ENOENT):
        client.open(ROOT, (b"a", b"hidden"))
    for fid in (secret, folder):
        with fails(errno.ESTALE):
            client.getattr(fid)
    site.reload("a", "b", more="log_level: debug\nthreads: 3\n")
    client.write(client.open(ROOT, (b"a", b"file"), os.O_RDWR), 0, b"A")
    assert site.read(b"a", b"hidden", b"x") == b"hidden"
    with fails(errno.EROFS):
        client.mkdir(ROOT, b"new")
    site.daemon.wait_line("DEBUG: both: Tmkdir '/new'")


def test_what_cannot_change_is_refused_by_name(site: Site) -> None:
    client = site.client
    held = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    keeper = site.daemon.keepers
    site.write("a, security_model: mapped-xattr", "c", more="sandbox: none\nmax_fids: 65536\n")
    file = site.file.read_text().replace("tag: both", "tag: other")
    site.file.write_text(file)
    line = site.hang_up("cannot change while the guest runs")
    for what in (
        "sandbox from auto to none (the VM's processes are confined already, or not)",
        "tag from both to other (the guest's driver has read it",
        "max_fids from 1000000 to 65536 (the memory for fids is as large",
        " to mapped-xattr (owners and modes of the files that there are stay",
        "Set it back",
    ):
        assert what in line, what
    assert site.daemon.keepers == keeper
    assert site.names() == [b"a", b"b"]
    client.write(held, 0, b"A")


def test_a_larger_or_smaller_msize_is_for_the_next_mount(site: Site) -> None:
    """The session goes on with what it has negotiated."""
    client = site.client
    (site.base / "b/file").write_bytes(bytes(2**20))
    fid = client.open(ROOT, (b"b", b"file"))
    most = client.msize - 11
    assert len(client.read(fid, 0, most)) == most
    assert "msize_max from 1MiB to 64KiB" in site.reload("a", "b", more="msize_max: 64KiB\n")
    assert len(client.read(fid, 0, most)) == most
    assert client.version() == (65536, b"9P2000.L")
    client.attach(ROOT)
    assert "msize_max from 64KiB to 2MiB" in site.reload("a", "b", more="msize_max: 2MiB\n")
    assert client.version(2**22) == (2**21, b"9P2000.L")


@needs_root
def test_ids_and_attributes_have_other_names_at_once(base: Path) -> None:
    """An id_map and rules for xattrs come, change and go, also those that take more rights."""
    with Site(base, model="passthrough") as site:
        client, file = site.client, site.base / "b/file"
        os.chown(file, 1000, 1000)
        os.setxattr(file, "trusted.one", b"1")
        fid = client.walk_to(ROOT, b"b", b"file")
        line = site.reload(
            "a",
            "b, id_map: {uid: [{guest: 5, host: 1000}], gid: [{guest: 6, host: 1000}], "
            "squash_to: {uid: 0, gid: 0}}, "
            "xattrs: {rules: [{match: user.t., store: trusted.}]}",
        )
        assert "export b: id_map; export b: xattrs" in line
        now = client.getattr(fid)
        assert (now.uid, now.gid) == (5, 6)
        assert client.getxattr(fid, b"user.t.one") == b"1"
        client.setattr(fid, SET_UID, uid=7)
        assert file.stat().st_uid == 0
        site.reload("a", "b")
        os.chown(file, 1000, 1000)
        assert client.getattr(fid).uid == 1000


@needs_root
def test_a_user_who_may_have_files_open_is_not_forbidden(base: Path) -> None:
    with Site(base, model="passthrough") as site:
        squash = "squash_to: {uid: 0, gid: 0}"
        site.reload("a", f"c, id_map: {{{squash}, forbid: {{uid: [{{guest: 10, count: 5}}]}}}}")
        site.write("a", f"c, id_map: {{{squash}, forbid: {{uid: [{{guest: 12, count: 5}}]}}}}")
        line = site.hang_up("cannot change while the guest runs")
        assert "export c: id_map.forbid.uid: 12 to 16 (users who were not forbidden before" in line
        site.reload("a", f"c, id_map: {{{squash}, forbid: {{uid: [{{guest: 11, count: 2}}]}}}}")


def test_the_log_has_another_form_at_once(site: Site) -> None:
    line = site.reload("a", "b", more="log_format: json\nlog_time: never\n")
    assert "log_format from auto to json; log_time from auto to never" in line
    assert json.loads(site.hang_up("nothing has changed"))["level"] == "info"
    site.reload("a", "b")
    assert site.hang_up("nothing has changed").startswith("vhost9p: INFO: ")


def test_a_broken_file_changes_nothing(site: Site) -> None:
    keeper = site.daemon.keepers
    site.file.write_text(site.file.read_text() + "colour: red\n")
    assert "vm.yaml:" in site.hang_up("colour")
    site.write("a", "missing")
    assert "missing cannot be exported" in site.hang_up("missing")
    site.write("a", "b")
    assert "nothing has changed" in site.hang_up(": reloaded: ")
    assert site.daemon.keepers == keeper
    assert site.names() == [b"a", b"b"]


def test_a_single_directory_stays_one(base: Path) -> None:
    for name in ("one", "two"):
        (base / name).mkdir()
    file, path = base / "vm.yaml", f"socket: {base}/9p.sock\npath: {base}/one\n"
    file.write_text(path)
    with Daemon("--config", str(file), socket=False) as daemon:
        file.write_text(f"socket: {base}/9p.sock\nexports:\n  - {{name: o, path: {base}/one}}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("exports: the guest has mounted a single directory")
        file.write_text(path.replace("/one", "/two"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("cannot change while the guest runs.*: path")
        file.write_text(f"{path}readonly: true\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("reloaded: readonly from false to true")
        with Machine(f"{base}/9p.sock") as machine:
            machine.boot()
            client = Client(machine)
            client.version()
            client.attach(ROOT)
            with fails(errno.EROFS):
                client.mkdir(ROOT, b"new")
        daemon.check_output()


@pytest.mark.parametrize("level", ["chroot", "none"])
def test_other_levels_of_confinement(base: Path, level: str) -> None:
    if level == "chroot" and not IS_ROOT:
        pytest.skip("chroot(2) needs root")
    with Site(base, more=f"sandbox: {level}\n") as site:
        gone = site.client.open(ROOT, (b"a", b"file"))
        site.reload("c", "b")
        assert site.read(b"c", b"file") == b"c"
        with fails(errno.ESTALE):
            site.client.read(gone, 0, 1)
        if level == "chroot":
            line = "  - {name: usr, path: /usr/share, readonly: true}\n"
            site.file.write_text(site.file.read_text() + line)
            site.hang_up("/usr/share is not below")


@needs_root
def test_a_daemon_of_an_ordinary_user(base: Path) -> None:
    for each in (base, base.parent):
        each.chmod(0o777)
    with Site(base, wrapper=AS_USER, more="force: true\n") as site:
        site.reload("c", "b")
        assert site.read(b"c", b"file") == b"c"
        assert site.names() == [b"b", b"c"]
        assert mounts_of(site.daemon) == ["b", "c"]
        site.reload("b")
        assert mounts_of(site.daemon) == ["b"]
