"""`vhost9p check`: what it reports, that it changes nothing, and that it disturbs nobody."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.system.share import AS_USER, IS_ROOT, UNSHARE, USER, USER_GROUP, mounted, needs_root
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.examine_exports import examine
from vhost9p.findings import Level
from vhost9p.native import fanotify
from vhost9p.policy.mounts import MountTable

GOOD = """socket: own/s
path: share
multidevs: remap
security_model: none
state_dir: own/state
"""
QEMU = """#!/bin/sh
case "$*" in
*-version*) echo "QEMU emulator version {version}";;
*) echo 'name "virtio-9p-pci", bus PCI'; {more} ;;
esac
"""
FRONTEND = "echo 'name \"vhost-user-test-device-pci\", bus PCI'"


@dataclass
class Report:
    """What a check has said."""

    code: int
    findings: list[dict[str, str]]

    def texts(self, level: str) -> list[str]:
        return [each["text"] for each in self.findings if each["level"] == level]

    def one(self, text: str) -> dict[str, str]:
        """The only finding with a text."""
        (found,) = [each for each in self.findings if text in each["text"]]
        return found


class Place:
    """A directory with a good configuration, and programs that play QEMU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("share", "own/state"):
            (folder / name).mkdir(parents=True)
        self.write(GOOD)
        self.program("qemu", QEMU.format(version="11.1.0", more=FRONTEND))
        self.program("old", QEMU.format(version="9.2.1", more="true"))
        self.program("other", "#!/bin/sh\necho hello\n")

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def write(self, text: str, name: str = "vm.yaml") -> None:
        (self.folder / name).write_text(text)

    def run(
        self, *words: str, wrapper: Sequence[str] = (), **env: str
    ) -> subprocess.CompletedProcess[str]:
        return run_cli("check", *words, wrapper=wrapper, env=env, cwd=self.folder)

    def check(self, *words: str, wrapper: Sequence[str] = ()) -> Report:
        """What is found out about vm.yaml, or what the words name."""
        words = words or ("vm.yaml", "--qemu", "./qemu")
        done = self.run(*words, "--json", wrapper=wrapper)
        assert done.stderr == ""
        findings = json.loads(done.stdout)
        for each in findings:
            assert [*each] == ["subject", "level", "text", "consequence", "remedy"]
            assert each["subject"] and each["text"]
            if each["level"] != "ok":
                assert each["consequence"] and each["remedy"], each
        return Report(done.returncode, findings)


@pytest.fixture
def place(scratch: Path, tmp_path: Path) -> Iterator[Place]:
    folder = scratch / f"check-{tmp_path.name}"
    folder.mkdir()
    yield Place(folder)


def tree(folder: Path) -> dict[str, tuple[int, ...]]:
    """All files, with what would show that one was changed."""
    found: dict[str, tuple[int, ...]] = {}
    for top, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            status = os.lstat(os.path.join(top, name))
            key = os.path.join(top, name)
            found[key] = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns)
    return found


# ---- good ----------------------------------------------------------------------------------------


def test_a_good_configuration_has_no_error_and_stays_as_it_is(place: Place) -> None:
    before = tree(place.folder)
    report = place.check()
    assert (report.code, report.texts("error")) == (0, [])
    assert tree(place.folder) == before
    folder = place.folder
    subjects = {each["subject"] for each in report.findings}
    expected = {f"{folder}/own/s", f"{folder}/share", f"{folder}/own/state", "./qemu"}
    assert expected | {"vm.yaml", "sandbox", "open files"} == subjects
    for text in (
        f"{os.geteuid()}:{os.getegid()} can read and change it",
        "security model none: what the guest creates belongs to the daemon's user",
        "its files are on one file system",
        "QEMU 11.1.0 has the device vhost-user-test-device-pci",
        "CAP_DAC_READ_SEARCH",
    ):
        report.one(text)


def test_a_state_directory_that_is_missing_is_not_made(place: Place) -> None:
    (place.folder / "own/state").rmdir()
    report = place.check()
    report.one("the state directory is missing, and will be made")
    assert not (place.folder / "own/state").exists()


def test_the_report_for_a_person(place: Place) -> None:
    done = place.run("vm.yaml", "--qemu", "./old")
    lines = done.stdout.splitlines()
    at = lines.index("./old")
    assert lines[at + 1].startswith("  error   QEMU 9.2.1 has no vhost-user-test-device-pci")
    assert lines[at + 2 : at + 4] == [
        "          so: no guest can be connected",
        "          do: install a newer QEMU",
    ]
    assert (done.returncode, lines[-1].partition(",")[0]) == (2, "1 error")


def test_a_running_daemon_is_reported_and_not_disturbed(place: Place) -> None:
    place.write(
        GOOD.replace("security_model: none\n", "security_model: none\nquota: {inodes: 9}\n")
    )
    with Daemon("--config", str(place.folder / "vm.yaml"), socket=False) as daemon:
        daemon.socket = str(place.folder / "own/s")
        with mounted(daemon, place.folder / "share") as share:
            report = place.check()
            share.client.create(share.top, b"file")
            said = [line for line in daemon.lines if "second frontend" in line]
    assert said == []
    assert report.code == 0
    assert report.one("a process listens on the socket already")["level"] == "warning"
    assert report.one("the state of these exports is in use")["level"] == "warning"
    report.one("quota of 9 inodes: ")


