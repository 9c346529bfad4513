"""The host's end of the channel to a guest's agent, and the commands that run there.

Belongs here: the frames that agent.c describes, and what a caller sees of a command. A thread
reads the connection; callers wait on one condition. The agent starts every conversation with the
magic, so a new boot of the guest is seen whatever was cut off in the middle: it ends all commands
of the boot before with GuestLost.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

_MAGIC = bytes.fromhex("76686f7374397000ff81c2e41ba6592d")
_HEADER = struct.Struct("<III")
_SPAWN, _STDIN, _KILL, _HELLO, _STDOUT, _STDERR, _EXIT = 1, 2, 3, 16, 17, 18, 19
_STDIN_CHUNK = 65536
_CHECK_SECONDS = 0.25
_CLOSING_SECONDS = 5.0
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/usr/sbin:/usr/lib/busybox",
    "TERM": "dumb",
}


class GuestLost(Exception):
    """The guest, or QEMU, has gone away or broken; the message holds the end of its console."""


class CommandTimeout(Exception):
    """A command in a guest has not ended, or not said what was expected, in time."""


class CommandFailed(Exception):
    """A command in a guest has ended with a status other than 0."""

    def __init__(self, result: Result) -> None:
        super().__init__(str(result))
        self.result = result


@dataclass(frozen=True)
class Result:
    """How a command ended: `returncode` is its exit status, or minus the signal that ended it."""

    command: str
    stdout: bytes
    stderr: bytes
    returncode: int

    @property
    def text(self) -> str:
        """Standard output without the white space at its end; bytes that are not UTF-8 survive."""
        return self.stdout.decode(errors="surrogateescape").rstrip()

    def __str__(self) -> str:
        out, err = (part.decode(errors="replace") for part in (self.stdout, self.stderr))
        return f"{self.command!r} ended with {self.returncode}\n{out}{err}".rstrip()


class Process:
    """A command that runs in a guest; several may run at once. See Channel.spawn."""

    def __init__(self, channel: Channel, number: int, command: str) -> None:
        self.command = command
        self.stdout = b""
        """What it has written so far."""
        self.stderr = b""
        self.returncode: int | None = None
        self._channel = channel
        self._number = number
        self._lost = ""

    def wait(self, timeout: float = 120.0, check: bool = True) -> Result:
        """Wait for its end. A command that is not done after `timeout` seconds is killed.

        Raises CommandTimeout, CommandFailed (when `check` and its status is not 0), GuestLost.
        """
        try:
            self._until(lambda: self.returncode is not None, timeout, "has not ended")
        except CommandTimeout:
            self.kill()
            raise
        assert self.returncode is not None
        result = Result(self.command, self.stdout, self.stderr, self.returncode)
        if check and result.returncode:
            raise CommandFailed(result)
        return result

    def expect(self, text: bytes, timeout: float = 120.0) -> None:
        """Wait until its standard output contains `text`.

        Raises CommandTimeout, CommandFailed when it ends without having written that, GuestLost.
        """
        wanted = f"has not written {text!r}"
        self._until(lambda: text in self.stdout or self.returncode is not None, timeout, wanted)
        if text not in self.stdout:
            assert self.returncode is not None
            failed = Result(f"{self.command} ({wanted})", self.stdout, self.stderr, self.returncode)
            raise CommandFailed(failed)

    def line(self, start: int, timeout: float = 120.0) -> bytes:
        """Wait for the line of its standard output that begins at `start`.

        Raises CommandTimeout, CommandFailed when it ends without having written that, GuestLost.
        """
        self._until(
            lambda: b"\n" in self.stdout[start:] or self.returncode is not None,
            timeout,
            "has not answered",
        )
        end = self.stdout.find(b"\n", start) + 1
        if not end:
            assert self.returncode is not None
            raise CommandFailed(Result(self.command, self.stdout, self.stderr, self.returncode))
        return self.stdout[start:end]

    def poll(self) -> int | None:
        """Its return code, None while it runs."""
        return self.returncode

    def write(self, data: bytes) -> None:
        """Give it bytes on its standard input (only when spawned with `stdin=None`)."""
        for start in range(0, len(data), _STDIN_CHUNK):
            self._channel.send(self._number, _STDIN, data[start : start + _STDIN_CHUNK])

    def close_stdin(self) -> None:
        """End its standard input."""
        self._channel.send(self._number, _STDIN, b"")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all in its process group. No error when it has ended."""
        self._channel.send(self._number, _KILL, struct.pack("<i", number))

    def _until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        if not self._channel.wait_for(lambda: done() or bool(self._lost), timeout):
            raise CommandTimeout(f"{self.command!r} {what} after {timeout:g} s\n{self._so_far()}")
        if self._lost and not done():
            self._channel.explain(f"{self.command!r}: {self._lost}")

    def _so_far(self) -> str:
        return (self.stdout + self.stderr).decode(errors="replace")[-2000:]


