"""The log of a VM's processes, which main writes to standard error.

The processes of a VM have the pipe in the place of standard output and standard error, so they
share no file with the daemon's terminal, journal or the other VMs. Whatever comes is cut into
lines, and unprintable characters are escaped: the worker is not trusted. Nor may it fill a disk:
lines beyond a rate are dropped, and counted. That also holds for a guest that has its worker die
again and again, with a new DeviceLog in each.

A keeper and its workers are the only ones that have the write end. So the end of the log is when
the last of them has ended, even one that the kernel cannot kill yet.
"""

import fcntl
import os

from vhost9p.line_rate import LineRate
from vhost9p.output import one_line, say, write_line

PIECE = 65536
LINE_MAX = 65536
"""Bytes; a longer line is broken."""
LINES_PER_SECOND = 50
BURST = 500
"""Lines of a VM for each of its devices: more than DeviceLog lets pass."""
LINE_UNIT = 1024
"""Bytes that count as a line."""


class LogPipe:
    """A pipe: processes write into `write_end`, main reads."""

    def __init__(self, read_end: int = -1) -> None:
        """The one of this descriptor, which others write into already, or a new one. Raises
        OSError."""
        self._read_end, self.write_end = read_end, -1
        if read_end < 0:
            self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._rest = b""
        self._name = ""
        self._rate: LineRate | None = None

    def limit(self, name: str, devices: int) -> None:
        """From now on lines are dropped beyond what a VM with so many devices may write."""
        self._name = name
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
        for line in filter(None, lines):
            omitted = self._rate.admit(1 + len(line) // LINE_UNIT) if self._rate else 0
            if omitted is None:
                continue
            self._report(omitted)
            write_line(one_line(line.decode(errors="backslashreplace")))

    def _report(self, omitted: int) -> None:
        if omitted:
            say(f"{self._name}: {omitted} lines were dropped by the rate limit")

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
