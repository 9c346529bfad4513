"""What goes to standard error: a line each, whatever it quotes.

A line may hold what a guest, a frontend or the host has named: descriptors, files, programs. What
cannot be printed of it is shown as an escape, so that it makes no line of its own and gives a
terminal no commands. Whether anybody reads it is no reason to end.
"""

import logging
import os
import sys
from contextlib import suppress


def one_line(text: str) -> str:
    """The text with escapes for all that is no printable character."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def say(text: str) -> None:
    """One line, if there is a standard error."""
    with suppress(OSError, ValueError):
        if sys.stderr:
            print(f"vhost9p: {one_line(text)}", file=sys.stderr, flush=True)


def occupy_standard_streams() -> None:
    """The descriptors 0 to 2 are standard streams for all that is in the process: where one was
    closed, no file of a guest is to be there when something prints."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(fd)


def flush() -> None:
    """Writes out what has been said, as far as somebody takes it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream:
                stream.flush()


class _Formatter(logging.Formatter):
    """Tracebacks, which are ours, stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


def start_log(level: str) -> None:
    """From now on the log goes there, from this level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("vhost9p: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
