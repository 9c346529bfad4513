"""The unit that runs the agent in a guest: what it does there, and how QEMU hands it over."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.frontend.daemon import run_cli
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.errors import UserError
from vhost9p.qemu import agent_unit, command_line
from vhost9p.qemu.options import Option

ODD = ["plain", "two words", "it's", "50%", "$HOME", "back\\slash", '"', "näh", "-o", "a;b"]
OPTIONS = "trans=virtio,version=9p2000.L,msize=512000,cache=none"

# What is mounted is kept in the file `mounted`, what fstab(5) has in `fstab`.
GUEST = {
    "findmnt": 'test -z "$7" || exec grep -xF -e "$6" fstab\n'
    'grep -qxF -e "$6" mounted && printf "%s\\n" "/at/$6"',
    "mount": 'while [ "$1" != -- ]; do shift; done; printf "%s\\n" "$2" >> mounted',
    "mkdir": "",
    "sh": "",
}
"""The programs that it runs there."""


def config(*devices: DeviceConfig) -> Config:
    return Config(devices)


def device(tag: str, *, notify: bool = True, name: str = ".vhost9p") -> DeviceConfig:
    export = ExportConfig("/srv", readonly=True)
    return DeviceConfig((export,), tag=tag, notify=notify, notify_name=name)


def command(unit: str) -> list[str]:
    """The words of ExecStart= as systemd reads them (systemd.syntax(7), systemd.service(5))."""
    found = re.search(r"^ExecStart=(\S+) (\S+) '(.*)'$", unit.replace("\\\n", " "), re.MULTILINE)
    assert found, unit
    script = re.sub(r"\\(.)", r"\1", found[3]).replace("$$", "$").replace("%%", "%")
    return [found[1], found[2], script]


def ran(folder: Path, config: Config) -> list[list[str]]:
    """What the unit runs, in order, but for questions."""
    for name, script in GUEST.items():
        said = f'printf "%s\\0" {name} "$@" >> log; echo >> log\n' if name != "findmnt" else ""
        (folder / name).write_text(f"#!/bin/sh\n{said}{script}\n")
        (folder / name).chmod(0o755)
    for name in ("mounted", "fstab"):
        (folder / name).touch()
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(command(agent_unit.unit(config)), cwd=folder, env=env, check=True)
    return [line.split("\0")[:-1] for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize("tag", ODD)
def test_a_tag_is_mounted_and_followed(tag: str, tmp_path: Path) -> None:
    """To be written, although the export is read-only: else inotify could not be fired."""
    made, mounted, followed = ran(tmp_path, config(device(tag, name="a 'b")))
    assert made[:2] == ["mkdir", "-p"]
    assert mounted == ["mount", "-t", "9p", "-o", OPTIONS, "--", tag, made[2]]
    assert followed == ["sh", f"/at/{tag}/a 'b/agent", f"/at/{tag}/a 'b"]


def test_what_the_guest_mounts_by_itself_is_followed_there(tmp_path: Path) -> None:
    (tmp_path / "mounted").write_text("a\n")
    (tmp_path / "fstab").write_text("b\n")
    devices = [device("a"), device("b"), device("silent", notify=False)]
    assert ran(tmp_path, config(*devices)) == [
        ["mount", "--", "b"],
        ["sh", "/at/a/.vhost9p/agent", "/at/a/.vhost9p", "/at/b/.vhost9p"],
    ]


def test_smbios_has_the_unit_and_what_starts_it() -> None:
    served = config(device("a"))
    found = {}
    for option in agent_unit.smbios(served):
        word, value = option.words
        kind, _, credential = value.partition(",value=io.systemd.credential.binary:")
        assert (word, kind) == ("-smbios", "type=11")
        name, _, content = credential.partition("=")
        found[name] = base64.b64decode(content).decode()
    assert found == {
        "systemd.extra-unit.vhost9p-agent.service": agent_unit.unit(served),
        "systemd.unit-dropin.multi-user.target~vhost9p": "[Unit]\nWants=vhost9p-agent.service\n",
    }


@pytest.mark.parametrize("line", ["-M microvm", "-machine type=isapc", "-machine q35 -M microvm"])
def test_a_machine_without_smbios_is_refused(line: str) -> None:
    with pytest.raises(UserError, match="it has no SMBIOS, by which --agent reaches the guest"):
        command_line.check_smbios(["qemu", *line.split()])


@pytest.mark.parametrize("line", ["-m 1G", "-M q35,accel=kvm", "-M microvm -machine pc"])
def test_other_machines_are_not(line: str) -> None:
    command_line.check_smbios(["qemu", *line.split()])


def test_without_notify_there_is_no_unit(tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(f"path: {tmp_path}\nsocket: s\n")
    for words in (("qemu", file, "--format", "unit"), ("run", "--agent", file, "--", "true")):
        done = run_cli(*map(str, words))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"vhost9p: {file}: no device has notify, without which there is no agent; set "
            "notify: true for a device\n"
        )


def test_the_unit_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(f"path: {tmp_path}\nsocket: s\nnotify: true\n")
    done = run_cli("qemu", str(file), "--format", "unit")
    assert done.returncode == 0
    assert done.stdout == agent_unit.unit(config(device("host0")))
    assert "/etc/systemd/system/vhost9p-agent.service" in done.stderr


def test_options_keep_their_commas() -> None:
    assert Option("smbios", "", (("type", "11"), ("value", "a,b"))).words[1] == "type=11,value=a,,b"
