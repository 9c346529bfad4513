"""The directory of notices (csrc/export/notices.h) as it lies on the host, in the state directory.

It has `events`, an empty file whose reads are the stream; `refresh`, `forget` and `renew`, empty
files for touch(1) with -r, whose times mean what they are named after; and the agents for the
guest, which are files of this package. Whatever else lies there is removed.

The stream is for the guest's root alone: it has names from directories that other users of the
guest may not look into, and readers share the room in which requests wait.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from vhost9p.fs.tree import own_directory
from vhost9p.native.export import FORGET_MTIME, REFRESH_MTIME, RENEW_MTIME

EVENTS = "events"
TIMES = {"refresh": REFRESH_MTIME, "forget": FORGET_MTIME, "renew": RENEW_MTIME}
GUEST = Path(__file__).parent.parent / "guest"
AGENTS = {path.name: path.read_bytes() for path in sorted(GUEST.glob("agent*"))}
"""The agents' contents by name. They are read here, since no process that serves has the files."""


class NoticesDirectory(NamedTuple):
    """An O_PATH descriptor, and the inode number of the stream in it."""

    fd: int
    events: int


def open_notices(folder_fd: int, key: str) -> NoticesDirectory:
    """Opens the directory for a key in the folder `folder_fd`, and makes its files what they should
    be. Raises OSError."""
    with own_directory(folder_fd, key, ".notices") as fd:
        for name in set(os.listdir(fd)) - {EVENTS, *TIMES, *AGENTS}:
            os.unlink(name, dir_fd=fd)
        _write(fd, EVENTS, b"", 0o400)
        for name in TIMES:
            _write(fd, name, b"", 0o444)
        for name, seconds in TIMES.items():
            os.utime(name, (seconds, seconds), dir_fd=fd, follow_symlinks=False)
        for name, content in AGENTS.items():
            _write(fd, name, content, 0o555)
        events = os.stat(EVENTS, dir_fd=fd, follow_symlinks=False).st_ino
        return NoticesDirectory(os.open(".", os.O_PATH | os.O_DIRECTORY, dir_fd=fd), events)


def _write(dir_fd: int, name: str, content: bytes, mode: int) -> None:
    """Makes a file what it should be, whole at any time, unless it is that already."""
    if _read(dir_fd, name) == (content, mode):
        return
    new = f".{name}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    with open(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, mode)
    os.rename(new, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _read(dir_fd: int, name: str) -> tuple[bytes, int] | None:
    """Returns content and mode of a file; None if it is not there."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        return file.read(), stat.S_IMODE(os.fstat(fd).st_mode)
