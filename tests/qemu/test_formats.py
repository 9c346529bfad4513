"""`vhost9p qemu`: what it prints is what a shell, QEMU and a guest read, whatever paths and tags
have in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.frontend.daemon import run_cli
from vhost9p.config import DeviceConfig, ExportConfig
from vhost9p.qemu import guest
from vhost9p.qemu.options import Option, escaped

ODD = ["plain", "two words", "a,b,,c", "it's", "näh", "$HOME", "back\\slash", "#x", "-o"]


def config(folder: Path, *devices: str) -> str:
    """A configuration with these devices, each of which exports `folder`/share."""
    (folder / "share").mkdir(exist_ok=True)
    file = folder / "vm.yaml"
    entries = "".join(f"  - {{path: share, readonly: true, {each}}}\n" for each in devices)
    file.write_text(f"devices:\n{entries}", encoding="utf-8")
    return str(file)


def printed(file: str, *words: str) -> tuple[str, list[str]]:
    """Standard output, and the lines of standard error."""
    done = run_cli("qemu", file, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


def refused(*words: str) -> str:
    """The one line that says what is wrong."""
    done = run_cli("qemu", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


def by_shell(text: str) -> list[str]:
    """The words that a shell makes of options."""
    script = f"printf '%s\\0' {text}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def test_options_for_two_devices(tmp_path: Path) -> None:
    file = config(tmp_path, "socket: a.sock, tag: a", "socket: b.sock, tag: b, msize_max: 64KiB")
    text, advice = printed(file, "--memory", "2G")
    device = "virtio-id=9,num_vqs=1,vq_size=128,config_size=256"
    assert by_shell(text) == [
        *("-machine", "q35,memory-backend=vhost9p-mem", "-m", "2G"),
        *("-object", "memory-backend-memfd,id=vhost9p-mem,size=2G,share=on"),
        *("-chardev", f"socket,id=vhost9p-c0,path={tmp_path}/a.sock", "-device"),
        f"vhost-user-test-device-pci,id=vhost9p-d0,chardev=vhost9p-c0,{device}",
        *("-chardev", f"socket,id=vhost9p-c1,path={tmp_path}/b.sock", "-device"),
        f"vhost-user-test-device-pci,id=vhost9p-d1,chardev=vhost9p-c1,{device}",
    ]
    assert [line.startswith("-") for line in text.splitlines()] == [True] * 7
    common = "ro,trans=virtio,version=9p2000.L"
    assert advice[1:3] == [
        f"mkdir -p /mnt/a && mount -t 9p -o {common},msize=512000,cache=none a /mnt/a",
        f"mkdir -p /mnt/b && mount -t 9p -o {common},msize=65536,cache=none b /mnt/b",
    ]
    assert printed(file, "--format", "fstab")[0].splitlines() == [
        f"a /mnt/a 9p {common},msize=512000,cache=none,nofail 0 0",
        f"b /mnt/b 9p {common},msize=65536,cache=none,nofail 0 0",
    ]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_path_reaches_qemu_as_it_is(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    socket = f"{folder}/s"
    if len(os.fsencode(socket)) > 107:
        pytest.skip("the temporary directory is too deep for a socket")
    file = config(folder, "socket: s")
    words = by_shell(printed(file)[0])
    assert f"socket,id=vhost9p-c0,path={escaped(socket)}" in words
    assert f'path = "{socket}"' in printed(file, "--format", "readconfig")[0]


def test_commas_are_doubled_and_nothing_else() -> None:
    option = Option("chardev", "socket", (("id", "c"), ("path", "/a,b=c d")))
    assert option.words == ("-chardev", "socket,id=c,path=/a,,b=c d")


def test_a_device_on_a_port_of_its_own(tmp_path: Path) -> None:
    words = by_shell(printed(config(tmp_path, "socket: s"), "--pluggable")[0])
    assert "pcie-root-port,id=vhost9p-port0,chassis=1,slot=1" in words
    assert words[-1].endswith(",bus=vhost9p-port0")


@pytest.mark.parametrize("name", ["a\x01b", "a\nb\x1b", "\udcff"])
def test_what_xml_cannot_express(tmp_path: Path, name: str) -> None:
    """Neither in a path, whose directory may have any name, nor in the domain's name."""
    folder = tmp_path / name
    folder.mkdir()
    file = config(folder, "socket: s")
    text = "XML cannot express control characters"
    assert text in refused(file, "--format", "libvirt")
    named = tmp_path / f"{name}.yaml"
    named.write_text(f"socket: s\npath: {tmp_path}\nreadonly: true\n")
    assert text in refused(str(named), "--format", "libvirt")


@pytest.mark.parametrize("name", ['a"b', "a\nb"])
def test_what_a_file_for_readconfig_cannot_express(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    file = config(folder, "socket: s")
    line = refused(file, "--format", "readconfig")
    assert "a file for -readconfig cannot express it (a double quote" in line
    assert f"path={folder}/s" in by_shell(printed(file)[0])[7]


@pytest.mark.parametrize(
    "words,said",
    [
        ([], "name the configuration: vhost9p qemu VM.yaml"),
        (["x.yaml", "--format", "xml"], "argument --format: 'xml' is not one of shell, readconfig"),
        (["x.yaml", "--memory", "0"], "argument --memory: '0' is no size from 1MiB to 64TiB"),
        (["x.yaml", "--memory", "1x"], "write it as 4G, or 512 for as many MiB"),
        (["x.yaml", "--memory", "1.5G"], "argument --memory: '1.5G' is no size"),
        (["x.yaml", "--memory", "1025KiB"], "is no whole number of MiB"),
        (["x.yaml", "--machine", "q35,x=y"], "argument --machine: 'q35,x=y' is no type of machine"),
        (["/none.yaml"], "/none.yaml"),
    ],
    ids=lambda each: " ".join(each)[:30] or "nothing",
)
def test_bad_input_gets_one_line(words: list[str], said: str) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize("tag", ODD)
def test_the_guest_mounts_any_tag(tag: str) -> None:
    """A shell passes the tag to mount(8) as it is, and fstab(5) has it escaped."""
    device = DeviceConfig((ExportConfig("/srv"),), socket="/s", tag=tag)
    words = by_shell(guest.mount_line(device).partition("&& ")[2])
    where = guest.mount_point(device)
    assert words[:3] == ["mount", "-t", "9p"] and words[-2:] == [tag, where]
    fields = guest.fstab_line(device).split(" ")
    assert len(fields) == 6 and not fields[0].startswith("#")
    unescaped = fields[0].encode().decode("unicode_escape").encode("latin-1").decode()
    assert unescaped == tag
