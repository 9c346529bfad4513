"""`vhost9p trace`: a running device's requests, watched from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend import PATIENCE
from tests.frontend.client import LOCK_BLOCK, WRLCK, Client, P9Errno
from tests.frontend.daemon import Daemon, environment, run_cli
from tests.frontend.deaths import kill
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.wire import T
from tests.system.share import AS_USER, IS_ROOT, Share, mounted, needs_root, serve
from tests.system.test_upgrade import upgraded
from tests.system.watching import Tracer, traced

NAME = "odd \\ \n name"


@pytest.fixture
def share(export: Path) -> Iterator[Share]:
    (export / "dir").mkdir(exist_ok=True)
    (export / "dir/file").write_bytes(b"secret")
    (export / NAME).write_bytes(b"")
    with serve(export, "--multidevs", "remap") as daemon, mounted(daemon, export) as share:
        yield share


def read_file(share: Share) -> None:
    """What a guest's `cat dir/file` does."""
    fid = share.client.open(share.root, [b"dir", b"file"])
    assert share.client.read(fid, 0, 4096) == b"secret"
    share.client.clunk(fid)


def shown(share: Share, tracer: Tracer, *types: str) -> list[str]:
    """The lines of requests that end with a Tstatfs, which is not shown."""
    share.client.statfs(share.root)
    tracer.wait_for(lambda: "Tstatfs" in tracer.text)
    tracer.end()
    lines = tracer.text.splitlines()
    return [line for line in lines if not types or line.split()[3] in types][: -1 or None]


def test_a_read_is_shown_with_the_path_of_the_guest(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path) as tracer:
        read_file(share)
        lines = shown(share, tracer)
    assert [line.split()[3] for line in lines] == ["Twalk", "Tlopen", "Tread", "Tclunk"]
    assert all(" '/dir/file' " in line for line in lines)
    assert "offset 0 count 4096 = count 6" in lines[2]
    assert "secret" not in tracer.text


def test_paths_of_entries_and_of_renames(share: Share, tmp_path: Path) -> None:
    client, root = share.client, share.root
    with traced(share.daemon, tmp_path) as tracer:
        client.clunk(client.create(root, b"new"))
        client.renameat(root, b"new", root, b"newer")
        below = client.walk_to(root, b"dir")
        client.renameat(root, b"newer", below, b"newest")
        client.unlinkat(below, b"newest")
        client.walk_to(below, b"..", os.fsencode(NAME))
        lines = shown(share, tracer)
    text = "\n".join(lines)
    assert "Tlcreate" in text and "'/new' flags O_RDWR" in text
    assert "'/new' to '/newer'" in text and "'/newer' to '/dir/newest'" in text
    assert "Tunlinkat" in text and "'/dir/newest' flags 0 = done" in text
    assert "'/odd \\\\ \\x0a name' newfid" in text, "it stays one line"


def test_errors_have_names_and_can_be_asked_for(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path, "--errno", "ENOENT,enotdir", "--count", "2") as tracer:
        read_file(share)
        for names in ([b"none"], [b"dir", b"file", b"x"]):
            with pytest.raises(P9Errno):
                share.client.walk_to(share.root, *names)
        with pytest.raises(P9Errno):
            share.client.unlinkat(share.root, b"none")
        assert tracer.process.wait(60) == 0
    lines = tracer.text.splitlines()
    assert [line.rpartition("= ")[2] for line in lines] == ["ENOENT", "ENOENT"]


@pytest.mark.parametrize(
    ("options", "types"),
    [
        (["--path", "/dir"], ["Twalk", "Tlopen", "Tread", "Tclunk"]),
        (["--path", "dir/file"], ["Twalk", "Tlopen", "Tread", "Tclunk"]),
        (["--path", "*ile", "--type", "tread,Tlopen"], ["Tlopen", "Tread"]),
        (["--path", "/file"], []),
        (["--type", "clunk"], ["Tclunk"]),
        (["--fid", "999"], []),
        (["--slower", "60000"], []),
        (["--device", "host0", "--type", "Tread"], ["Tread"]),
    ],
)
def test_filters(share: Share, tmp_path: Path, options: list[str], types: list[str]) -> None:
    with (
        traced(share.daemon, tmp_path, "--type", "Tstatfs") as other,
        traced(share.daemon, tmp_path / "..", *options) as tracer,
    ):
        read_file(share)
        share.client.statfs(share.root)
        other.wait_for(lambda: "Tstatfs" in other.text)
        if types:
            tracer.wait_for(lambda: types[-1] in tracer.text)
        tracer.end()
        assert [line.split()[3] for line in tracer.text.splitlines()] == types


def until_unlinked(tracer: Tracer) -> list[str]:
    tracer.wait_for(lambda: "Tunlinkat" in tracer.text)
    return tracer.text.splitlines()


