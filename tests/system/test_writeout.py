"""writeout=immediate: the host begins at once to write out what a guest has written.

The daemon runs with a library in front of libc that notes its calls of sync_file_range(2), and can
make them fail.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.system.share import SECURITY, Share, fails, mounted

WAIT_BEFORE, WRITE = 1, 2

NOTE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int sync_file_range(int fd, off64_t offset, off64_t nbytes, unsigned int flags)
{
    int notes = open(getenv("NOTES"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;

    fstat(fd, &st);
    dprintf(notes, "%llu %lld %lld %u\n", (unsigned long long)st.st_ino, (long long)offset,
            (long long)nbytes, flags);
    close(notes);
    if (access(getenv("BROKEN"), F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return 0;
}
"""


class Noted:
    """A guest, and the calls that its writes have made: (name, offset, size, flags)."""

    def __init__(self, share: Share, folder: Path) -> None:
        self.share = share
        self.broken = folder / "broken"
        self._notes = folder / "notes"

    def calls(self) -> list[tuple[str, int, int, int]]:
        names = {entry.inode(): entry.name for entry in os.scandir(self.share.host)}
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        found = []
        for line in lines:
            inode, offset, size, flags = map(int, line.split())
            found.append((names[inode], offset, size, flags))
        return found


@pytest.fixture(params=["immediate", ""])
def noted(request: pytest.FixtureRequest, scratch: Path, tmp_path: Path) -> Iterator[Noted]:
    library = tmp_path / "note.so"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"]
    subprocess.run(command, input=NOTE, text=True, check=True)
    export = scratch / f"writeout-{request.param}-{tmp_path.name}"
    export.mkdir()
    preload = filter(None, (os.environ.get("VHOST9P_TEST_PRELOAD"), str(library)))
    env = {
        "LD_PRELOAD": ":".join(preload),
        "NOTES": str(tmp_path / "notes"),
        "BROKEN": str(tmp_path / "broken"),
    }
    args = ["--writeout", request.param] if request.param else []
    with (
        # Unconfined: the library looks for files outside the export.
        Daemon("--path", str(export), *SECURITY, "--sandbox=none", *args, env=env) as daemon,
        mounted(daemon, export) as share,
    ):
        yield Noted(share, tmp_path)


@pytest.mark.parametrize("noted", ["immediate"], indirect=True)
def test_what_is_written_goes_out(noted: Noted) -> None:
    client, top = noted.share.client, noted.share.top
    fid = client.create(top, b"file")
    client.write(fid, 0, bytes(100))
    client.write(fid, 65536, bytes(8192))
    client.write(fid, 4096, b"")
    both = WAIT_BEFORE | WRITE
    assert noted.calls() == [("file", 0, 100, both), ("file", 65536, 8192, both)]
    client.read(fid, 0, 4096)
    noted.share.put("log", b"before")
    # Where appended data have come to be is the host's to know: all that is dirty goes out.
    client.write(client.open(top, b"log", os.O_WRONLY | os.O_APPEND), 0, b"after")
    assert noted.share.get("log") == b"beforeafter"
    assert noted.calls()[2:] == [("log", 0, 0, both)]


@pytest.mark.parametrize("noted", ["immediate"], indirect=True)
def test_lost_data_are_reported(noted: Noted) -> None:
    """The error is told once by the host, here: a later fsync would not know of it."""
    fid = noted.share.client.create(noted.share.top, b"file")
    noted.broken.touch()
    with fails(errno.EIO):
        noted.share.client.write(fid, 0, b"data")
    noted.broken.unlink()
    assert noted.share.client.write(fid, 0, b"data") == 4


@pytest.mark.parametrize("noted", [""], indirect=True)
def test_without_it_the_host_decides(noted: Noted) -> None:
    client = noted.share.client
    client.write(client.create(noted.share.top, b"file"), 0, bytes(8192))
    assert noted.share.get("file") == bytes(8192)
    assert noted.calls() == []
