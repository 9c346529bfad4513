"""Where a daemon's control socket is, and which daemons there are.

Without an option it is PID.sock in a folder that only the daemon's user can enter: the service's
runtime directory (RUNTIME_DIRECTORY of systemd.exec(5)), the user's (XDG_RUNTIME_DIR), or
/run/vhost9p of root. Where there is none, there is no socket.

Nobody has to know the place: a daemon says it in the file by which `vhost9p upgrade` finds it, too
(upgrade_status.py).
"""

import errno
import logging
import os
import socket
import stat
from contextlib import suppress

from vhost9p.config import OFF, xdg_folder
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

RUN = "/run/vhost9p"
"""Of root's daemons."""
SUFFIX = ".sock"


def listen(path: str | None) -> Listener | None:
    """Listens at a path, or at the default place. None if there shall be no socket, or there is no
    such place. Raises ListenError."""
    if path is not None:
        return None if path == OFF else Listener.bind(path)
    if not (folder := _default_folder()):
        log.debug("there is no runtime directory, and so no control socket: name one")
        return None
    try:
        _prepare(folder)
        return Listener.bind(os.path.join(folder, f"{os.getpid()}{SUFFIX}"))
    except OSError as error:
        raise ListenError(f"{folder}: {error.strerror}") from error


def _default_folder() -> str | None:
    """Where the socket of a daemon that was started like this is."""
    service = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(service):
        return service
    if home := xdg_folder("XDG_RUNTIME_DIR", ""):
        return os.path.join(home, "vhost9p")
    return RUN if os.geteuid() == 0 else None


def _prepare(folder: str) -> None:
    """Creates the folder, or looks whether nobody else can change what is in it; and removes what
    daemons have left that were killed. Raises OSError."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others may write there", folder)
    for name in os.listdir(folder):
        pid = name.removesuffix(SUFFIX)
        if name.endswith(SUFFIX) and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            _remove_stale(os.path.join(folder, name))


def _remove_stale(path: str) -> None:
    """The process has ended, unless it is in another pid namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
