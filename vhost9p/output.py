"""Writes to standard error, one line per message.

A line may contain names from a guest, a frontend or the host: descriptors, files, programs.
Unprintable characters are escaped, so that they cannot add lines or send commands to a terminal. A
failed write never ends the daemon.
"""

import logging
import os
import sys
from contextlib import suppress


def one_line(text: str) -> str:
    """Returns the text with unprintable characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def say(text: str) -> None:
    """Writes one line, if standard error is open."""
    with suppress(OSError, ValueError):
        if sys.stderr:
            print(f"vhost9p: {one_line(text)}", file=sys.stderr, flush=True)


def occupy_standard_streams() -> None:
    """Opens /dev/null for descriptors 0 to 2 that are closed, so that no file of a guest gets a
    number to which libraries print."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
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
        return one_line(super().formatMessage(record))


def start_log(level: str) -> None:
    """Sends the log, from this level up, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("vhost9p: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