# ---- as a table ----------------------------------------------------------------------------------


def unreachable(place: Place) -> None:
    place.write(GOOD.replace("path: share", "path: none"))


def unknown_key(place: Place) -> None:
    place.write(GOOD + "colour: red\n")


def no_yaml(place: Place) -> None:
    place.write("a: [")


def socket_folder(place: Place) -> None:
    place.write(GOOD.replace("own/s\n", "none/s\n"))


def socket_inside(place: Place) -> None:
    place.write(GOOD.replace("own/s\n", "share/s\n"))


def no_cpu(place: Place) -> None:
    place.write(GOOD + "cpus: 1000\n")


def overlap(place: Place) -> None:
    one = "  - {path: share, socket: own/%s, tag: %s, security_model: none}\n"
    place.write(f"devices:\n{one % ('a', 'a')}{one % ('b', 'b')}")


def state_is_a_file(place: Place) -> None:
    place.write(GOOD.replace("own/state", "vm.yaml"))


def old_qemu(place: Place) -> None:
    shutil.copy(place.folder / "old", place.folder / "qemu")


def other_program(place: Place) -> None:
    shutil.copy(place.folder / "other", place.folder / "qemu")


def no_qemu(place: Place) -> None:
    (place.folder / "qemu").unlink()


ERRORS: list[tuple[Callable[[Place], None], str, str]] = [
    (unreachable, "cannot be exported: No such file", "it must be a readable directory"),
    (unknown_key, "unknown key 'colour'", "valid are socket"),
    (no_yaml, "no YAML", "correct the file"),
    (socket_folder, "there is no directory", "choose another socket"),
    (socket_inside, "the export contains the daemon's socket", "move the one or the other"),
    (no_cpu, "the daemon may not run on CPU 1000", "name CPUs that are there"),
    (overlap, "the exports overlap", "make one read-only"),
    (state_is_a_file, "is not a directory", "choose another directory"),
    (old_qemu, "QEMU 9.2.1 has no vhost-user-test-device-pci", "install a newer QEMU"),
    (other_program, "does not answer -device help as QEMU does", "QEMU 10.2 or newer"),
    (no_qemu, "cannot be started: No such file", "QEMU 10.2 or newer"),
]


@pytest.mark.parametrize(
    "spoil,text,remedy", ERRORS, ids=lambda each: getattr(each, "__name__", "")
)
def test_an_error(spoil: Callable[[Place], None], text: str, remedy: str, place: Place) -> None:
    spoil(place)
    report = place.check()
    assert report.code == 2
    assert len(report.texts("error")) == 1
    assert remedy in report.one(text)["remedy"]


def unconfined(place: Place) -> None:
    place.write(GOOD + "sandbox: none\n")


def small_host(place: Place) -> None:
    place.write(GOOD + "quota: {bytes: 4000000GiB}\n")


def stale_socket(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.folder / "own/s"))


def no_socket(place: Place) -> None:
    place.write(GOOD.replace("socket: own/s\n", ""))


WARNINGS: list[tuple[Callable[[Place], None], str, str]] = [
    (unconfined, "sandbox is none", "leave sandbox out"),
    (small_host, "bytes free", "lower the quota"),
    (no_socket, "it has no socket", "name a socket, if QEMU is started by itself"),
]


@pytest.mark.parametrize("spoil,text,remedy", WARNINGS)
def test_a_warning(spoil: Callable[[Place], None], text: str, remedy: str, place: Place) -> None:
    spoil(place)
    report = place.check()
    found = report.one(text)
    assert (report.code, found["level"]) == (0, "warning")
    assert remedy in found["remedy"]
    assert place.run("vm.yaml", "--qemu", "./qemu", "--strict").returncode == 1


def test_a_socket_that_was_left_behind_is_no_hindrance(place: Place) -> None:
    stale_socket(place)
    found = place.check().one("the socket was left behind, and will be replaced")
    assert found["level"] == "ok"


def test_too_few_open_files(place: Place) -> None:
    report = place.check(wrapper=["prlimit", "--nofile=64:64"])
    found = report.one("the hard limit of 64 is too low")
    assert "requests may fail" in found["consequence"]


MOUNTED = [
    ("warn", "warning", "set multidevs: remap"),
    ("remap", "ok", ""),
    ("forbid", "ok", ""),
]


@pytest.mark.parametrize("policy,level,remedy", MOUNTED)
def test_file_systems_below(policy: str, level: str, remedy: str, place: Place) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    place.write(GOOD.replace("multidevs: remap", f"multidevs: {policy}"))
    for name in ("one", "two"):
        (place.folder / "share" / name).mkdir()
    mount = 'for each in one two; do mount -t tmpfs $each share/$each; done; exec "$@"'
    report = place.check(wrapper=[*UNSHARE, "sh", "-c", mount, "sh"])
    found = report.one("its files are on 3 file systems")
    assert (found["level"], found["remedy"]) == (level, remedy)
    assert f"{place.folder}/share/one (tmpfs), {place.folder}/share/two (tmpfs)" in found["text"]
    assert "have the same inode number, 1" in found["text"]


