"""A fuzz target's main() in Python, as engine.c is in C."""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import atheris


class Unexpected(logging.Handler):
    """Collects exceptions that nobody expected. A daemon logs them and goes on, since a VM depends
    on it, or a thread ends with them; a fuzzer must see them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._texts: list[str] = []
        logging.disable(logging.WARNING)
        logging.getLogger().addHandler(self)
        threading.excepthook = self._in_thread

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.exc_info:
            self._texts.append(self.format(record))

    def _in_thread(self, what: threading.ExceptHookArgs) -> None:
        logging.error("a thread ends", exc_info=what.exc_value)

    def check(self) -> None:
        """There is none so far."""
        assert not self._texts, "\n".join(self._texts)


def fuzz(file: str, once: Callable[[bytes], None]) -> None:
    """Lets libFuzzer run `once`. `file` is the target's own: to find the smallest corpus, libFuzzer
    starts the target again, by its first argument, in a shell."""
    unexpected = Unexpected()

    def checked(data: bytes) -> None:
        once(data)
        unexpected.check()

    command = shlex.join((sys.executable, "-m", f"tests.fuzz.{Path(file).stem}"))
    atheris.Setup([command, *sys.argv[1:]], checked)
    atheris.Fuzz()
