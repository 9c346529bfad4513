"""Writes the log to standard error or to journald, one record at a time (log_record.py,
log_format.py). The processes of a VM write to a pipe instead, which main reads (log_pipe.py): main
alone decides on the form.

A record may contain names from a guest, a frontend or the host: descriptors, files, programs.
Unprintable characters are escaped, so that they cannot add lines or send commands to a terminal. A
failed write never ends the daemon.

A process that serves, or looks after one, never waits for whoever reads its log: a line for which
standard error has no room is lost, and the next one says how many were. A pipe that is ready has
room for PIPE_BUF bytes (pipe(7)), so lines are written in pieces. Another writer may take that room
in between: then this one waits for the reader after all.
"""

import io
import logging
import os
import select
import sys
from contextlib import suppress

from vhost9p import log_format
from vhost9p.config import LogFormat, LogTime
from vhost9p.escapes import escape
from vhost9p.log_format import Form
from vhost9p.log_record import Record, level_name, one_line

STDOUT, STDERR = 1, 2


class _State:
    """Where records go to."""

    def __init__(self) -> None:
        self.form: Form | None = Form()
        """None: main decides, which reads standard error."""
        self.wanted: tuple[LogFormat, LogTime] = "auto", "auto"
        self.waits = True
        self.lost = 0
        """Lines, since the last one that was written."""


_state = _State()


def say(text: str, level: int = logging.ERROR, **concerns: str) -> None:
    """Logs one line whatever the log's level is, without its own level before it: most are errors
    that end a command. It may concern some of log_record.FIELDS."""
    fields = {name: escape(value) for name, value in concerns.items()}
    write(Record(level_name(level), one_line(text), fields, is_said=True))


def never_wait() -> None:
    """From now on lines are lost for which standard error has no room."""
    _state.waits = False


def write(record: Record) -> None:
    """Writes a record, if standard error is open."""
    with suppress(OSError, ValueError):
        if _state.lost:
            text = f"{_state.lost} lines were lost: nobody read the log"
            if _put(Record("warning", text, is_said=True)):
                _state.lost = 0
        _state.lost += not _put(record)


def _put(record: Record) -> bool:
    """Whether there was room. Raises OSError."""
    form = _state.form
    if form is None:
        return write_line(record.to_line())
    if form.format == "journald":
        try:
            log_format.send(record)
            return True
        except BlockingIOError:
            return False
        except OSError:
            form = Form()  # journald is not there; what it has given as standard error may be
    return all(write_line(line) for line in form.lines(record))


def write_line(line: str) -> bool:
    """Writes a line to standard error as it is; whether there was room, or standard error is
    closed. Raises OSError."""
    if not sys.stderr:
        return True
    if _state.waits:
        sys.stderr.write(f"{line}\n")  # at once: other processes write there, too
        sys.stderr.flush()
        return True
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


def prepare_stdout() -> None:
    """For a command, whose output may go anywhere: to nobody, or to where not all characters can
    be written."""
    if sys.stdout is None:
        occupy_standard_streams()
        sys.stdout = os.fdopen(STDOUT, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def is_stdout_broken() -> bool:
    """Whether standard output is a pipe, or the like, that nobody reads any more."""
    poller = select.poll()
    poller.register(STDOUT, 0)
    return bool(poller.poll(0))


def silence_stdout() -> None:
    """Nothing more is written, nor flushed as the process ends."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, STDOUT)
    os.close(null)


def flush() -> None:
    """Flushes both streams, ignoring errors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream:
                stream.flush()


class _Handler(logging.Handler):
    """Writes what loggers are given."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(Record.of(record))
        except Exception:
            self.handleError(record)


def start_log(level: str, wanted: LogFormat = "auto", time: LogTime = "auto") -> None:
    """Logs from this level up, in this form."""
    choose_form(wanted, time)
    logging.basicConfig(level=level.upper(), handlers=[_Handler()])


def choose_form(wanted: LogFormat, time: LogTime) -> None:
    """From now on records have this form."""
    _state.wanted = wanted, time
    _state.form = Form.choose(wanted, time, STDERR)


def wanted_form() -> tuple[LogFormat, LogTime]:
    """Returns what `choose_form` was given."""
    return _state.wanted


def leave_form_to_main() -> None:
    """In a process of a VM: standard error is the pipe to main."""
    _state.form = None
