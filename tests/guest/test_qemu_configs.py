"""Every configuration in qemu-configs/, as it is shipped: the daemon reads its YAML file, QEMU its
.cfg file, and a guest mounts what the comment in it says.

Both run in a copy of the folder, as that comment has it, so that the names of sockets and
directories need no change. Some guests are started as `vhost9p qemu` prints it, or by `vhost9p
run`, instead: what is shipped is the same text (`test_what_is_shipped_is_what_is_printed`).
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import huge_pages
from tests.frontend.daemon import ROOT, Daemon, run_cli
from tests.guest.fetch import Kernel
from tests.guest.image import Image
from tests.guest.vm import VM, served
from vhost9p.config_file import load
from vhost9p.reference import descriptor
from vhost9p.reference.descriptor import CAPABILITIES

CONFIGS = ROOT / "qemu-configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.cfg"))
MEMORY_OPTIONS = ("-machine", "-m", "-object")
"""What the configuration says instead of the harness."""
HUGE_PAGES = 256

WAYS = {"one-export": "shell", "read-only": "readconfig", "two-exports": "run"}
"""How QEMU gets its options where it is not from the .cfg file."""
ODD = "v9-config, é 'x-"
"""What the name of a folder begins with that has to be quoted everywhere."""

UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-Urm")
MOUNT = """
mount -t tmpfs one tree/one && mount -t tmpfs two tree/two || exit 1
for name in one two; do
    echo "in $name" > tree/$name/file
    stat -c 'host inode %i' tree/$name/file
