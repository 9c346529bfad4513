"""The lines that report changes, and what a guest's shell makes of them."""

from __future__ import annotations

import subprocess

import pytest

from tests.guest import fetch
from tests.marks import fetched
from vhost9p.changes import lines

EVERY_BYTE = bytes(number for number in range(1, 256) if number != ord("/"))
SHELLS = ["dash", "bash", "busybox"]


def test_each_kind_has_its_line() -> None:
    assert lines.changed(b"a/b", 12) == b"changed a/b 12\n"
    assert lines.changed(b"a/b", None) == b"changed a/b -\n"
    assert lines.attributes(b"a/") == b"attributes a/\n"
    assert lines.created(b"a b") == b"created a\\0040b\n"
    assert lines.removed(b"\xc3\xa4") == b"removed \xc3\xa4\n"
    assert lines.renamed(b"x\n", b"y\\") == b"renamed x\\0012 y\\0134\n"


def test_no_name_can_end_a_line_or_a_field() -> None:
    line = lines.renamed(EVERY_BYTE, EVERY_BYTE)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert len(line.split(b" ")) == 3
    assert not [byte for byte in line[:-1] if byte < 32 or byte == 127]


def test_the_last_size_counts() -> None:
    """A line is left out only if it repeats what was said of the file last."""
    found = lines.Lines()
    for size in (1, 1, 2, 2, 1):
        found.add(lines.changed(b"f", size))
        found.add(lines.changed(b"g", 5))
    sizes = [1, 5, 2, 1]
    assert [int(each.split()[2]) for each in found.text.splitlines()] == sizes


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_decode_a_path(shell: str) -> None:
    """With digits behind each byte, which must not be taken for its own."""
    path = b"".join(bytes([byte]) + b"77" for byte in EVERY_BYTE)
    command = [*fetched(fetch.busybox).command, "sh"] if shell == "busybox" else [shell]
    script = 'while read -r kind path; do printf "%b" "$path"; done'
    done = subprocess.run(
        [*command, "-c", script], input=lines.removed(path), capture_output=True, check=True
    )
    assert done.stdout == path
