"""Where the output of commands may go: to a reader that leaves, to nobody, to another encoding. And
what may answer them: anything, and daemons with mounts of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon, environment, run_cli
from tests.system.share import SECURITY, UNSHARE, mounted, needs_root, serve
from tests.system.test_control import place_of

WAYS = (["status"], ["status", "--json"], ["top", "--once"], ["trace", "--count", "4"])


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    with serve(export) as daemon:
        yield daemon


def shell(script: str, words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command ("$@") within a script of bash."""
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-m", "vhost9p", *words],
        capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment(env),
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [["status"], ["status", "--json"], ["top", "--once"], ["--print-schema"]]
)
def test_a_reader_that_leaves_is_no_error(daemon: Daemon, command: list[str]) -> None:
    if command[0].isalpha():
        command = [*command, "--control-socket", place_of(daemon).path]
    done = shell('"$@" | true; echo "${PIPESTATUS[0]}"', command)
    assert (done.stdout in ("141\n", "0\n"), done.stderr) == (True, "")


@pytest.mark.parametrize("command", WAYS)
def test_nobody_has_to_read_and_each_encoding_does(
    daemon: Daemon, export: Path, command: list[str]
) -> None:
    words = [*command, "--control-socket", place_of(daemon).path]
    name = "ünïcødé"
    (export / name).touch()
    with mounted(daemon, export) as share:
        ends = threading.Event()

        def work() -> None:
            while not ends.wait(0.01):
                share.client.clunk(share.client.walk_to(share.top, os.fsencode(name)))

        guest = threading.Thread(target=work)
        guest.start()
        try:
            for script, env in (('"$@" >&-', {}), ('"$@"', {"PYTHONIOENCODING": "ascii"})):
                done = shell(script, words, **env)
                assert done.returncode == 0, done.stderr
                assert "Traceback" not in done.stderr
        finally:
            ends.set()
            guest.join()


# ---- what answers --------------------------------------------------------------------------------

VM: dict[str, Any] = {"vm": "v", "config": None, "sockets": []}
HEAD = {"daemon": 1, "version": "0", "vms": 1}


@contextmanager
def answering(folder: Path, *objects: object) -> Iterator[str]:
    """A process that is no daemon, and answers each request with these. Yields its socket."""
    path = str(folder / "it.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(1 << 16)
                    lines = [json.dumps(each).encode() + b"\n" for each in (*objects, {"done": 1})]
                    sock.sendall(b"".join(lines))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "objects",
    [
        [],
        [VM],
        [HEAD, VM],
        [VM | {"devices": 7, "worker": 3}],
        [{"daemon": float("nan"), "version": []}],
        [{"vm": 1, "config": {}, "sockets": 5}],
        [{"format": 1, "devices": [{}]}],
        [{"vm": "v", "tag": "t", "export": "", "counts": {"types": [{"buckets": []}]}}],
    ],
)
def test_what_answers_anything_gets_one_line(scratch: Path, objects: list[object]) -> None:
    for command in (["status"], ["status", "v"], ["top", "--once"], ["trace", "v"], ["reload"]):
        with answering(scratch, *objects) as path:
            done = run_cli(*command, "--control-socket", path)
        os.unlink(path)
        assert done.returncode in (1, 2), (command, done)
        assert done.stdout == "" and done.stderr.startswith("vhost9p: "), (command, done)
        assert done.stderr.count("\n") == 1, (command, done)


def test_another_daemon_that_does_not_answer_does_not_hide_a_vm(
    daemon: Daemon, scratch: Path
) -> None:
    from vhost9p.control import client

    with answering(scratch, {"vm": 1}) as path:
        places = [client.Place(path), place_of(daemon)]
        assert client.find_vm(daemon.socket, places).place == place_of(daemon)
        assert client.only_vm(places).place == place_of(daemon)
        with pytest.raises(client.ControlError, match="in a form that is not known here"):
            client.find_vm("nope", places)


@needs_root
def test_a_daemon_with_mounts_of_its_own_is_asked(export: Path) -> None:
    """As one of a service with PrivateMounts, or of a container. Its control socket is where
    nobody else sees it."""
    hides = [*UNSHARE, "sh", "-c", 'mount -t tmpfs none /mnt && exec "$@"', "sh"]
    args = "--path", str(export), *SECURITY, "--control-socket", "/mnt/control.sock"
    with Daemon(*args, wrapper=hides) as daemon:
        for command in (["status", daemon.socket], ["status"], ["top", daemon.socket, "--once"]):
            done = run_cli(*command, "--json")
            assert daemon.socket in done.stdout, done
