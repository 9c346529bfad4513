"""The directory of notices in guests: programs that read the stream, and touch(1)."""

import os
from collections.abc import Iterator

import pytest

from tests.frontend.changes import ring_of
from tests.frontend.deaths import kill
from tests.guest.conftest import Boot
from tests.guest.fetch import Kernel
from tests.guest.mounted import Mounted, mounted
from vhost9p.changes.ring import Ring

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.newest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]
READERS = {
    "cat": "cat .vhost9p/events",
    "dd": "dd if=.vhost9p/events bs=64k count=9",
    "direct": "dd if=.vhost9p/events bs=4k iflag=direct count=9",
    "head": "head -n1 .vhost9p/events",
    "busybox": "busybox cat .vhost9p/events",
    "ash": "busybox sh -c 'while read -r kind path; do echo $kind $path; done' < .vhost9p/events",
    "bash": "bash -c 'while read -r kind path; do echo $kind $path; done' < .vhost9p/events",
    "dash": "dash -c 'while read -r kind path; do echo $kind $path; done' < .vhost9p/events",
}
LINES = b"created one\n", b"changed two 2\nremoved three\n"
CACHES = ("none", "mmap", "loose")
UNCACHED_SINCE = (6, 4)
"""Since this version of Linux a qid.version of 0 makes a file uncached, whatever the mount says."""


@pytest.fixture
def share(boot: Boot) -> Iterator[Mounted]:
    with mounted(boot, "--notify") as share:
        yield share


def version_of(kernel: Kernel) -> tuple[int, ...]:
    return tuple(map(int, kernel.release.split(".")[:2]))


def in_time(share: Mounted, condition: str) -> None:
    share.sh(f"for i in $(seq 600); do if {condition}; then exit 0; fi; sleep 0.1; done; exit 1")


def read_all(share: Mounted, ring: Ring, readers: dict[str, str]) -> None:
    """Each reader gets the lines while it waits for more, and over a death of the worker."""
    for name, command in readers.items():
        begin = f"({command}) > /tmp/{name} 2> /tmp/{name}.said"
        share.vm.run(f"cd /mnt; {begin} & echo $! >> /tmp/pids")
    in_time(share, f"[ $(ls -l /proc/[0-9]*/fd | grep -c vhost9p/events) -ge {len(readers)} ]")
    for number, lines in enumerate(LINES, 1):
        ring.append(lines)
        for name in readers:
            got = b"".join(LINES[: 1 if name == "head" else number]).decode()
            in_time(share, f'[ "$(cat /tmp/{name})" = "$(printf %b {got!r})" ]')
        kill(share.daemon.worker)
    ends = "kill $(cat /tmp/pids); rm /tmp/pids; killall cat dd bash dash busybox"
    share.vm.run(ends, check=False)
    ring.append(LINES[0])  # whoever ignores signals sees a closed pipe or the end of its input
    in_time(share, "! ls -l /proc/[0-9]*/fd | grep -q vhost9p/events")


def test_programs_read_the_stream(share: Mounted, kernel: Kernel) -> None:
    with ring_of(share.daemon) as ring:
        for cache in CACHES:
            share.remount(cache)
            is_cached = cache == "loose" and version_of(kernel) < UNCACHED_SINCE
            only = {"direct": READERS["direct"]}
            read_all(share, ring, only if is_cached else READERS)


def test_a_forgotten_file_is_looked_up_again(share: Mounted) -> None:
    file = share.export / "file"
    file.write_text("old")
    share.remount("loose")
    share.sh("cat file; ls missing || true")
    (share.export / "next").write_text("another")
    (share.export / "next").rename(file)
    assert share.sh("cat file; stat -c %s file").split() == ["old3"]
    share.sh("touch -c -m -r .vhost9p/forget file")
    assert share.sh("cat file").strip() == "another"
    assert file.stat().st_mtime > 1e9
    (share.export / "dir").mkdir()
    share.sh("ls dir; ! ls dir/missing")
    (share.export / "dir/missing").write_text("here")
    share.sh("touch -c -m -r .vhost9p/forget dir")
    assert share.sh("cat dir/missing") == "here"
