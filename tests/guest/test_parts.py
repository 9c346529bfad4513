"""The parts of the harness that need neither a guest nor the network."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import apt, cache, fetch, image
from tests.guest.apt import FetchError, Source
from tests.guest.cpio import Writer

_TOP = Path(__file__).parents[2]


def entries(data: bytes) -> list[tuple[str, int, int, int, bytes]]:
    """Name, mode, inode, link count and data of all that an archive holds."""
    found = []
    position = 0
    while position < len(data):
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, links, size, name_size = (fields[i] for i in (0, 1, 4, 6, 11))
        start = position + 110
        name = data[start : start + name_size - 1].decode()
        start += name_size + -(start + name_size) % 4
        found.append((name, mode, inode, links, data[start : start + size]))
        position = start + size + -(start + size) % 4
    return found


def test_an_archive_holds_what_a_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "folder/program").write_bytes(b"12345")
    (tmp_path / "folder/program").chmod(0o4755)
    (tmp_path / "a").write_text("shared")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "link").symlink_to("folder/program")
    out = io.BytesIO()
    writer = Writer(out)
    writer.file("made/for/it", b"")
    writer.tree(tmp_path)
    writer.close()
    found = {name: rest for name, *rest in entries(out.getvalue())}
    assert [found[name][0] for name in ("made", "made/for", "made/for/it")] == [
        *(0o40755, 0o40755, 0o100644)
    ]
    assert found["folder"][0] == 0o40700
    assert found["folder/program"][0] == 0o104755
    assert found["folder/program"][3] == b"12345"
    assert (found["link"][0], found["link"][3]) == (0o120777, b"folder/program")
    assert found["a"][1:3] == found["b"][1:3]
    assert found["a"][2] == 2
    assert {found["a"][3], found["b"][3]} == {b"", b"shared"}
    assert list(found)[-1] == "TRAILER!!!"
    numbers = [inode for name, (_, inode, _, _) in found.items() if name not in {"a", "b"}]
    assert len(set(numbers)) == len(numbers)


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://archive.invalid/debian
Suites: trixie
# within
 trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp

Types: deb
URIs: http://archive.invalid/debian-security
Suites: trixie-security
Components: main

Enabled: no
Types: deb
URIs: http://archive.invalid/off/debian
Suites: trixie
Components: main
"""

ONE_LINE = """\
# deb http://archive.invalid/commented/debian bookworm main
deb-src http://archive.invalid/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://other.invalid/apt bookworm main # why
deb http://archive.invalid/debian bookworm main non-free-firmware
"""


def test_both_formats_of_apt_sources_are_read(tmp_path: Path) -> None:
    new, old = tmp_path / "debian.sources", tmp_path / "sources.list"
    new.write_text(DEB822)
    old.write_text(ONE_LINE)
    keyring = "/usr/share/keyrings/debian-archive-keyring.pgp"
    archive = "http://archive.invalid/debian"
    assert apt.read_sources(new) == [
        Source(archive, ("trixie", "trixie-updates"), ("main", "contrib"), keyring),
        Source(archive + "-security", ("trixie-security",), ("main",), ""),
    ]
    other = "arch=amd64 signed-by=/usr/share/keyrings/x.gpg"
    assert apt.read_sources(old) == [
        Source("https://other.invalid/apt", ("bookworm",), ("main",), other),
        Source(archive, ("bookworm",), ("main", "non-free-firmware"), ""),
    ]
    assert apt.read_sources(tmp_path / "absent.list") == []
    assert apt.choose([*apt.read_sources(old), *apt.read_sources(new)]) == archive


def test_sources_without_debian_are_refused() -> None:
    with pytest.raises(FetchError, match="no Debian archive"):
        apt.choose([Source("https://other.invalid/apt", ("bookworm",), ("main",), "")])


def test_an_entry_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(target: Path) -> None:
        target.mkdir()
        (target / "half").touch()
        raise FetchError("interrupted")

    with pytest.raises(FetchError, match="interrupted"):
        cache.entry("some/thing", fail)
    assert list((tmp_path / "vhost9p/some").iterdir()) == []
    script = """if True:
        from tests.guest import cache
        def make(target):
            target.mkdir()
            print("made")
        print(cache.entry("some/thing", make))"""
    with cache.locked("some-thing"):
        runs = [
            subprocess.Popen(
                (sys.executable, "-c", script), cwd=_TOP, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
    outputs = [run.communicate()[0] for run in runs]
    path = tmp_path / "vhost9p/some/thing"
    assert sorted(outputs) == [f"{path}\n", f"made\n{path}\n"]
    assert cache.entry("some/thing", fail) == path


def test_images_that_nobody_uses_are_forgotten(tmp_path: Path) -> None:
    for name, days in (("old", 9), ("new", 5)):
        (tmp_path / name).touch()
        then = (tmp_path / name).stat().st_mtime - days * 86400
        os.utime(tmp_path / name, (then, then))
    cache.forget_unused(tmp_path, days=7)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"5\.4.*newest"):
        fetch.kernel("5.4")
    kernel = fetch.Kernel("k", "1.0", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="mini, full"):
        image.Image.build(kernel, "maxi")


def test_modules_come_with_what_they_need(tmp_path: Path) -> None:
    def module(name: str, info: bytes) -> None:
        path = tmp_path / "kernel" / f"{name}.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x7fELF...\0license=GPL\0" + info + b"\0")

    module("top", b"depends=left,right-part\0alias=fs-top\0alias=net-top")
    module("left", b"depends=right_part,bottom")
    module("right-part", b"depends=bottom,builtin_one\0softdep=pre: soft absent")
    module("soft", b"depends=")
    module("bottom", b"depends=")
    available = {path.stem.replace("-", "_"): path for path in tmp_path.glob("kernel/*.ko")}
    chosen: dict[str, image.Module] = {}
    image.choose("top", available, {"builtin_one"}, chosen)
    order = list(chosen)
    assert set(order) == {"top", "left", "right_part", "bottom", "soft"}
    assert order.index("bottom") < order.index("right_part") < order.index("left")
    assert chosen["top"].aliases == ("fs-top", "net-top")
    needed = image.closure(chosen["top"], chosen)
    assert sorted(needed) == ["bottom", "left", "right_part", "soft"]
    assert needed.index("left") < needed.index("right_part") < needed.index("bottom")
    with pytest.raises(FetchError, match="no module missing"):
        image.choose("missing", available, set(), chosen)


@pytest.mark.parametrize(
    ("payload", "message"),
    [(b"BZh9 whatever", "compressed in a way"), (b"\x1f\x8b", "does not hold an ELF file")],
)
def test_a_strange_kernel_image_is_refused(tmp_path: Path, payload: bytes, message: str) -> None:
    path = tmp_path / "vmlinuz"
    header = bytearray(0x400)
    struct.pack_into("<II", header, 0x248, 0, len(payload) + 4)
    header[0x1F1] = 1
    path.write_bytes(bytes(header) + payload + bytes(4))
    with pytest.raises(FetchError, match=message):
        fetch.unpack_image(path, ())
