"""What is refused because of how exports and the daemon's files lie to one another.

What needs mounts runs in a mount namespace of its own: this file is also the program that runs
there, `python -m tests.test_preflight CASE DIRECTORY`.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.config_export import EXPORT_KEYS
from vhost9p.errors import UserError
from vhost9p.marked import reader
from vhost9p.native.dir_marks import DirMarks
from vhost9p.policy import spelling
from vhost9p.policy.mounts import parse_mountinfo
from vhost9p.preflight import check

UNSUPPORTED = 77
"""Exit status where this kernel or user cannot mount what the case needs."""
FORCE = "or force it (--force; in a file, force: true)"


class Host:
    """Directories below one, and a configuration that is right: exports apart, files elsewhere."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for name in ("a/in", "b/in", "own/state"):
            (top / name).mkdir(parents=True)

    def device(self, name: str, **changes: object) -> DeviceConfig:
        """An export of directory `name`, with its socket and state elsewhere. `changes` are the
        export's or the device's."""
        export = ExportConfig(f"{self.top}/{name}")
        own: dict[str, object] = {key: changes.pop(key) for key in EXPORT_KEYS if key in changes}
        own["origin"] = changes.get("origin", "")
        device = DeviceConfig(
            (replace(export, **own),),  # type: ignore[arg-type]
            socket=f"{self.top}/own/{name.replace('/', '-')}.sock",
            state_dir=f"{self.top}/own/state",
        )
        return replace(device, **changes)  # type: ignore[arg-type]

    def refused(self, *devices: DeviceConfig, **more: Any) -> list[str]:
        """What is wrong, with the directory's name left out."""
        try:
            check(Config(devices, **more))
        except UserError as error:
            return [each.replace(f"{self.top}/", "") for each in error.problems]
        return []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# ---- the directory and the socket ----------------------------------------------------------------


def test_separate_exports_are_right(host: Host) -> None:
    assert host.refused(host.device("a"), host.device("b"), file=f"{host.top}/own/vm.yaml") == []


def test_every_device_is_looked_at(host: Host) -> None:
    (host.top / "file").touch()
    found = host.refused(
        host.device("none", origin="vm.yaml:2:3: "),
        host.device("file", origin="vm.yaml:5:3: "),
        host.device("a", socket=f"{host.top}/none/s"),
    )
    assert found == [
        "vm.yaml:2:3: none cannot be exported: No such file or directory; it must be a readable "
        "directory",
        "vm.yaml:5:3: file cannot be exported: Not a directory; it must be a readable directory",
        "none/s: there is no directory none to create the socket in",
    ]


def test_cpus_that_the_daemon_may_not_use(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    assert host.refused(host.device("a", cpus=(0, 3))) == []
    assert host.refused(host.device("a", cpus=(1, 3, 9), origin="vm.yaml:2:3: ")) == [
        "vm.yaml:2:3: cpus: the daemon may not run on CPU 1, 9, but on 0, 3"
    ]


# ---- the daemon's own files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (0, None),
        (errno.ENOSYS, "the kernel reports no changes to this user (fanotify_init: Function not"),
        (errno.EMFILE, "this user has too many groups of fanotify(7); end something, or raise"),
    ],
)
def test_notify_takes_a_kernel_that_reports_changes(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: int, reason: str | None
) -> None:
    """To who may not watch file systems."""

    def refuse(_: int) -> DirMarks:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(reader, "may_mark_file_systems", lambda: False)
    if error:
        monkeypatch.setattr(reader, "DirMarks", refuse)
    found = host.refused(host.device("a", notify=True), host.device("b"))
    assert len(found) == (reason is not None)
    assert all(each.startswith(f"notify: {reason}") for each in found)


def test_file_systems_without_user_attributes(host: Host) -> None:
    device = host.device("a", path="/proc/sys", readonly=True, force=True)
    mapped = replace(device, exports=(replace(device.exports[0], security_model="mapped-xattr"),))
    assert host.refused(device) == []
    (said,) = host.refused(mapped)
    assert said == (
        "/proc/sys is on a file system without user.* attributes, in which security_model "
        "mapped-xattr keeps owners and modes; set security_model to mapped-file"
    )
    assert host.refused(host.device("b", security_model="mapped-xattr")) == []


