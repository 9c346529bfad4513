"""What tests do with a guest, whatever runs it: commands, and mounts of its 9p devices.

vm.py has guests in QEMU, uml.py those that are a process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.guest.channel import Channel, Process, Result


class Guest(ABC):
    """A guest, as a context manager: entered when it has booted, gone when it is left."""

    @abstractmethod
    def start(self) -> None:
        """Starts it and waits until it has booted. Raises GuestLost; nothing is left running
        then."""

    @abstractmethod
    def close(self) -> None:
        """Ends it, and removes what it has left on the host. Idempotent."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, as a crash would."""

    @property
    @abstractmethod
    def channel(self) -> Channel:
        """The channel to its agent. Raises GuestLost when it has not been started."""

    @abstractmethod
    def console(self, size: int = 4000) -> str:
        """The end of its console."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        command: str | Sequence[str | bytes],
        *,
        timeout: float = 120.0,
        check: bool = True,
        uid: int = 0,
        gid: int | None = None,
        groups: Sequence[int] = (),
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Result:
        """Runs a command in the guest to its end; see Channel.spawn and Process.wait."""
        process = self.channel.spawn(
            command, uid=uid, gid=gid, groups=groups, cwd=cwd, env=env, stdin=stdin
        )
        return process.wait(timeout, check)

    def popen(
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
        """Starts a command in the guest and returns at once; see Channel.spawn."""
        return self.channel.spawn(
            command, uid=uid, gid=gid, groups=groups, cwd=cwd, env=env, stdin=stdin
        )

    def mount(
        self,
        tag: str,
        where: str,
        *,
        cache: str = "none",
        msize: int = 512000,
        version: str = "9p2000.L",
        options: str = "",
    ) -> None:
        """Mounts the 9p device `tag` at the folder `where`, which is made when it is absent."""
        words = ["trans=virtio", f"version={version}", f"msize={msize}", f"cache={cache}"]
        if options:
            words.append(options)
        self.run(("mkdir", "-p", where))
        self.run(("mount", "-t", "9p", "-o", ",".join(words), tag, where))

    def umount(self, where: str) -> None:
        """Unmounts what is mounted at `where`."""
        self.run(("umount", where))