def test_a_name_that_is_no_utf8(share: Share, tmp_path: Path) -> None:
    """It is shown as escapes, by which it can be asked for; and JSON is UTF-8."""
    client, root = share.client, share.root
    for words in ([], ["--json"]):
        with traced(share.daemon, tmp_path, "--path", r"/\xff*", *words) as tracer:
            client.clunk(client.create(root, b"\xff"))
            client.unlinkat(root, b"\xff")
            lines = until_unlinked(tracer)
        assert any(r"/\\xff" in line if words else r"'/\xff'" in line for line in lines)
        assert not any("udcff" in line for line in lines)


def test_json_has_all_fields(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path, "--json", "--data", "3", "--count", "4") as tracer:
        read_file(share)
        assert tracer.process.wait(60) == 0
    walk, _, read, _ = tracer.objects()
    assert walk["device"] == "host0" and walk["paths"] == ["/dir/file"]
    assert walk["request"]["names"] == ["dir", "file"] and len(walk["reply"]["qids"]) == 2
    assert read["reply"] == {"count": 6, "data": "sec"} and read["reply_size"] == 17
    assert read["latency"] > 0 and read["errno"] is None
    assert read["number"] == walk["number"] + 2


def test_the_other_dialect_is_taken_apart_too(export: Path, tmp_path: Path) -> None:
    (export / "dir").mkdir()
    (export / "dir/file").touch()
    with serve(export) as daemon, mounted(daemon, export, speaks=DialectUClient) as other:
        client = other.client
        assert isinstance(client, DialectUClient)
        with traced(daemon, tmp_path) as tracer:
            fid = client.walk_to(other.root, b"dir", b"file")
            client.wstat(fid, mode=0o640, length=5)
            client.stat(fid)
            client.wstat(fid, name=b"moved")
            client.wstat(fid, name=b"file")
            client.open_fid(fid, 0)
            with pytest.raises(P9Errno):
                client.walk_to(other.root, b"none")
            tracer.wait_for(lambda: "ENOENT" in tracer.text)
    walk, changed, stat, renamed, _, opened, failed = tracer.text.splitlines()
    assert "'/dir/file' stat mode 0640 length 5 = done" in changed
    assert re.search("= stat qid file 0x.* mode 0640 .*length 5 name 'file' uid '", stat)
    assert "'/dir/file' to '/dir/moved' stat name 'moved' = done" in renamed
    assert "Topen" in opened and "'/dir/file' mode OREAD = qid file" in opened
    assert "'/none'" in failed and failed.endswith("= ENOENT")
    assert "2 of 2 names" in walk


def test_a_request_that_waits_is_shown_with_all_its_time(share: Share, tmp_path: Path) -> None:
    client = share.client
    holder, waits = (client.open(share.root, [b"dir", b"file"], os.O_RDWR) for _ in range(2))
    client.lock(holder, WRLCK, proc_id=1)
    with traced(share.daemon, tmp_path, "--type", "Tlock,Tflush", "--json") as tracer:
        ticket = client.submit(T.LOCK, waits, WRLCK, LOCK_BLOCK, 0, 0, 2, b"me")
        client.flush(ticket)
        tracer.wait_for(lambda: tracer.text.count("\n") == 2)
    lock, flush = tracer.objects()
    assert (lock["type"], lock["errno"], lock["paths"]) == ("Tlock", "EINTR", ["/dir/file"])
    assert flush["request"] == {"oldtag": ticket.tag}


# ---- processes that end --------------------------------------------------------------------------


def is_on(daemon: Daemon) -> bool:
    """Whether the worker records requests, as its memory says."""
    for name in os.listdir(f"/proc/{daemon.pid}/fd"):
        path = f"/proc/{daemon.pid}/fd/{name}"
        if "vhost9p-trace" in os.readlink(path):
            with open(path, "rb") as file:
                return file.read(1) != b"\0"
    raise AssertionError("main has no such memory")


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_recorded_after_the_tracer(share: Share, tmp_path: Path, number: int) -> None:
    assert not is_on(share.daemon)
    with traced(share.daemon, tmp_path) as tracer:
        assert is_on(share.daemon)
        assert tracer.end(number) == (-number if number == signal.SIGKILL else 0)
        share.daemon.wait_until(lambda: not is_on(share.daemon), "main switches it off")
    with traced(share.daemon, tmp_path) as tracer:
        read_file(share)
        assert len(shown(share, tracer)) == 4


def test_what_was_recorded_before_the_end_is_shown(share: Share, tmp_path: Path) -> None:
    """A person who ends the trace has just seen the guest do it."""
    with traced(share.daemon, tmp_path) as tracer:
        tracer.process.send_signal(signal.SIGSTOP)
        read_file(share)
        tracer.process.send_signal(signal.SIGINT)
        tracer.process.send_signal(signal.SIGCONT)
        assert tracer.process.wait(PATIENCE) == 0
    asked = [line.split()[3] for line in tracer.text.splitlines()]
    assert asked == ["Twalk", "Tlopen", "Tread", "Tclunk"]


