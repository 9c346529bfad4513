"""What `vhost9p run` adds to a user's QEMU command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhost9p.errors import UserError
from vhost9p.qemu import command_line

SOCKET = "/run/s.sock"
MACHINE = "-machine memory-backend=vhost9p-mem"


def added(line: str) -> list[str]:
    """The options for memory, behind a check of the device's."""
    options = command_line.needed(["qemu", *line.split()], [SOCKET])
    words = [" ".join(each.words) for each in options]
    assert words[-2] == f"-chardev socket,id=vhost9p-c0,path={SOCKET}"
    assert words[-1].startswith("-device vhost-user-test-device-pci,id=vhost9p-d0,")
    return words[:-2]


def memfd(size: str) -> str:
    return f"-object memory-backend-memfd,id=vhost9p-mem,size={size},share=on"


@pytest.mark.parametrize(
    "line,size",
    [
        ("-m 4G", "4G"),
        ("-m 512", "512M"),
        ("-m size=1G,slots=2,maxmem=4G", "1G"),
        ("-m 1G -m 2G", "2G"),
        ("--m 3G", "3G"),
        ("-M q35,accel=kvm -m 1G", "1G"),
        ("-m 1G -object rng-random,id=mem -numa node,cpus=0", "1G"),
    ],
)
def test_memory_is_shared_if_nothing_says_what_it_is(line: str, size: str) -> None:
    assert added(line) == [memfd(size), MACHINE]


def test_a_guest_without_a_size_gets_one() -> None:
    assert added("-nographic") == ["-m 1G", memfd("1G"), MACHINE]


@pytest.mark.parametrize(
    "line",
    [
        "-object memory-backend-memfd,id=m,size=1G -machine q35,memory-backend=m",
        "-machine memory-backend=m -object memory-backend-file,id=m,mem-path=/x,share=on,size=1G",
        '-machine memory-backend=m -object {"qom-type":"memory-backend-ram","id":"m","share":true}',
        "-numa node,memdev=m -object memory-backend-ram,id=m,share=yes,size=1G",
        "-machine memory-backend=elsewhere",
    ],
)
def test_memory_that_is_shared_stays_as_it_is(line: str) -> None:
    assert added(line) == []


@pytest.mark.parametrize(
    "line,said",
    [
        (
            "-machine memory-backend=m -object memory-backend-file,id=m,mem-path=/x,size=1G",
            "-object memory-backend-file,id=m: the guest's memory is not shared",
        ),
        ("-numa node,memdev=m -object memory-backend-ram,id=m,size=1G", "add share=on"),
        ("-numa node,memdev=m -object memory-backend-memfd,id=m,share=off", "add share=on"),
        ("-mem-path /dev/hugepages", "-mem-path: this memory is not shared"),
        ("-daemonize", "-daemonize: QEMU would leave"),
    ],
)
def test_what_cannot_work_is_refused(line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        added(line)
    (text,) = caught.value.problems
    assert said in text


def test_a_configuration_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "vm.cfg"
    file.write_text(
        '# memory\n[machine]\n  memory-backend = "m"\n[object "m"]\n'
        '  qom-type = "memory-backend-ram"\n  share = "on"\n'
    )
    assert added(f"-readconfig {file}") == []
    file.write_text(file.read_text().replace('"on"', '"off"'))
    with pytest.raises(UserError):
        added(f"-readconfig {file}")
    file.write_text('[memory]\n  size = "3G"\n')
    assert added(f"-readconfig {file}") == [memfd("3G"), MACHINE]
    assert added(f"-readconfig {tmp_path}/none -m 1G") == [memfd("1G"), MACHINE]


def test_a_socket_that_is_connected_already_gets_no_second_device() -> None:
    words = ["qemu", "-m", "1G", "-chardev", f"socket,id=c,path={SOCKET}"]
    options = command_line.needed(words, [SOCKET, "/run/other"])
    assert [each.group for each in options] == ["object", "machine", "chardev", "device"]
    assert ("path", "/run/other") in options[2].pairs