class Channel:
    """The connection to the agent of one guest, over all its boots."""

    def __init__(self, connection: socket.socket, check: Callable[[], None]) -> None:
        """`connection` is the host's end, and is closed with this. `check` raises when the guest
        cannot answer any more; it is called several times a second while somebody waits."""
        self.boots = 0
        """How often the guest has booted."""
        self.release = ""
        """The release of the kernel that runs."""
        self._check = check
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._running: dict[int, Process] = {}
        self._number = 0
        self._boot_id = b""
        self._closed = False
        self._buffer = bytearray()
        self._socket = connection
        self._reader = threading.Thread(target=self._read, name="guest channel", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the connection; commands that run are lost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done`, which is called with the lock held; False when time is up first."""
        end = time.monotonic() + timeout
        with self._changed:
            while not done():
                self._check()
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _CHECK_SECONDS))
        return True

    def explain(self, what: str) -> NoReturn:
        """Raise GuestLost with `what`; with more than that when QEMU is about to end."""
        end = time.monotonic() + _CLOSING_SECONDS
        while self._closed and time.monotonic() < end:
            self._check()
            time.sleep(0.02)
        raise GuestLost(what)

    def spawn(
        self,
        command: str | Sequence[str | bytes],
        *,
        uid: int = 0,
        gid: int | None = None,
        groups: Sequence[int] = (),
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = b"",
    ) -> Process:
        """Start a command in the guest: a string goes to /bin/sh, a sequence is run as it is.

        `gid` defaults to `uid`; `groups` are the supplementary groups, none unless named. `stdin`
        is all that it reads; None leaves it open for Process.write. What it leaves running in the
        background must have its output redirected: it outlives the command, its pipes do not.
        """
        words = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        arguments = [
            word if isinstance(word, bytes) else word.encode(errors="surrogateescape")
            for word in words
        ]
        variables = {**_ENVIRONMENT, **({"HOME": "/root"} if uid == 0 else {}), **(env or {})}
        payload = struct.pack(
            f"<{3 + len(groups)}I", uid, uid if gid is None else gid, len(groups), *groups
        )
        payload += cwd.encode(errors="surrogateescape") + b"\0"
        payload += struct.pack("<I", len(arguments))
        payload += b"".join(word + b"\0" for word in arguments)
        payload += b"".join(f"{key}={value}".encode() + b"\0" for key, value in variables.items())
        shown = b" ".join(arguments[2:] if isinstance(command, str) else arguments)
        with self._changed:
            self._number += 1
            process = Process(self, self._number, shown.decode(errors="replace"))
            self._running[process._number] = process
        self.send(process._number, _SPAWN, payload)
        if stdin is not None:
            process.write(stdin)
            process.close_stdin()
        return process

    def send(self, number: int, kind: int, payload: bytes) -> None:
        """Send one frame about command `number`. Raises GuestLost when QEMU has gone."""
        try:
            with self._sending:
                self._socket.sendall(_HEADER.pack(len(payload), number, kind) + payload)
        except OSError as error:
            self._closed = True  # the reader may not have seen it yet
            self.explain(f"the channel to the guest broke: {error}")

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except OSError:
                data = b""
            with self._changed:
                if not data:
                    self._closed = True
                    self._lose("QEMU has closed the channel")
                    return
                self._buffer += data
                self._take()
                self._changed.notify_all()

    def _take(self) -> None:
        """Handle what is complete in the buffer; a magic ends what stands before it."""
        while True:
            magic = self._buffer.find(_MAGIC)
            self._take_frames(magic if magic >= 0 else len(self._buffer))
            magic = self._buffer.find(_MAGIC)
            if magic < 0:
                return
            del self._buffer[: magic + len(_MAGIC)]

    def _take_frames(self, limit: int) -> None:
        start = 0
        while start + _HEADER.size <= limit:
            size, number, kind = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + size
            if end > limit:
                break
            self._handle(number, kind, bytes(self._buffer[start + _HEADER.size : end]))
            start = end
        del self._buffer[:start]

    def _handle(self, number: int, kind: int, payload: bytes) -> None:
        process = self._running.get(number)
        if kind == _HELLO:
            self._greet(payload)
        elif process and kind == _STDOUT:
            process.stdout += payload
        elif process and kind == _STDERR:
            process.stderr += payload
        elif process and kind == _EXIT:
            (status,) = struct.unpack("<i", payload)
            process.returncode = -(status & 0x7F) if status & 0x7F else (status >> 8) & 0xFF
            del self._running[number]

    def _greet(self, payload: bytes) -> None:
        """Answer a HELLO; the agent repeats it until the answer has come."""
        release, _, boot_id = payload.partition(b"\0")
        if boot_id == self._boot_id:
            return
        self._lose("the guest has booted again")
        self._boot_id = boot_id
        self.release = release.decode()
        with self._sending:
            self._socket.sendall(_MAGIC)
        self.boots += 1

    def _lose(self, why: str) -> None:
        for process in self._running.values():
            process._lost = why
        self._running.clear()
        self._changed.notify_all()
