"""A program that main runs and listens to, without waiting for it."""

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence

OUTPUT_MAX = 65536
"""Bytes of what it says, from the end."""


class Program:
    """A child that executes `command`, and inherits `fds`."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        fds: Collection[int] = (),
    ) -> None:
        """Raises OSError."""
        self._process = subprocess.Popen(
            command,
            env=env,
            pass_fds=[*fds],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._output = b""
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        assert self._process.stdout, "it is a pipe"
        return self._process.stdout.fileno()

    def receive(self) -> bool:
        """Takes what the program says. Returns whether that was all."""
        try:
            data = os.read(self.fileno(), OUTPUT_MAX)
        except BlockingIOError:
            return False
        self._output = (self._output + data)[-OUTPUT_MAX:]
        return not data

    @property
    def lines(self) -> list[str]:
        """What it has said."""
        return self._output.decode(errors="backslashreplace").splitlines()

    def end(self) -> None:
        """Ends it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