def test_hidden_paths_need_names_with_one_spelling(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.refused(host.device("a", hide=(".env",))) == []
    types = set(parse_mountinfo(Path("/proc/self/mountinfo").read_bytes()).values())
    monkeypatch.setattr(spelling, "IGNORES_CASE", {each.fs_type for each in types})
    assert host.refused(host.device("a")) == []
    (said,) = host.refused(host.device("a", hide=(".env",)))
    assert said.startswith("hide: cannot be used where names have several spellings, and a is ")
    monkeypatch.undo()
    monkeypatch.setattr(spelling, "_ignores_case", lambda fd: True)
    assert host.refused(host.device("a", hide=(".env",))) == [
        "hide: cannot be used where names have several spellings, and a is a directory that "
        "ignores case; export a file system that tells names apart by each byte, or leave hide out"
    ]


def test_an_export_that_contains_the_socket_is_refused(host: Host) -> None:
    inside = f"{host.top}/a/in/s"
    assert host.refused(host.device("a", socket=inside)) == [
        "a: the export contains the daemon's socket a/in/s, which no guest should reach; move the "
        f"one or the other, {FORCE}"
    ]
    assert host.refused(host.device("a"), host.device("b", socket=inside)), "any device's socket"
    assert host.refused(host.device("a", socket=inside, readonly=True)), "it is no guest's to read"
    assert not host.refused(host.device("a", socket=inside, force=True))


def test_a_link_hides_nothing(host: Host) -> None:
    (host.top / "link").symlink_to("a/in")
    assert host.refused(host.device("a", socket=f"{host.top}/link/s"))
    assert host.refused(host.device("link", socket=f"{host.top}/a/in/s"))
    assert not host.refused(host.device("link", socket=f"{host.top}/a/s"))


def test_names_that_begin_alike_are_apart(host: Host) -> None:
    (host.top / "a-more").mkdir()
    assert not host.refused(host.device("a", socket=f"{host.top}/a-more/s"))
    assert not host.refused(host.device("a"), host.device("a-more"))


def test_an_export_that_contains_an_inherited_socket_is_refused(host: Host) -> None:
    short = f"/tmp/v9-{os.getpid()}"  # a socket's name is limited
    with socket.socket(socket.AF_UNIX) as listening, open("/dev/null", "rb") as other:
        fd = listening.fileno()
        unbound = host.refused(host.device("a", socket=None, fd=fd))
        assert unbound == [f"--fd {fd} neither listens nor is connected"], "it has no path yet"
        os.symlink(host.top, short)
        try:
            listening.bind(f"{short}/a/in/s")
            listening.listen()
            assert "daemon's socket" in host.refused(host.device("a", socket=None, fd=fd))[0]
        finally:
            os.unlink(short)
        # Without the link, the name that the socket knows leads nowhere.
        assert not host.refused(host.device("a", socket=None, fd=fd))
        assert not host.refused(host.device("b", socket=None, fd=fd))
        no_socket = host.refused(host.device("a", socket=None, fd=other.fileno()))
        assert no_socket == [f"--fd {other.fileno()} is not a socket"]


def test_an_export_that_contains_the_state_is_refused(host: Host) -> None:
    (host.top / "a/state").mkdir()
    device = host.device("a", state_dir=f"{host.top}/a/state")
    assert "the daemon's state directory a/state" in host.refused(device)[0]
    unused = replace(device, state_dir=f"{host.top}/a/in/not/yet")
    assert not host.refused(unused), "nobody keeps state there"
    assert host.refused(replace(unused, multidevs="remap")), "it will be made there"


def test_an_export_that_contains_the_configuration_is_refused(host: Host) -> None:
    file = host.top / "a/vm.yaml"
    file.touch()
    (found,) = host.refused(host.device("a", origin="vm.yaml:1:1: "), file=str(file))
    assert found.startswith("vm.yaml:1:1: a: the export contains the daemon's configuration a/vm")
    assert not host.refused(host.device("b"), file=str(file))


@pytest.mark.parametrize("key,what", [("control_socket", "control socket"), ("metrics", "metrics")])
def test_an_export_that_contains_a_socket_of_the_daemon_is_refused(
    host: Host, key: str, what: str
) -> None:
    for place, count in ((f"{host.top}/a/s", 1), (f"{host.top}/s", 0), ("off", 0)):
        found = host.refused(host.device("a"), **{key: place})
        assert len(found) == count
        assert all(f"the daemon's {what}" in each for each in found)


def test_exporting_the_root_directory_is_refused(host: Host) -> None:
    found = host.refused(host.device("a", path="/"))
    assert any(each.endswith(f"export a directory below /, {FORCE}") for each in found)
    assert not host.refused(host.device("a", path="/", force=True))


# ---- overlaps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("one,other", [("a", "a/in"), ("a/in", "a"), ("a", "a")])
def test_exports_that_overlap_are_refused(host: Host, one: str, other: str) -> None:
    first, second = host.device(one), host.device(other, origin="vm.yaml:4:3: ")
    assert host.refused(first, second) == [
        f"vm.yaml:4:3: {other} and {one}: the exports overlap, and both guests could write there "
        f"while each trusts what it has cached; make one read-only, {FORCE}"
    ]
    for change in ({"readonly": True}, {"force": True}):
        assert not host.refused(host.device(one, **change), second)
        assert not host.refused(first, host.device(other, **change))


def test_each_pair_is_reported(host: Host) -> None:
    assert len(host.refused(host.device("a"), host.device("a/in"), host.device("a"))) == 3


def test_exports_of_one_device_are_checked_as_well(host: Host) -> None:
    """They are looked at as those of several devices are, each at its place."""

    def several(*others: ExportConfig) -> DeviceConfig:
        exports = (ExportConfig(f"{host.top}/a", "a"), *others)
        return replace(host.device("own/state", multidevs="remap"), exports=exports)

    inner = ExportConfig(f"{host.top}/a/in", "in", origin="vm.yaml:5:3: ")
    assert host.refused(several(inner)) == [
        "vm.yaml:5:3: a/in and a: the exports overlap, and one file would be two to the guest, "
        f"which trusts what it has cached of each; make one read-only, {FORCE}"
    ]
    assert not host.refused(several(replace(inner, readonly=True)))
    assert not host.refused(replace(several(inner), force=True))
    assert not host.refused(several(ExportConfig(f"{host.top}/b", "b")))
    (found,) = host.refused(several(ExportConfig(f"{host.top}/b", "b")), host.device("b/in"))
    assert "both guests could write there" in found
    (found,) = host.refused(several(replace(inner, path=f"{host.top}/none")))
    assert found.startswith("vm.yaml:5:3: none cannot be exported: ")
    found, _ = host.refused(several(replace(inner, path=f"{host.top}/own")))
    assert found.startswith("vm.yaml:5:3: own: the export contains the daemon's socket own/own-")


# ---- behind mounts -------------------------------------------------------------------------------


def mount(*args: str | Path) -> None:
    """Mounts, or ends the case where that is not supported."""
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr)
        sys.exit(UNSUPPORTED)


