"""How a record of the log is written: as text, as JSON, or for journald.

Text is for people: `vhost9p: VM: LEVEL: text`. Each line begins with the program's name, but for
those of a traceback, which are indented; so nobody can bring in a line of another VM. JSON is one
object per line (JSON Lines). For journald a record is a datagram of fields, its native protocol
(systemd.io/JOURNAL_NATIVE_PROTOCOL).

The datagram is made here, since libsystemd's sd_journal_send(3) waits for a journald that does not
read, and main must not wait. A datagram for which there is no room is lost, and counted.

Nobody stamps the lines of a file, so they have the time. Who reads a pipe can do that, a terminal's
reader looks at it now, and journald does it itself.
"""

import json
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from vhost9p.config import LogFormat, LogTime
from vhost9p.log_record import Record

IDENTIFIER = "vhost9p"
JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Those of syslog(3)."""


def is_journal(fd: int) -> bool:
    """Whether a descriptor leads to journald: JOURNAL_STREAM of systemd.exec(5) names it."""
    with suppress(OSError):
        found = os.fstat(fd)
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def journal_problem() -> str | None:
    """Returns why there is no journald to write to; None if there is one."""
    try:
        if stat.S_ISSOCK(os.stat(JOURNAL).st_mode):
            return None
        why = "it is no socket"
    except OSError as error:
        why = str(error.strerror)
    return f"there is no journald at {JOURNAL}: {why}; choose text or json"


@dataclass(frozen=True, slots=True)
class Form:
    """How records are written."""

    format: Literal["text", "journald", "json"] = "text"
    has_time: bool = False

    @classmethod
    def choose(cls, wanted: LogFormat, time: LogTime, fd: int) -> "Form":
        """The form for a descriptor. What `auto` stands for, follows from where it leads."""
        chosen = wanted
        if chosen == "auto":
            chosen = "journald" if is_journal(fd) else "text"
        has_time = time == "always"
        if time == "auto":
            has_time = chosen == "json" or (chosen == "text" and _is_file(fd))
        return cls(chosen, has_time)

    def lines(self, record: Record) -> list[str]:
        """Returns the lines of a record, for a stream."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        if self.format == "json":
            return [_as_json(record, now if self.has_time else "")]
        return _as_text(record, f"{now} " if self.has_time else "")


def _is_file(fd: int) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(os.fstat(fd).st_mode)
    return False


def _as_text(record: Record, time: str) -> list[str]:
    level = "" if record.is_said else f"{record.level.upper()}: "
    return [
        f"{time}{IDENTIFIER}: {_vm(record)}{level}{record.text}",
        *(f"{time}  {line}" for line in record.more),
    ]


def _vm(record: Record) -> str:
    """What stands before the text if there are several VMs."""
    return f"{record.speaker}: " if record.speaker else ""


def _as_json(record: Record, time: str) -> str:
    written: dict[str, Any] = {"time": time} if time else {}
    written |= {"level": record.level, **record.fields, "message": record.text}
    if "errno" in written and written["errno"].isdecimal():
        written["errno"] = int(written["errno"])
    if record.more:
        written["traceback"] = [*record.more]
    return json.dumps(written, ensure_ascii=False)


# ---- journald ------------------------------------------------------------------------------------


def datagram(record: Record) -> bytes:
    """Returns a record in journald's native protocol."""
    fields = {
        "MESSAGE": "\n".join([_vm(record) + record.text, *record.more]),
        "PRIORITY": str(PRIORITIES[record.level]),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **{name.upper(): value for name, value in record.fields.items()},
    }
    return b"".join(_field(name, value.encode()) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)


def send(record: Record) -> None:
    """Gives a record to journald, and never waits. Raises BlockingIOError if there is no room, and
    OSError if it cannot be given at all. No socket is kept, so journald may begin anew, and a
    process that has just been forked may close what it does not know."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(datagram(record), JOURNAL)
