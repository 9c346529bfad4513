"""A daemon for a directory, for as long as one frontend is connected."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vhost9p.errors import UserError
from vhost9p.log_record import one_line
from vhost9p.replay.frontend import PATIENCE_S, Frontend, NoReply


@contextmanager
def served(directory: str, options: Sequence[str]) -> Iterator[Frontend]:
    """Yields a frontend of a daemon for the directory, with these options. The daemon ends with
    the connection. Raises UserError if it does not serve, OSError, NoReply."""
    folder = tempfile.mkdtemp(prefix="vhost9p-replay-")
    try:
        path, log = os.path.join(folder, "sock"), os.path.join(folder, "log")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            listening.listen(1)
            process = _start(listening.fileno(), directory, folder, log, options)
        try:
            with Frontend(path) as frontend:
                yield frontend
        except (NoReply, ConnectionError) as error:
            raise UserError(*_why(log, process, error)) from None
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    fd: int, directory: str, folder: str, log: str, options: Sequence[str]
) -> "subprocess.Popen[bytes]":
    command = [
        *(sys.executable, "-m", "vhost9p", "--fd", str(fd), "--once", "--path", directory),
        *("--state-dir", folder, "--control-socket", "off", *options),
    ]
    with open(log, "wb") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[fd]
        )


def _why(log: str, process: "subprocess.Popen[bytes]", error: Exception) -> list[str]:
    """What the daemon has said, if it has ended."""
    try:
        process.wait(1 if isinstance(error, NoReply) else PATIENCE_S)
    except subprocess.TimeoutExpired:
        return [str(error)]
    with open(log, errors="replace") as file:
        lines = [one_line(line.rstrip("\n").removeprefix("vhost9p: ")) for line in file]
    return lines[-5:] or [str(error)]