done
exec "$@"
"""


class ConfiguredVM(VM):
    """A guest of the configuration `name` in `folder`, whose memory and devices come from what is
    shipped, printed or added."""

    def __init__(self, image: Image, folder: Path, name: str) -> None:
        super().__init__(image)
        words = iter(self.command)
        kept: list[str] = []
        for word in words:
            if word in MEMORY_OPTIONS:
                next(words)
            else:
                kept.append(word)
        self.command = ("env", "-C", str(folder), *_configured(kept, folder, name))


def _configured(qemu: list[str], folder: Path, name: str) -> list[str]:
    """The command that starts QEMU in `folder`: names of sockets in what is shipped are relative to
    it."""
    way = WAYS.get(name)
    if way == "run":
        run = served(str(folder / f"{name}.yaml"))
        return ["env", f"XDG_STATE_HOME={folder}/state", *run, *qemu, "-m", "512M"]
    if way is None:
        return [*qemu, "-readconfig", f"{name}.cfg"]
    printed = run_cli("qemu", f"{folder}/{name}.yaml", "--memory", "512M", "--format", way)
    assert printed.returncode == 0, printed.stderr
    if way == "shell":
        return ["sh", "-c", f"exec {shlex.join(qemu)} {printed.stdout}"]
    (folder / "printed.cfg").write_text(printed.stdout)
    return [*qemu, "-readconfig", "printed.cfg"]


def said_in(name: str, command: str) -> list[list[str]]:
    """The words of the commands of this name in the comment of a .cfg file."""
    text = (CONFIGS / f"{name}.cfg").read_text().replace("\\\n#", "")
    lines = re.findall(rf"^#     ({command}(?: .*)?)$", text, re.MULTILINE)
    return [line.partition(" #")[0].split() for line in lines]


class Example:
    """A guest that has mounted all of its devices, and the daemon, if that was started by
    itself."""

    def __init__(self, daemon: Daemon | None, vm: VM, folder: Path) -> None:
        self._daemon = daemon
        self.vm = vm
        self.folder = folder

    @property
    def daemon(self) -> Daemon:
        assert self._daemon
        return self._daemon


@contextmanager
def started(name: str, kernel: Kernel) -> Iterator[Example]:
    """Does what the comment of a configuration says. /tmp has short names, as sockets need."""
    with ExitStack() as stack:
        prefix = ODD if name in WAYS else "v9-config-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        shutil.copytree(CONFIGS, folder, dirs_exist_ok=True)
        for _, _, *directories in said_in(name, "mkdir -p"):
            for directory in directories:
                (folder / directory).mkdir(parents=True)
        mounts = said_in(name, "mount -t tmpfs")
        wrapper = (*UNSHARE, "sh", "-c", MOUNT, "sh") if mounts else ()
        daemon = None
        if WAYS.get(name) != "run":
            daemon = stack.enter_context(serving(name, folder, wrapper))
        vm = stack.enter_context(ConfiguredVM(Image.build(kernel), folder, name))
        for *mount, tag, where in said_in(name, "mount -t 9p"):
            vm.run(("mkdir", "-p", where))
            vm.run((*mount, tag, where))
        yield Example(daemon, vm, folder)
        vm.close()
        if daemon:
            daemon.stop()
        assert not list(folder.glob("*.sock")), "a socket was left behind"


@contextmanager
def serving(name: str, folder: Path, wrapper: tuple[str, ...]) -> Iterator[Daemon]:
    """The daemon as the comment starts it, until the block ends at the latest."""
    (command,) = said_in(name, "vhost9p")
    daemon = Daemon(*command[1:-1], socket=False, cwd=folder, wrapper=wrapper)
    config = load(str(folder / f"{name}.yaml"))
    daemon.start(wait=False)
    try:
        for device in config.devices:
            socket = re.escape(device.socket or "")
            daemon.wait_line(rf"serving .* as '{device.tag}' on {socket}")
        yield daemon
    finally:
        daemon.kill()


def shares(vm: VM, folder: Path, mounted: dict[str, str]) -> None:
    """Each directory of the host is the one at this place in the guest, for reading and writing."""
    for directory, where in mounted.items():
        (folder / directory / "from-host").write_text(f"{directory} of the host")
        assert vm.run(f"cat {where}/from-host").text == f"{directory} of the host"
        vm.run(f"mkdir {where}/sub && echo hello > {where}/sub/from-guest")
        assert (folder / directory / "sub/from-guest").read_text() == "hello\n"


def one_export(example: Example) -> None:
    shares(example.vm, example.folder, {"share": "/mnt"})


def two_exports(example: Example) -> None:
    shares(example.vm, example.folder, {"src": "/mnt/src", "data": "/mnt/data"})
    shown = example.vm.run("cat /proc/mounts").text
    assert re.search(r"^src /mnt/src 9p .*msize=512000", shown, re.MULTILINE)
    assert re.search(r"^data /mnt/data 9p .*msize=512000", shown, re.MULTILINE)


def remap_mounts(example: Example) -> None:
    host = [line for line in example.daemon.lines if line.startswith("host inode")]
    assert len(host) == 2 and host[0] == host[1], "the host's numbers are meant to be equal"
    assert example.vm.run("cat /mnt/one/file /mnt/two/file").text == "in one\nin two"
    guest = example.vm.run("stat -c %i /mnt /mnt/one /mnt/two /mnt/one/file /mnt/two/file").text
    assert len(set(guest.split())) == 5, guest
    assert example.vm.run("find /mnt -samefile /mnt/one/file").text == "/mnt/one/file"


def read_only(example: Example) -> None:
    file = example.folder / "share/file"
    file.write_text("stays")
    vm = example.vm
    assert vm.run("cat /mnt/file").text == "stays"
    for command in ("echo x > /mnt/file", "rm /mnt/file", "mkdir /mnt/new", "chmod 777 /mnt/file"):
        result = vm.run(command, check=False)
        assert result.returncode != 0
        assert b"Read-only file system" in result.stderr
    assert os.listdir(file.parent) == ["file"]
    assert file.read_text() == "stays"


def exports(example: Example) -> None:
    vm, out = example.vm, example.folder / "out"
    (example.folder / "src/file").write_text("source")
    assert vm.run("ls /mnt; cat /mnt/src/file").text == "out\nsrc\nsource"
    refused = vm.run("echo x > /mnt/src/file", check=False)
    assert b"Read-only file system" in refused.stderr
    made = "cd /mnt/out; mknod null c 1 3; chown 5:6 null; chmod 4640 null; ln -s /a link"
    shown = "stat -c '%F %a %u:%g %t:%T' /mnt/out/null; readlink /mnt/out/link"
    assert vm.run(f"{made} && {shown}").text == "character special file 4640 5:6 1:3\n/a"
    for name in ("null", "link"):
        status = os.lstat(out / name)
        assert stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    assert (out / "link").read_bytes() == b"/a"
    full = vm.run("dd if=/dev/zero of=/mnt/out/zeros bs=1M count=20", check=False)
    assert b"No space left on device" in full.stderr
    assert (out / "zeros").stat().st_size <= 16 * 1024**2


def hugepages(example: Example) -> None:
    one_export(example)
    with open(f"/proc/{example.daemon.worker}/smaps", encoding="utf-8") as smaps:
        assert re.search(r"^KernelPageSize:\s+2048 kB$", smaps.read(), re.MULTILINE)


CHECKS: dict[str, Callable[[Example], None]] = {
    "one-export": one_export,
    "two-exports": two_exports,
    "remap-mounts": remap_mounts,
    "read-only": read_only,
    "hugepages": hugepages,
    "exports": exports,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_boots_and_mounts(name: str, kernel: Kernel) -> None:
    with ExitStack() as stack:
        if name == "hugepages":
            try:
                stack.enter_context(huge_pages.available(HUGE_PAGES))
            except OSError as error:
                pytest.skip(f"needs {HUGE_PAGES} huge pages: {error}")
        if said_in(name, "mount -t tmpfs"):
            allowed = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
            if allowed.returncode:
                pytest.skip(f"{' '.join(UNSHARE)} is not permitted here")
        CHECKS[name](stack.enter_context(started(name, kernel)))


# ---- without a guest -----------------------------------------------------------------------------


def test_every_configuration_has_both_files_and_a_check() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(NAMES) == set(CHECKS)


def sections(text: str) -> dict[str, dict[str, str]]:
    """A configuration file of QEMU's, with sockets relative to it."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    found = {title: dict(parser[title]) for title in parser.sections()}
    for pairs in found.values():
        if "path" in pairs:
            pairs["path"] = os.path.basename(pairs["path"].strip('"'))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_is_printed(name: str, tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path, dirs_exist_ok=True)
    for _, _, *directories in said_in(name, "mkdir -p"):
        for directory in directories:
            (tmp_path / directory).mkdir(parents=True)
    file = str(tmp_path / f"{name}.yaml")
    printed = run_cli("qemu", file, "--memory", "512M", "--format", "readconfig")
    shipped = sections((CONFIGS / f"{name}.cfg").read_text())
    expected = sections(printed.stdout)
    if name == "hugepages":
        more = {"hugetlb": '"on"', "hugetlbsize": '"2M"', "prealloc": '"on"'}
        expected['object "vhost9p-mem"'].update(more)
    assert shipped == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_comment_is_right(name: str) -> None:
    """Its commands name this very configuration and its tags, and what is exported is made."""
    (serve,) = said_in(name, "vhost9p")
    assert serve == ["vhost9p", "--config", f"{name}.yaml", "&"]
    (qemu,) = said_in(name, "qemu-system-x86_64")
    assert qemu[1:3] == ["-readconfig", f"{name}.cfg"]
    made = [CONFIGS / each for _, _, *dirs in said_in(name, "mkdir -p") for each in dirs]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(CONFIGS, folder, dirs_exist_ok=True)
        for each in made:
            (Path(folder) / each.relative_to(CONFIGS)).mkdir(parents=True)
        config = load(f"{folder}/{name}.yaml")
    assert [words[-2] for words in said_in(name, "mount -t 9p")] == [d.tag for d in config.devices]
    assert all(device.multidevs == "remap" for device in config.devices)
    sockets = re.findall(r'^  path = "(.*)"$', (CONFIGS / f"{name}.cfg").read_text(), re.MULTILINE)
    assert sockets == [os.path.basename(device.socket or "") for device in config.devices]


def test_the_backend_descriptor_names_the_program() -> None:
    """What management software reads from share/qemu/vhost-user to find backends."""
    found = json.loads(descriptor.text())
    assert found["type"] == CAPABILITIES["type"]
    assert found["description"]
    assert os.path.isabs(found["binary"])
    assert os.path.basename(found["binary"]) == "vhost9p"