def test_a_trace_goes_on_with_the_next_worker(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path, "--json") as tracer:
        for _ in range(5):
            read_file(share)
            kill(share.daemon.worker)
        read_file(share)
        share.client.statfs(share.root)
        tracer.wait_for(lambda: "Tstatfs" in tracer.text)
    numbers = [each["number"] for each in tracer.objects()]
    assert len(numbers) >= 6 * 4 + 1
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    assert all(each["paths"] == ["/dir/file"] for each in tracer.objects()[:-1])


def test_a_trace_goes_on_after_an_upgrade(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path) as tracer:
        read_file(share)
        upgraded(share.daemon)
        tracer.wait_for(lambda: "the daemon was replaced" in tracer.err.read_text())
        read_file(share)
        assert [line.split()[3] for line in shown(share, tracer)][-4:] == [
            *("Twalk", "Tlopen", "Tread", "Tclunk"),
        ]


def test_a_trace_ends_with_its_daemon(share: Share, tmp_path: Path) -> None:
    with traced(share.daemon, tmp_path) as tracer:
        share.machine.close()
        share.daemon.stop()
        assert tracer.process.wait(60) in (0, 1)
    assert "has ended" in tracer.err.read_text()


def test_a_slow_tracer_says_how_many_requests_it_has_lost(share: Share, tmp_path: Path) -> None:
    fid = share.client.open(share.root, [b"dir", b"file"], os.O_RDWR)
    share.client.write(fid, 0, bytes(60000))
    with traced(share.daemon, tmp_path, "--json", "--data", "65536") as tracer:
        tracer.process.send_signal(signal.SIGSTOP)
        for _ in range(200):
            share.client.read(fid, 0, 60000)
        tracer.process.send_signal(signal.SIGCONT)
        tracer.wait_for(lambda: '"Tread"' in tracer.text or share.client.read(fid, 0, 1) == b"")
        share.client.statfs(share.root)
        tracer.wait_for(lambda: "Tstatfs" in tracer.text)
    found = tracer.objects()
    lost = sum(each.get("lost", 0) for each in found)
    seen = [each for each in found if "number" in each]
    assert lost > 0
    assert seen[-1]["number"] == seen[0]["number"] + len(seen) - 1 + (
        lost if found[0].get("lost") is None else 0
    )
    assert f"{lost} requests in all were lost" in tracer.err.read_text()


def test_the_reader_of_a_pipe_may_go(share: Share) -> None:
    command = f"{sys.executable} -m vhost9p trace {share.daemon.socket} | head -n 1"
    with subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment({}),
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        assert "watching" in process.stderr.readline()
        for _ in range(300):
            read_file(share)
        assert "Twalk" in process.stdout.readline()
        while process.poll() is None:
            read_file(share)
        assert process.stderr.read() == ""


# ---- who may, and bad input ----------------------------------------------------------------------


def refused(*words: str, wrapper: tuple[str, ...] = ()) -> str:
    """The one line with which the command ends."""
    done = run_cli("trace", *words, wrapper=wrapper)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="only root can be another user")
def test_another_user_cannot_trace(share: Share) -> None:
    assert "no daemon" in refused(share.daemon.socket, wrapper=(*AS_USER,))
    assert not is_on(share.daemon)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--type", "Twlak"], "--type: 'Twlak' has 'Twlak', which is no request; did you mean"),
        (["--errno", "ENOSUCH"], "--errno: 'ENOSUCH' has 'ENOSUCH', which is no errno such as"),
        (["--slower", "nan"], "--slower: 'nan' is no number of milliseconds from 0 to 86400000"),
        (["--data", "65537"], "--data: '65537' "),
        (["--count", "0"], "--count: '0' "),
        (["--json", "--pcap", "-"], "--json and --pcap - both write to standard output"),
        (["--device", "other"], "has no device 'other'; there are: host0"),
        (["--pcap", "/no/such/folder/file"], "/no/such/folder/file"),
    ],
)
def test_bad_options_get_one_line(share: Share, words: list[str], line: str) -> None:
    found = refused(share.daemon.socket, *words)
    assert line in found.replace("vhost9p: watching", ""), found


def test_a_vm_that_there_is_not_gets_one_line(share: Share) -> None:
    assert "no daemon has a VM '/no/such.sock'; there are: " in refused("/no/such.sock")


def test_a_client_of_the_ring_can_not_see_the_memory(share: Share) -> None:
    """The worker has no descriptor of it."""
    for name in os.listdir(f"/proc/{share.daemon.worker}/fd"):
        target = os.readlink(f"/proc/{share.daemon.worker}/fd/{name}")
        assert "vhost9p-trace" not in target
    assert isinstance(share.client, Client)
