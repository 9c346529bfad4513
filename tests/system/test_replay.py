"""`vhost9p replay`: what was recorded is repeated in another directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_BLOCK, SET_MODE, UNLCK, WRLCK, Client, P9Errno
from tests.frontend.daemon import run_cli
from tests.frontend.dialect_u import OWRITE, DialectUClient
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, mounted, serve
from tests.system.watching import traced

Work = Callable[[Share], None]


def replay(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run_cli("replay", *words)


def fill(export: Path) -> None:
    (export / "dir").mkdir()
    (export / "dir/file").write_bytes(b"data" * 50_000)
    (export / "dir/caf\udcff").write_bytes(b"")
    for i in range(300):
        (export / f"dir/entry{i:03}").touch()
    os.symlink("dir/file", export / "link")


def recorded(
    export: Path, folder: Path, work: Work, before: Work | None = None, *,
    speaks: type[Client] = Client,
) -> tuple[Path, Path]:  # fmt: skip
    """Works in an export while it is traced. Returns the capture, and a copy of the export from
    before the trace."""
    fill(export)
    copy, capture = folder / "copy", folder / "trace.pcapng"
    with serve(export) as daemon, mounted(daemon, export, speaks=speaks) as share:
        if before:
            before(share)
        subprocess.run(["cp", "-a", export, copy], check=True)
        with traced(daemon, folder, "--pcap", str(capture), "--data", "65536") as tracer:
            work(share)
            share.client.walk(share.root, 4321)
            tracer.wait_for(lambda: (4321).to_bytes(4, "little") in capture.read_bytes())
    return capture, copy


def everything(share: Share) -> None:
    """A request of each kind, some of which fail."""
    client, root = share.client, share.root
    share.client.version()
    client.attach(root)
    fid = client.open(root, [b"dir", b"file"], os.O_RDWR)
    client.getattr(fid)
    client.read(fid, 0, 100)
    client.read(fid, 199_990, 100)
    client.write(fid, 10, b"new")
    client.write(fid, 0, b"x" * 60_000)
    client.lock(fid, WRLCK, proc_id=1, flags=LOCK_BLOCK)
    client.lock(fid, UNLCK, proc_id=1)
    client.fsync(fid)
    client.clunk(fid)
    client.clunk(client.create(root, b"made"))
    client.renameat(root, b"made", root, b"moved")
    client.mkdir(root, b"below")
    client.setattr(client.walk_to(root, b"moved"), SET_MODE, mode=0o600)
    client.readlink(client.walk_to(root, b"link"))
    assert len(client.listing(root, b"dir")) == 302
    for names in ([b"none"], [b"dir", b"none", b"x"]):
        with pytest.raises(P9Errno):
            client.walk_to(root, *names)
    with pytest.raises(P9Errno):
        client.unlinkat(root, b"dir", 0x200)
    client.walk_to(root, b"dir", b"caf\xff")
    client.statfs(root)


def test_a_copy_has_the_same_replies_and_becomes_the_same(export: Path, tmp_path: Path) -> None:
    capture, copy = recorded(export, tmp_path, everything)
    done = replay(capture, copy, "--", *SECURITY)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 skipped, 0 replies differ" in done.stdout
    assert "Twrite               2         0         0" in done.stdout
    subprocess.run(["diff", "-r", export, copy], check=True)
    assert (copy / "moved").stat().st_mode & 0o777 == 0o600


def test_a_trace_may_begin_in_the_middle_of_a_session(export: Path, tmp_path: Path) -> None:
    fids = {}

    def before(share: Share) -> None:
        fids["file"] = share.client.open(share.root, [b"dir", b"file"], os.O_RDWR)
        fids["dir"] = share.client.open(share.root, b"dir", os.O_DIRECTORY)
        fids["other"] = share.client.walk_to(share.root, b"dir")

    def work(share: Share) -> None:
        share.client.write(fids["file"], 0, b"later")
        assert list(share.client.entries(fids["dir"]))
        share.client.lopen(share.client.walk_to(fids["other"], b"file"), os.O_RDONLY)
        share.client.lopen(fids["other"], os.O_DIRECTORY)

    capture, copy = recorded(export, tmp_path, work, before)
    done = replay(capture, copy, "--", *SECURITY)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (copy / "dir/file").read_bytes()[:9] == b"laterdata"[:5] + (b"data" * 3)[5:9]


def test_the_other_dialect_is_repeated(export: Path, tmp_path: Path) -> None:
    def work(share: Share) -> None:
        client = share.client
        assert isinstance(client, DialectUClient)
        fid = client.walk_to(share.root, b"dir", b"file")
        client.open_fid(fid, OWRITE)
        client.write(fid, 0, b"new")
        with pytest.raises(P9Errno):
            client.walk_to(share.root, b"none")

    capture, copy = recorded(export, tmp_path, work, speaks=DialectUClient)
    done = replay(capture, copy, "--", *SECURITY)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (copy / "dir/file").read_bytes()[:4] == b"newa"


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on a tmpfs, where the last name that was made is listed first."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_a_list_in_the_other_dialect_may_have_another_order(
    export: Path, tmp_path: Path, in_memory: Path
) -> None:
    """It is compared as a whole, as in 9P2000.L: by what all of its entries have."""
    for i in range(1, 200, 5):
        (export / ("n" * i)).touch()

    def before(share: Share) -> None:
        share.client.walk_to(share.root)
        fids.append(walk_open(share))

    def walk_open(share: Share) -> int:
        assert isinstance(share.client, DialectUClient)
        return share.client.walk_open(share.root)

    def work(share: Share) -> None:
        assert isinstance(share.client, DialectUClient)
        for fid in (*fids, walk_open(share)):
            assert len([*share.client.stats(fid, 2000)]) == 44
        assert len([*share.client.stats(fid, 4000)]) == 44

    fids: list[int] = []
    capture, copy = recorded(export, tmp_path, work, before, speaks=DialectUClient)
    other = in_memory
    for path in sorted(copy.iterdir(), reverse=True):
        subprocess.run(["cp", "-a", path, other], check=True)
    done = replay(capture, other, "--", *SECURITY)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 replies differ" in done.stdout
    (other / "one more").touch()
    done = replay(capture, other, "--", *SECURITY)
    assert done.returncode == 1
    assert "bytes of entries when recorded" in done.stdout


def test_differences_are_named(export: Path, tmp_path: Path) -> None:
    capture, copy = recorded(export, tmp_path, everything)
    (copy / "dir/file").write_bytes(b"short")
    (copy / "dir/entry000").unlink()
    (copy / "none").touch()
    done = replay(capture, copy, "--", *SECURITY)
    assert done.returncode == 1 and done.stderr == ""
    assert ": Tgetattr '/dir/file': size 200000 when recorded, size 5 now" in done.stdout
    assert ": Twalk '/none': ENOENT when recorded, success now" in done.stdout
    assert "bytes of entries when recorded, " in done.stdout
    assert "Tread '/dir/file': count 100 when recorded, count 5 now" in done.stdout


def test_a_request_that_was_cancelled_is_skipped(export: Path, tmp_path: Path) -> None:
    def work(share: Share) -> None:
        client = share.client
        holder, waits = (client.open(share.root, [b"dir", b"file"], os.O_RDWR) for _ in range(2))
        client.lock(holder, WRLCK, proc_id=1)
        client.flush(client.submit(T.LOCK, waits, WRLCK, LOCK_BLOCK, 0, 0, 2, b"me"))

    capture, copy = recorded(export, tmp_path, work)
    done = replay(capture, copy, "--", *SECURITY)
    assert done.returncode == 0, done.stdout
    assert " 1 skipped, 0 replies differ" in done.stdout


# ---- bad input -----------------------------------------------------------------------------------


def refused(*words: str | Path) -> str:
    """The one line with which it ends."""
    done = replay(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_bad_traces_get_one_line(export: Path, tmp_path: Path) -> None:
    capture, copy = recorded(export, tmp_path, lambda share: None)
    data, bad = capture.read_bytes(), tmp_path / "bad"
    for damaged, line in (
        (b"", "bad is empty"),
        (b"text", "bad ends in the middle of a block, at byte 4"),
        (b"no capture at all", "bad is no capture in pcapng format, as vhost9p trace --pcap"),
        (data[:-3], f"bad ends in the middle of a block, at byte {len(data) - 3}"),
        (data[:60] + b"\xff" * 40 + data[100:], "bad "),
    ):
        bad.write_bytes(damaged)
        assert line in refused(bad, copy)
    assert "No such file" in refused(tmp_path / "none", copy)
    assert "is no directory" in refused(capture, tmp_path / "none")
    assert "has no device 'x'; there are: host0" in refused(capture, copy, "--device", "x")
    lacks = "unknown option --security-model; put -- before OPTIONS…"
    assert lacks in refused(capture, copy, "--security-model", "none")
    assert "unknown option --nonsense" in refused(capture, copy, "--", "--nonsense")
    shutil.rmtree(copy)