@needs_root
def test_an_ordinary_user() -> None:
    folder = Path(tempfile.mkdtemp(prefix="v9-check-"))
    try:
        place = Place(folder)
        for path in (folder, folder / "share", folder / "own", folder / "own/state"):
            os.chown(path, USER, USER_GROUP)
        place.write(GOOD.replace("security_model: none\n", ""))
        report = place.check(wrapper=AS_USER)
        assert report.code == 0
        report.one(f"{USER}:{USER_GROUP} can read and change it")
        assert report.one("security model none")["level"] == "warning"
        report.one("CAP_DAC_READ_SEARCH lacks")
        os.chown(folder / "share", 0, 0)
        assert "the guest cannot change it" in place.check(wrapper=AS_USER).texts("error")[0]
    finally:
        shutil.rmtree(folder)


# ---- several files, bad input --------------------------------------------------------------------


def test_a_directory_of_configurations(place: Place) -> None:
    vms = place.folder / "vms"
    vms.mkdir()
    for name in ("a", "b"):
        text = GOOD.replace("own/s\n", f"../own/{name}\n").replace("path: share", "path: ../share")
        place.write(text.replace("own/state", "../own/state"), f"vms/{name}.yaml")
    place.write("no configuration", "vms/notes.txt")
    report = place.check("--config-dir", "vms", "--qemu", "./qemu")
    assert report.code == 2
    found = report.one("the exports overlap")
    assert found["subject"] == f"b: {vms}/../share"
    assert {each["subject"].partition(": ")[0] for each in report.findings} == {"a", "b", "./qemu"}


def test_a_directory_without_configurations(place: Place) -> None:
    """Files of other names are none."""
    (place.folder / "vms").mkdir()
    place.write(GOOD, "vms/a.yml")
    report = place.check("--config-dir", "vms", "--qemu", "./qemu", "--strict")
    assert report.code == 1
    found = report.one("there is no file *.yaml in it")
    assert (found["subject"], found["level"]) == ("vms", "warning")
    assert found["remedy"] == "name the configuration of each VM NAME.yaml"


BAD = [
    ([], "name either a configuration or a --config-dir"),
    (["vm.yaml", "--config-dir", "."], "name either a configuration or a --config-dir"),
    (["--config-dir", "none"], "cannot be read: No such file or directory"),
]


@pytest.mark.parametrize("words,said", BAD)
def test_bad_input_gets_one_line(words: list[str], said: str, place: Place) -> None:
    done = place.run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def overlay(place: Place) -> Report:
    """A check where the export is an overlay, which has no file handles."""
    for name in ("lower", "upper", "work"):
        (place.folder / name).mkdir()
    mount = (
        "mount -t tmpfs over upper && mkdir upper/u upper/w && mount -t overlay over share -o "
        'lowerdir=lower,upperdir=upper/u,workdir=upper/w,index=off && exec "$@"'
    )
    wrapper = [*UNSHARE, "sh", "-c", mount, "sh"]
    if place.run("--help", wrapper=wrapper).returncode:
        pytest.skip("no overlay can be mounted here")
    return place.check(wrapper=wrapper)


def test_a_file_system_with_handles(place: Place) -> None:
    assert place.check().one("its files have handles")["level"] == "ok"


def test_a_file_system_without_handles(place: Place) -> None:
    found = overlay(place).one("the file system has no file handles")
    assert found["level"] == "warning"
    assert "ESTALE" in found["consequence"]
    assert "ext4" in found["remedy"]


def test_what_notify_reports(place: Place) -> None:
    assert not [each for each in place.check().findings if "notify" in each["text"]]
    place.write(GOOD + "notify: true\n")
    assert place.check().one("notify reports")["level"] == "ok"


def test_a_file_system_whose_changes_nobody_reports(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.6 have some."""
    for name in ("can_mark_file_system", "can_mark_directory"):
        monkeypatch.setattr(fanotify, name, lambda folder: False)
    export = ExportConfig(str(place.folder / "share"), security_model="none")
    device = DeviceConfig((export,), notify=True, state_dir=str(place.folder / "own/state"))
    config = Config((device,))
    with closing(MountTable()) as table:
        findings = examine(config, config, table)
        (found,) = (each for each in findings if "reports no changes of" in each.text)
    assert found.level is Level.WARNING
    assert "notify reports nothing" in found.consequence


def test_root_finds_files_by_handle(place: Place) -> None:
    report = place.check()
    found = report.one("CAP_DAC_READ_SEARCH")
    assert ("is there" in found["text"]) == IS_ROOT


@needs_root
def test_without_namespaces_it_does_not(place: Place) -> None:
    place.write(GOOD + "sandbox: chroot\n")
    found = place.check().one("what was closed")
    assert "is given up, since there are no namespaces" in found["text"]
