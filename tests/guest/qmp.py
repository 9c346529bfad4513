"""QEMU's machine protocol: a small synchronous client.

Belongs here: one connection, its commands and events. JSON, one object per line: a greeting, then
for each command a `return` or an `error`, with events in between (QEMU's docs/interop/qmp-spec).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

_COMMAND_SECONDS = 60.0


class QmpError(Exception):
    """QEMU has refused a command, has not answered or has gone."""


class Qmp:
    """A connection to QEMU's monitor. Its methods may be called by several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._buffer = b""
        self._receive(time.monotonic() + _COMMAND_SECONDS)
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command; what it returns. Raises QmpError."""
        message = json.dumps({"execute": command, "arguments": arguments})
        end = time.monotonic() + _COMMAND_SECONDS
        with self._lock:
            try:
                self._socket.sendall(message.encode() + b"\n")
            except OSError as error:
                raise QmpError(f"{command}: QEMU has gone: {error}") from error
            while True:
                answer = self._receive(end)
                if "error" in answer:
                    raise QmpError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]
                self._events.append(answer)

    def wait_event(self, name: str, timeout: float = 60.0, **data: Any) -> dict[str, Any]:
        """The next event called `name` whose data holds `data`; it and those before it are
        forgotten. Raises QmpError when it does not come in `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._lock:
            while True:
                event = self._events.pop(0) if self._events else self._receive(end)
                content = event.get("data", {})
                if event.get("event") == name and data.items() <= content.items():
                    return event

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _receive(self, end: float) -> dict[str, Any]:
        """The next object that QEMU sends before the time `end`."""
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise QmpError("QEMU has not answered in time") from None
            except OSError as error:
                raise QmpError(f"QEMU has gone: {error}") from error
            if not data:
                raise QmpError("QEMU has closed its monitor")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
