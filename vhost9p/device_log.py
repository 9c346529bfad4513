"""The log lines of one device.

A guest and its frontend can cause log lines at any rate, by refused messages, broken rings and new
connections. So each device may log a limited number of lines a second; the others are counted.
Lines of level debug are not limited.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

LINES_PER_SECOND = 10
BURST = 100


class DeviceLog(logging.LoggerAdapter[logging.Logger]):
    """Puts the device's name before each line, and drops lines beyond the limit. Thread-safe.
    `clock` is for tests."""

    def __init__(
        self, logger: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logger, {})
        self._device = name
        self._clock = clock
        self._lock = threading.Lock()
        self._left: float = BURST
        self._since = clock()
        self._omitted = 0

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """See LoggerAdapter."""
        return f"{self._device}: {msg}", kwargs

    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        exc_info: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """See LoggerAdapter: all other methods come here."""
        if level > logging.DEBUG and self.isEnabledFor(level):
            omitted = self._admit()
            if omitted is None:
                return
            if omitted:
                super().log(
                    logging.WARNING, "%d lines were left out, for there were too many", omitted
                )
        super().log(
            level,
            msg,
            *args,
            exc_info=exc_info,
            stack_info=stack_info,
            stacklevel=stacklevel + 1,
            extra=extra,
            **kwargs,
        )

    def _admit(self) -> int | None:
        """Returns the number of lines dropped before this one; None if it is dropped, too."""
        with self._lock:
            now = self._clock()
            self._left = min(self._left + (now - self._since) * LINES_PER_SECOND, BURST)
            self._since = now
            if self._left < 1:
                self._omitted += 1
                return None
            self._left -= 1
            omitted, self._omitted = self._omitted, 0
            return omitted