def same_directory_at_two_paths(host: Host) -> None:
    """A bind mount of an export, or of a directory in it, is in the export too."""
    (host.top / "copy").mkdir()
    mount("--bind", host.top / "a/in", host.top / "copy")
    assert host.refused(host.device("a", socket=f"{host.top}/copy/s"))
    assert host.refused(host.device("a"), host.device("copy"))
    assert host.refused(host.device("copy", socket=f"{host.top}/a/in/s"))
    assert not host.refused(host.device("copy", socket=f"{host.top}/a/s"), host.device("b"))


def directory_mounted_into_the_export(host: Host) -> None:
    """What is mounted below an export is shown by it."""
    assert not host.refused(host.device("a"), host.device("b"))
    mount("--bind", host.top / "own", host.top / "a/in")
    found = host.refused(host.device("a"))
    assert len(found) == 2, "socket and state"
    mount("--bind", host.top / "own", host.top / "b/in")
    devices = [host.device(name, socket="/run/s", state_dir="/run/none") for name in "ab"]
    assert any("overlap" in each for each in host.refused(*devices))


def one_of_two_new_file_systems(host: Host) -> None:
    """Equal paths in two file systems are two places."""
    for name in "ab":
        mount("-t", "tmpfs", "tmpfs", host.top / name)
        (host.top / name / "same").mkdir()
    assert not host.refused(host.device("a/same"), host.device("b/same"))
    assert host.refused(host.device("a", socket=f"{host.top}/a/same/s"), host.device("b"))


