"""What the tests of `vhost9p trace` share: a tracer as a process, and what it has said."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon


class Tracer:
    """`vhost9p trace` of a daemon, whose output goes to files in a folder."""

    def __init__(self, daemon: Daemon, folder: Path, *options: str) -> None:
        self.out, self.err = folder / "trace.out", folder / "trace.err"
        command = [sys.executable, "-m", "vhost9p", "trace", daemon.socket, *options]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    def end(self, number: int = signal.SIGINT) -> int:
        """Ends it as a person does; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Waits until something has come about."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, (self.text, self.err.read_text())
            time.sleep(0.01)

    @property
    def text(self) -> str:
        return self.out.read_text()

    def objects(self) -> list[dict[str, Any]]:
        """What `--json` has printed."""
        return [json.loads(line) for line in self.text.splitlines()]


@contextlib.contextmanager
def traced(daemon: Daemon, folder: Path, *options: str) -> Iterator[Tracer]:
    """Yields a tracer that watches already, and ends it."""
    tracer = Tracer(daemon, folder, *options)
    try:
        tracer.wait_for(lambda: "watching" in tracer.err.read_text())
        yield tracer
    finally:
        if tracer.process.poll() is None:
            tracer.end()
