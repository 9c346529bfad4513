"""The log of a VM's processes, which main writes to standard error.

The processes of a VM have the pipe in the place of standard output and standard error, so they
share no file with the daemon's terminal, journal or the other VMs. Whatever comes is cut into
lines, which are records (log_record.py) or else text, and unprintable characters are escaped: the
worker is not trusted. So it is main that enters which VM a record concerns, and what else it
concerns has to be the VM's. Nor may a worker fill a disk: lines beyond a rate are dropped, and
counted. That also holds for a guest that has its worker die again and again, with a new DeviceLog
in each.

A keeper and its workers are the only ones that have the write end. So the end of the log is when
the last of them has ended, even one that the kernel cannot kill yet.
"""

import fcntl
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from vhost9p.config import Config, DeviceConfig
from vhost9p.escapes import escape
from vhost9p.line_rate import LineRate
from vhost9p.log_record import GROUP, RECORD, Record, one_line
from vhost9p.output import write

PIECE = 65536
LINE_MAX = 65536
"""Bytes; a longer line is broken."""
LINES_PER_SECOND = 50
BURST = 500
"""Lines of a VM for each of its devices: more than DeviceLog lets pass."""
LINE_UNIT = 1024
"""Bytes that count as a line."""


_OTHERS = {
    "request": re.compile(r"T[a-z]{2,15}|type [0-9]{1,3}"),
    "errno": re.compile("[0-9]{1,5}"),
}
"""Fields of records that are no part of the configuration."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The VM whose processes write into a pipe."""

    name: str
    config: Callable[[], Config]
    """Returns what is configured now."""
    speaks: bool = False
    """Whether its name stands before the text, since there are other VMs."""

    def sign(self, record: Record) -> Record:
        """Enters which VM, device and socket it concerns, and leaves out what the VM has not."""
        said = record.fields
        fields = {"vm": escape(self.name)}
        devices = [
            (each, names)
            for each in self.config().devices
            for names in [_names(each)]
            if all(said.get(field, name) == name for field, name in names.items())
        ]
        if len(devices) == 1:
            ((device, names),) = devices
            fields |= names
            exports = [escape(each.name or each.path) for each in device.exports]
            only = exports[0] if len(exports) == 1 else ""
            if (export := said.get("export", only)) in exports:
                fields["export"] = export
        fields |= {
            name: said[name] for name, form in _OTHERS.items() if form.fullmatch(said.get(name, ""))
        }
        return replace(record, fields=fields, speaker=one_line(self.name) if self.speaks else "")

    def text(self, line: str) -> Record:
        """The record of a line that is none, such as the last words of an interpreter. A keeper of
        an older version writes the names itself."""
        text = line.removeprefix("vhost9p: ").removeprefix(f"{self.name}: ")
        return self.sign(Record("warning", one_line(text), is_said=True))


def _names(device: DeviceConfig) -> dict[str, str]:
    """The fields of records that name a device."""
    return {"device": escape(device.tag), "socket": escape(device.place)}


class LogPipe:
    """A pipe: processes write into `write_end`, main reads."""

    def __init__(self, origin: Origin, read_end: int = -1, rest: str = "") -> None:
        """The one of this descriptor, which others write into already, and of which `rest` was
        read before; or a new one. Raises OSError."""
        self._read_end, self.write_end = read_end, -1
        if read_end < 0:
            self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._rest = rest.encode("latin-1")
        self._origin = origin
        self._rate: LineRate | None = None

    @property
    def rest(self) -> str:
        """What has arrived of a line that has not ended; a character for each byte."""
        return self._rest.decode("latin-1")

    def limit(self, devices: int) -> None:
        """From now on lines are dropped beyond what a VM with so many devices may write."""
        self._rate = LineRate(LINES_PER_SECOND * devices, BURST * devices)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._read_end

    def close_write_end(self) -> None:
        """In main, once those who write have been created."""
        os.close(self.write_end)
        self.write_end = -1

    def relay(self) -> bool:
        """Writes the lines that have arrived; a few at a time, so that nobody fills all of main's
        time. Returns False at the end of the log."""
        try:
            data = os.read(self._read_end, PIECE)
        except BlockingIOError:
            return True
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            lines, self._rest = [*lines, self._rest], b""
        self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        for line in lines:
            # A record may follow what another process has not ended. Each counts for itself.
            text, *records = line.split(RECORD.encode())
            if text:
                self._write_one(text, is_record=False)
            for each in records:
                self._write_one(each, is_record=True)

    def _write_one(self, line: bytes, *, is_record: bool) -> None:
        count = 1 + line.count(GROUP.encode()) + len(line) // LINE_UNIT
        omitted = self._rate.admit(count) if self._rate else 0
        if omitted is None:
            return
        self._report(omitted)
        text = line.decode(errors="backslashreplace")
        record = Record.from_line(text) if is_record else None
        write(self._origin.sign(record) if record else self._origin.text(text))

    def _report(self, omitted: int) -> None:
        if omitted:
            name = self._origin.name
            text = one_line(f"{name}: {omitted} lines were dropped by the rate limit")
            write(Record("warning", text, {"vm": escape(name)}, is_said=True))

    def close(self) -> None:
        """Writes what is left, no more than the pipe holds, and closes both ends."""
        if self.write_end >= 0:
            self.close_write_end()
        left = fcntl.fcntl(self._read_end, fcntl.F_GETPIPE_SZ)
        while left > 0:
            try:
                data = os.read(self._read_end, PIECE)
            except BlockingIOError:
                break
            if not data:
                break
            left -= len(data)
            self._take(data)
        self._write([self._rest])
        if self._rate:
            self._report(self._rate.omitted)
        os.close(self._read_end)
