"""The control socket: who may ask, and that nobody who asks can hold the daemon up."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.deaths import kill
from tests.system.share import USER, USER_GROUP, as_user, mounted, needs_root, serve
from tests.system.test_config_dir import Folder
from tests.system.test_upgrade import upgraded
from vhost9p.control import LINE_MAX
from vhost9p.control.client import ControlError, Place, ask, find_vm
from vhost9p.control.server import CLIENTS_MAX


def place_of(daemon: Daemon) -> Place:
    """Where a daemon answers: the default place, in the tests' environment."""
    return Place(str(daemon.directory / "vhost9p" / f"{daemon.pid}.sock"), daemon.pid)


def vms(daemon: Daemon) -> list[str]:
    """The names of its VMs."""
    return [each["vm"] for each in ask(place_of(daemon), {"command": "list"})]


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    with serve(export) as daemon:
        yield daemon


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(place_of(daemon).path)  # waits for room in the backlog
    sock.settimeout(PATIENCE)
    return sock


def lines(sock: socket.socket) -> list[dict[str, Any]]:
    """All that it says, until it ends the connection."""
    with sock.makefile("rb") as file:
        return [json.loads(line) for line in file]


def test_only_the_user_can_connect(daemon: Daemon) -> None:
    path = Path(place_of(daemon).path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@needs_root
def test_another_user_is_refused_even_if_the_file_lets_him_in(daemon: Daemon) -> None:
    path = Path(place_of(daemon).path)
    for each in (path, path.parent, daemon.directory):
        each.chmod(0o777)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.setgroups([])
        os.setresgid(USER_GROUP, USER_GROUP, USER_GROUP)
        os.setresuid(USER, USER, USER)
        with connect(daemon) as sock:
            os.write(write, json.dumps(lines(sock)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        (answer,) = json.load(file)
    os.waitpid(pid, 0)
    assert answer["error"] == "only root and the daemon's user may ask"


WRONG = [
    (b"x\n", "a request is a JSON object on a line"),
    (b"[" * 60000 + b"\n", "a request is a JSON object on a line"),
    (b"\xff\n", "a request is a JSON object on a line"),
    (b"[1]\n", 'a request is a JSON object with a "command"'),
    (b'{"command": 1}\n', 'a request is a JSON object with a "command"'),
    (b'{"command": "__init__"}\n', "unknown command '__init__'"),
    (b"x" * (LINE_MAX + 1), f"a request has more than {LINE_MAX} bytes"),
]


@pytest.mark.parametrize("data,said", WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_request_gets_one_line(daemon: Daemon, data: bytes, said: str) -> None:
    with connect(daemon) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        (answer,) = lines(sock)
    assert answer["error"] == said
    assert vms(daemon) == [daemon.socket]


def test_requests_are_answered_one_after_the_other(daemon: Daemon) -> None:
    with connect(daemon) as sock:
        sock.sendall(b'{"command": "list"}\nx\n{"command": "list"}')
        sock.shutdown(socket.SHUT_WR)
        found = lines(sock)
    assert [next(iter(each)) for each in found] == ["vm", "done", "error", "vm", "done"]


def test_clients_that_do_nothing_hold_up_nobody(daemon: Daemon, export: Path) -> None:
    """Nor does one that asks again and again, and does not read the answers."""
    idle = [connect(daemon) for _ in range(2 * CLIENTS_MAX)]
    with connect(daemon) as flood:
        flood.settimeout(1)
        with pytest.raises((TimeoutError, ConnectionError)):
            while True:
                flood.sendall(b'{"command": "status"}\n' * 1000)
        with mounted(daemon, export) as share:
            share.client.getattr(share.top)
        daemon.wait_until(lambda: can_ask(daemon), "nobody else can ask")
    for each in idle:
        each.close()


def can_ask(daemon: Daemon) -> bool:
    try:
        return vms(daemon) == [daemon.socket]
    except ControlError:
        return False


def test_a_client_that_says_nothing_is_disconnected(daemon: Daemon) -> None:
    with connect(daemon) as sock:
        sock.sendall(b'{"command"')
        assert lines(sock) == []


def test_no_descriptor_left_costs_no_time(daemon: Daemon) -> None:
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, before[1]))
    with connect(daemon) as sock:
        sock.sendall(b'{"command": "list"}\n')
        sock.shutdown(socket.SHUT_WR)
        start = cpu_time(daemon.pid)
        time.sleep(0.5)
        assert cpu_time(daemon.pid) - start < 20, "it tries all the time"
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert lines(sock)[-1] == {"done": True}


def cpu_time(pid: int) -> int:
    """Of a process, in ticks of 10 ms (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_it_is_there_after_an_upgrade_and_after_deaths(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        upgraded(daemon)
        assert vms(daemon) == [daemon.socket]
        kill(daemon.worker)
        os.kill(daemon.keepers[0], signal.SIGKILL)
        share.client.getattr(share.root)
        assert vms(daemon) == [daemon.socket]


def test_what_a_killed_daemon_has_left_is_removed(export: Path) -> None:
    daemon = serve(export).start()
    left = Path(place_of(daemon).path)
    daemon.die()
    assert left.exists()
    env = {"XDG_RUNTIME_DIR": str(daemon.directory)}
    with Daemon("--path", str(export), env=env):
        assert not left.exists()
    daemon.kill()


def test_it_is_removed_at_the_end(export: Path) -> None:
    with serve(export) as daemon:
        path = Path(place_of(daemon).path)
        assert path.exists()
        daemon.stop()
        assert not path.exists()


def test_a_place_can_be_named(export: Path, tmp_path: Path) -> None:
    path = f"/tmp/v9-control-{os.getpid()}"
    with serve(export, "--control-socket", path) as daemon:
        assert vms_at(Place(path)) == vms_at(Place(path, daemon.pid)) == [daemon.socket]
        done = run_cli("--socket", f"{path}-2", "--path", str(tmp_path), "--control-socket", path)
        assert done.returncode == 1
        assert f"vhost9p: {path} is in use: another process listens there\n" in done.stderr


def vms_at(place: Place) -> list[str]:
    return [each["vm"] for each in ask(place, {"command": "list"})]


def test_there_may_be_none(export: Path) -> None:
    with serve(export, "--control-socket", "off") as daemon:
        assert not (daemon.directory / "vhost9p").exists()
        with pytest.raises(ControlError, match="no daemon listens there"):
            vms(daemon)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_change_is_not_used(export: Path, mode: int) -> None:
    daemon = serve(export)
    folder = daemon.directory / "vhost9p"
    folder.mkdir()
    folder.chmod(mode)
    with daemon:
        daemon.wait_line("WARNING: no control socket until .*: .*/vhost9p: others may write there$")


def test_a_file_in_a_folder_of_vms_names_no_place(scratch: Path) -> None:
    folder = Folder(scratch)
    folder.add("a", "control_socket: off\n")
    folder.add("b")
    with folder.daemon as daemon:
        daemon.wait_line(
            r"vhost9p: .*/a.yaml:\d+:1: control_socket: is the daemon's: give it --control-socket$"
        )
        assert vms(daemon) == ["b"]


def test_another_process_at_the_place_is_not_asked(daemon: Daemon) -> None:
    with pytest.raises(ControlError, match="another process listens at"):
        list(ask(Place(place_of(daemon).path, os.getpid()), {"command": "list"}))


def test_a_vm_is_found_by_each_of_its_names(scratch: Path) -> None:
    folder = Folder(scratch)
    folder.add("a")
    folder.add("b")
    with folder.daemon as daemon:
        folder.is_served("a")
        folder.is_served("b")
        places = [place_of(daemon)]
        for name in ("b", str(folder.path / "b.yaml"), folder.socket("b")):
            assert find_vm(name, places).vm == "b"
        with pytest.raises(ControlError, match=r"no daemon has a VM 'c'; there are: a, b$"):
            find_vm("c", places)
        ended = Place(str(scratch / "nobody.sock"))
        assert find_vm("b", [ended, *places]).vm == "b"
        with pytest.raises(ControlError, match=r"there are: a, b; .*nobody\.sock: no daemon lis"):
            find_vm("c", [ended, *places])
        with pytest.raises(ControlError, match=r"^[^;]*nobody\.sock: no daemon listens there$"):
            find_vm("c", [ended])


def test_an_ordinary_users_daemon_has_one() -> None:
    with as_user() as share:
        assert vms(share.daemon) == [share.daemon.socket]