def mounts_of_the_kernel(host: Host) -> None:
    """Two root file systems each have /proc, and are apart nevertheless."""
    for name in "ab":
        mount("--bind", "/proc", host.top / name / "in")
    assert not host.refused(host.device("a"), host.device("b"))


def mount_on_mount(host: Host) -> None:
    """What a mount covers is not at that path any more."""
    mount("-t", "tmpfs", "tmpfs", host.top / "a")
    mount("-t", "tmpfs", "tmpfs", host.top / "a")
    (host.top / "copy").mkdir()
    mount("--bind", host.top / "a", host.top / "copy")
    assert host.refused(host.device("a", socket=f"{host.top}/copy/s"))


def below_a_chroot(host: Host) -> None:
    """The mount that a chroot lies on is not in its mount table."""
    for name in ("proc", "dev"):
        (host.top / name).mkdir()
        mount("--rbind", f"/{name}", host.top / name)
    top = host.top
    os.chroot(top)
    host.top = Path("/.")
    assert host.refused(host.device("a", socket="/a/in/s"))
    assert host.refused(host.device("a"), host.device("a/in"))
    assert not host.refused(host.device("a"), host.device("b"))


def forbid_on_overlayfs(host: Host) -> None:
    """forbid is refused where one file system shows several device numbers."""
    top = host.top
    mount("-t", "tmpfs", "tmpfs", top / "b")
    (top / "a/in/lower").touch()
    for name in ("upper", "work"):
        (top / "b" / name).mkdir()
    # Two lower file systems without xino: every file shows its own layer's number.
    options = f"lowerdir={top}/a/in,upperdir={top}/b/upper,workdir={top}/b/work,xino=off"
    mount("-t", "overlay", "-o", options, "overlay", top / "a")
    (found,) = host.refused(host.device("a", multidevs="forbid", origin="vm.yaml:1:1: "))
    assert found.startswith("vm.yaml:1:1: multidevs: forbid cannot be used for 'a'"), found
    assert not host.refused(host.device("a", multidevs="remap"))


def file_system_without_attributes(host: Host) -> None:
    """mapped-xattr needs user.*; what was asked leaves nothing behind."""
    model = {"security_model": "mapped-xattr", "origin": "vm.yaml:1:1: "}
    mount("-t", "ramfs", "ramfs", host.top / "a")
    for readonly in (False, True):
        (found,) = host.refused(host.device("a", **model, readonly=readonly))
        assert found.startswith("vm.yaml:1:1: a is on a file system without user.*"), found
    assert not host.refused(host.device("a", security_model="mapped-file"))
    assert not host.refused(host.device("b", **model))
    assert not os.listxattr(host.top / "b") and os.listdir(host.top / "b") == ["in"]


CASES = {
    case.__name__: case
    for case in (
        same_directory_at_two_paths,
        directory_mounted_into_the_export,
        one_of_two_new_file_systems,
        mounts_of_the_kernel,
        mount_on_mount,
        below_a_chroot,
        forbid_on_overlayfs,
        file_system_without_attributes,
    )
}
# Not root: a user namespace, in which the user is.
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


@pytest.mark.parametrize("name", CASES)
def test_overlaps_behind_mounts_are_found(name: str, tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(UNSHARE)} is not permitted here")
    command = [sys.executable, "-m", "tests.test_preflight", name, str(tmp_path)]
    done = subprocess.run(
        [*UNSHARE, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode == UNSUPPORTED:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    CASES[sys.argv[1]](Host(Path(sys.argv[2])))
