"""What a worker of a running daemon is left with: descriptors, namespaces, rights."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon, worker_of
from tests.frontend.machine import Machine
from tests.system.share import (
    AS_USER,
    IS_ROOT,
    SECURITY,
    USER,
    USER_GROUP,
    needs_root,
)
from vhost9p.ends import OOM_KILLS

NAMESPACES = ("pid", "mnt", "net", "ipc", "uts")
USERS = [pytest.param("root", marks=needs_root), "user"]


@pytest.fixture(params=USERS)
def vms(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The workers of two VMs of one daemon, with a state directory each, and each with a guest
    that has a file open."""
    is_other = request.param == "user" and IS_ROOT
    model = SECURITY[1] if request.param == "root" else "mapped-xattr"
    daemon = Daemon(socket=False, wrapper=AS_USER if is_other else ())
    folder = daemon.directory / "vms"
    for name in ("a", "b"):
        (daemon.directory / name).mkdir()
        (daemon.directory / name / "file").touch()
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(
            f"socket: {daemon.directory}/{name}.sock\npath: {daemon.directory / name}\n"
            f"security_model: {model}\nmultidevs: remap\nsandbox: namespace\n"
            f"state_dir: {daemon.directory / name}-state\n"
        )
    if is_other:
        for path in (daemon.directory, *daemon.directory.rglob("*")):
            os.chown(path, USER, USER_GROUP)
    daemon.args = ["--config-dir", str(folder)]
    daemon.ready = "vms: 2 VMs"
    with daemon, ExitStack() as guests:
        for name in ("a", "b"):
            daemon.wait_line(f"^vhost9p: {name}: serving ")
            machine = guests.enter_context(Machine(f"{daemon.directory}/{name}.sock"))
            client = Client(machine.boot())
            client.version()
            client.attach(1)
            client.open(1, b"file", os.O_RDWR)
        first, second = map(worker_of, daemon.keepers)
        yield first, second


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_a_worker_may_open_as_many_files_as_is_allowed(tmp_path: Path) -> None:
    """The hard limit, whatever the soft one is."""
    wrapper = ("prlimit", "--nofile=300:2000")
    with Daemon("--path", str(tmp_path), *SECURITY, wrapper=wrapper) as daemon:
        limits = Path(f"/proc/{daemon.worker}/limits").read_text(encoding="ascii")
    assert "Max open files            2000                 2000" in limits


def test_nothing_outside_its_mounts_is_open(vms: tuple[int, int]) -> None:
    """A directory would be a way out, also for who sees none by a path."""
    for pid in vms:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8")
        inside = {line.split()[0] for line in mounts.splitlines()}
        opened = 0
        for link in Path(f"/proc/{pid}/fd").iterdir():
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()
            mode = link.stat().st_mode
            is_outside = info[info.index("mnt_id:") + 1] not in inside
            assert not (is_outside and stat.S_ISDIR(mode)), os.readlink(link)
            if is_outside and stat.S_ISREG(mode):
                target = os.readlink(link)
                assert target.startswith("/memfd:") or target.endswith(
                    ("/oom_score_adj", OOM_KILLS)
                )
            opened += not is_outside
        assert opened > 3


def test_vms_share_no_descriptors(vms: tuple[int, int]) -> None:
    """Save /dev/null, the kernel's count of kills, and what has no inode of its own (eventfds and
    their kind)."""
    found: list[dict[tuple[int, int], str]] = []
    for pid in vms:
        links = {link: os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert any(text.startswith("socket:") for text in links.values())
        own = {
            link: text
            for link, text in links.items()
            if text not in ("/dev/null", OOM_KILLS) and not text.startswith("anon_inode:")
        }
        status = {link: link.stat() for link in own}
        found.append({(status[link].st_dev, status[link].st_ino): own[link] for link in own})
    assert not {found[0][file] for file in found[0].keys() & found[1].keys()}


def test_vms_share_no_namespaces(vms: tuple[int, int]) -> None:
    for name in NAMESPACES:
        everybody = (*vms, os.getpid())
        assert len({os.readlink(f"/proc/{pid}/ns/{name}") for pid in everybody}) == 3


def test_a_worker_has_given_up_its_rights(vms: tuple[int, int]) -> None:
    for pid in vms:
        has, limits = status(pid), Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        assert has["NoNewPrivs"] == "1"
        assert has["Seccomp"] == "2"
        assert has["Groups"] == "" or not IS_ROOT
        assert has["CapPrm"] == has["CapBnd"] or int(has["CapPrm"], 16) == 0
        assert int(has["CapInh"], 16) == int(has["CapAmb"], 16) == 0
        assert "Max core file size        1                    1" in limits
