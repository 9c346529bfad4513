"""Writes to standard error, one line per message. A process of one of several VMs puts the VM's
name before each.

A line may contain names from a guest, a frontend or the host: descriptors, files, programs.
Unprintable characters are escaped, so that they cannot add lines or send commands to a terminal. A
failed write never ends the daemon.

A process that serves, or looks after one, never waits for whoever reads its log: a line for which
standard error has no room is lost, and the next one says how many were. A pipe that is ready has
room for PIPE_BUF bytes (pipe(7)), so lines are written in pieces. Another writer may take that room
in between: then this one waits for the reader after all.
"""

import logging
import os
import select
import sys
from contextlib import suppress


def one_line(text: str) -> str:
    """Returns the text with unprintable characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


_speaker = "vhost9p"


def speak_for(vm: str) -> None:
    """From now on each line begins with the name of a VM, too."""
    global _speaker  # noqa: PLW0603
    _speaker = one_line(f"vhost9p: {vm}")


def say(text: str) -> None:
    """Writes one line, if standard error is open."""
    write_line(f"{_speaker}: {one_line(text)}")


_waits = True
_lost = 0
"""Lines, since the last one that was written."""


def never_wait() -> None:
    """From now on lines are lost for which standard error has no room."""
    global _waits  # noqa: PLW0603
    _waits = False


def write_line(line: str) -> None:
    """Writes a line as it is, if standard error is open."""
    global _lost  # noqa: PLW0603
    with suppress(OSError, ValueError):
        if not sys.stderr:
            return
        if _waits:
            print(line, file=sys.stderr, flush=True)
            return
        if _lost and _write(f"{_speaker}: {_lost} lines were lost: nobody read the log"):
            _lost = 0
        _lost += not _write(line)


def _write(line: str) -> bool:
    """Writes a line as far as there is room; whether that was enough. Raises OSError."""
    data = f"{line}\n".encode(errors="backslashreplace")
    poller = select.poll()
    poller.register(sys.stderr.fileno(), select.POLLOUT)
    while data and poller.poll(0):
        data = data[os.write(sys.stderr.fileno(), data[: select.PIPE_BUF]) :]
    return not data


def occupy_standard_streams() -> None:
    """Opens /dev/null for descriptors 0 to 2 that are closed, so that no file of a guest gets a
    number to which libraries print. Programs that are executed have them, too."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def flush() -> None:
    """Flushes both streams, ignoring errors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream:
                stream.flush()


class _Formatter(logging.Formatter):
    """Escapes messages; tracebacks, which are ours, stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(f"{_speaker}: {super().formatMessage(record)}")


class _Handler(logging.Handler):
    """Writes records to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


def start_log(level: str) -> None:
    """Sends the log, from this level up, to standard error."""
    handler = _Handler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
