"""What a line of the log consists of, how code says what a line concerns, and how the processes of
a VM send lines to main.

A record has a level, a text, and fields that say what it concerns: FIELDS. Programs that collect
logs filter by them. The text names its subject, too, since people read nothing else.

On the pipe to main (log_pipe.py) a record is a line. ASCII has characters for that: a record begins
with RECORD; level, kind, fields and text are separated by UNIT, and the lines of a traceback by
GROUP. Text never contains them, since unprintable characters are escaped. Whatever else arrives,
such as the last words of an interpreter that fails, is text.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from vhost9p.escapes import escape, escape_char

FIELDS = ("vm", "device", "socket", "export", "request", "errno")
"""What a record can concern: a VM by its name, a device by its tag, its socket, an export by its
name, or by its path if it has none, a request by its type, and the error that the guest gets."""
RECORD, UNIT, GROUP = "\x1e", "\x1f", "\x1d"
SAID, LOGGED = "said", "logged"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_NAMES = {number: name for name, number in LEVELS.items()}


def one_line(text: str) -> str:
    """Returns the text with unprintable characters, and bytes that are no UTF-8, escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return escape_char(char) if "\udc80" <= char <= "\udcff" else repr(char)[1:-1]


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the log. All strings are printable."""

    level: str
    """One of LEVELS."""
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """What it concerns; see FIELDS. Names are escaped, and can be led back (escapes.py)."""
    is_said: bool = False
    """Whether the text speaks for itself, without the level before it."""
    more: tuple[str, ...] = ()
    """The lines of a traceback."""
    speaker: str = ""
    """The VM whose process it is from, if there are several."""

    @classmethod
    def of(cls, log_record: logging.LogRecord) -> Self:
        """What a logger was given."""
        fields = getattr(log_record, "concerns", None)
        text = log_record.getMessage()
        if fields is None and (fields := _concerns.get()) and "device" in fields:
            text = f"{fields['device']}: {text}"
        trace = ""
        if log_record.exc_info:
            trace = logging.Formatter().formatException(log_record.exc_info)
        return cls(
            level_name(log_record.levelno),
            one_line(text),
            {name: escape(value) for name, value in (fields or {}).items()},
            more=tuple(map(one_line, trace.splitlines())),
        )

    def to_line(self) -> str:
        """The line for main, without its end."""
        fields = [f"{name}={value}" for name, value in self.fields.items()]
        text = GROUP.join([self.text, *self.more])
        return RECORD + UNIT.join([self.level, SAID if self.is_said else LOGGED, *fields, text])

    @classmethod
    def from_line(cls, line: str) -> Self | None:
        """The record of a line, without its RECORD. None if it is none: who wrote it is not
        trusted."""
        level, *parts = line.split(UNIT)
        if level not in LEVELS or len(parts) < 2 or parts[0] not in (SAID, LOGGED):
            return None
        fields = dict(part.partition("=")[::2] for part in parts[1:-1])
        if not fields.keys() <= set(FIELDS):
            return None
        text, *more = map(one_line, parts[-1].split(GROUP))
        fields = {name: one_line(value) for name, value in fields.items()}
        return cls(level, text, fields, parts[0] == SAID, tuple(more))


def level_name(number: int) -> str:
    """Returns the name of the level, or of the next one below."""
    return _NAMES.get(number) or _NAMES[max(10, min(number // 10 * 10, 50))]


# ---- what a line concerns ------------------------------------------------------------------------

_concerns: ContextVar[Mapping[str, str]] = ContextVar("concerns", default=MappingProxyType({}))


def about(**fields: str) -> dict[str, Any]:
    """Returns what a logger's `extra` has to be for a line that concerns these FIELDS. The text
    names them."""
    return {"concerns": fields}


def concerns() -> Mapping[str, str]:
    """Returns what lines of this thread concern that do not say so themselves."""
    return _concerns.get()


@contextmanager
def concerning(**fields: str) -> Iterator[None]:
    """Within it, lines of this thread that do not say what they concern, concern these FIELDS, too,
    and the tag of the device stands before their text."""
    token = _concerns.set({**_concerns.get(), **fields})
    try:
        yield
    finally:
        _concerns.reset(token)
