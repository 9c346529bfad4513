"""With cache=loose: what a program in the guest sees by name and through what it has open, whatever
the host does to a name before the agent comes to it.

Each test has a directory of its own. The agent is stopped where the order matters.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.changes import ring_of
from tests.guest import uml_kernel
from tests.guest.channel import Process
from tests.guest.following import MOUNT, Following, following
from tests.system.watching import traced
from vhost9p.changes.ring import Ring
from vhost9p.native.export import FORGET_MTIME

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to watch whole file systems"),
    pytest.mark.skipif(
        not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
    ),
    pytest.mark.guest,
]


@pytest.fixture(scope="module")
def guest() -> Iterator[Following]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        Path(folder).chmod(0o755)
        with following(Path(folder), "loose") as found:
            yield found


LINES = 100
STANDS_STILL = """
until [ "$(cat $(printf '/proc/%s/status ' $(pgrep agent-)) | grep -c '^State:.T')" = 2 ]; do
    sleep 0.01
done
"""


class Place:
    """A directory, on the host and in the guest."""

    def __init__(self, guest: Following, name: str) -> None:
        self.guest = guest
        self.name = name
        self.host = guest.export / name
        self.host.mkdir()
        guest.await_change()

    def write(self, name: str, text: str) -> None:
        """By the host; the guest has seen it, and the agent has no more to do with it."""
        (self.host / name).parent.mkdir(exist_ok=True)
        (self.host / name).write_text(text)
        self.guest.await_change()
        assert self.read(name) == text

    def read(self, name: str) -> str:
        """In the guest, by name."""
        return self.guest.guest.run(["cat", name], cwd=f"{MOUNT}/{self.name}").text

    def opened(self, name: str) -> Process:
        """A program that has opened a file, and reads it when it is asked to."""
        script = 'exec 3<"$1"; echo opened; read -r go; exec cat <&3'
        command = ["sh", "-c", script, "sh", name]
        program = self.guest.guest.popen(command, cwd=f"{MOUNT}/{self.name}", stdin=None)
        program.expect(b"opened\n")
        return program

    @contextmanager
    def late(self) -> Iterator[None]:
        """The agent comes to what is done meanwhile at the end. It stands still in between: a
        signal does not interrupt its read, and a line about another file ends that."""
        self.guest.guest.run("pkill -STOP agent-")
        (self.host / "another").touch()
        self.guest.guest.run(STANDS_STILL)
        yield
        self.guest.guest.run("pkill -CONT agent-")
        self.guest.await_change()

    def tell(self, *lines: str) -> None:
        """Has the agent read lines that the host did not cause. Only one process may write at a
        time: the watcher has nothing to say after the end of a sign of life."""
        with ring_of(self.guest.daemon) as ring:
            self.guest.daemon.wait_until(lambda: _has_said_all(ring), "the watcher has said all")
            ring.append("".join(f"{line}\n" for line in lines).encode())
        self.guest.await_change()


def _has_said_all(ring: Ring) -> bool:
    end, last = ring.end, 64
    return re.search(rb"removed sign-of-life-\d+\n$", ring.read(end - last, last)[0]) is not None


@pytest.fixture
def place(guest: Following, request: pytest.FixtureRequest) -> Place:
    return Place(guest, request.node.name)


def what_it_reads(program: Process) -> str:
    program.write(b"go\n")
    return program.wait().text.removeprefix("opened\n")


def test_a_line_about_the_name_leaves_an_open_file_as_it_is(place: Place) -> None:
    """One that comes late: the guest knows the file already, and has seen edits."""
    place.write("file", "first")
    program = place.opened("file")
    place.write("file", "second, longer")
    place.tell(f"created {place.name}/file", f"removed {place.name}/file")
    place.write("file", "third, which is longer still")
    assert what_it_reads(program) == "third, which is longer still"


def test_a_line_of_another_size_does_no_harm(place: Place) -> None:
    """That of the file which had the name before."""
    for text in ("as long as it is", ""):
        place.write("file", text)
        for size in (3, 1000, 0):
            place.tell(f"changed {place.name}/file {size}")
            assert place.read("file") == text


def test_what_is_opened_by_a_stale_name_is_one_file(place: Place) -> None:
    """Its pages are read by whoever has the file's inode, perhaps by another name by now."""
    place.write("file", "old")
    with place.late():
        assert place.read("file") == "old", "the guest's kernel may have dropped the name"
        (place.host / "file").rename(place.host / "other")
        (place.host / "file").write_text("new")
        program = place.opened("file")
    assert what_it_reads(program) == "old"
    assert place.read("other") == "old"
    assert place.read("file") == "new"


def test_what_is_opened_by_a_name_that_was_dropped_is_one_file(place: Place) -> None:
    """As where a line about what is gone has the agent forget the directory."""
    place.write("file", "old")
    place.tell(f"created {place.name}/gone")
    with place.late():
        (place.host / "file").rename(place.host / "other")
        (place.host / "file").write_text("new")
        program = place.opened("file")
    assert what_it_reads(program) == "new"
    assert place.read("other") == "old"
    assert place.read("file") == "new"


def test_lines_about_what_is_gone_take_the_names_of_a_directory_together(
    place: Place, tmp_path: Path
) -> None:
    """The guest's kernel then looks up anew what is below: once for each read of the agent."""
    with traced(place.guest.daemon, tmp_path) as tracer:
        place.tell(*(f"created {place.name}/gone{number}" for number in range(LINES)))
        assert not place.guest.guest.run(f"ls {MOUNT}/end", check=False).text
        tracer.wait_for(lambda: "'/end'" in tracer.text)
    forgets = [line for line in tracer.text.splitlines() if f"mtime_sec {FORGET_MTIME}" in line]
    assert all(f"'/{place.name}'" in line for line in forgets)
    assert 0 < len(forgets) < LINES / 5


def test_an_edit_is_seen_where_a_directory_was_moved_to(place: Place) -> None:
    place.write("dir/file", "first")
    program = place.opened("dir/file")
    with place.late():
        (place.host / "dir/file").write_text("second, longer")
        (place.host / "dir").rename(place.host / "moved")
    assert place.read("moved/file") == "second, longer"
    place.write("moved/file", "third, which is longer still")
    assert what_it_reads(program) == "third, which is longer still"


def test_a_file_that_is_moved_is_the_same_to_whoever_has_it_open(place: Place) -> None:
    place.write("file", "first")
    program = place.opened("file")
    (place.host / "file").rename(place.host / "moved")
    place.write("moved", "second, longer")
    assert what_it_reads(program) == "second, longer"
