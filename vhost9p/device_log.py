"""The log lines of one device.

A guest and its frontend can cause log lines at any rate, by refused messages, broken rings and new
connections. So each device may log a limited number of lines a second; the others are counted.
Lines of level debug are not limited. What a worker writes is limited once more by main
(log_pipe.py), which trusts no worker.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from vhost9p.line_rate import LineRate
from vhost9p.log_record import about

LINES_PER_SECOND = 10
BURST = 100


class DeviceLog(logging.LoggerAdapter[logging.Logger]):
    """Puts the device's name before each line, and drops lines beyond the limit. Thread-safe.
    `clock` is for tests."""

    def __init__(
        self,
        logger: logging.Logger,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        **concerns: str,
    ) -> None:
        """`name` stands before each line, which concerns some of log_record.FIELDS."""
        super().__init__(logger, {})
        self._device = name
        self._about = about(**concerns)
        self._lock = threading.Lock()
        self._rate = LineRate(LINES_PER_SECOND, BURST, clock)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """See LoggerAdapter."""
        return f"{self._device}: {msg}", {**kwargs, "extra": self._about}

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
            with self._lock:
                omitted = self._rate.admit()
            if omitted is None:
                return
            if omitted:
                super().log(logging.WARNING, "%d lines were dropped by the rate limit", omitted)
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


_faults: set[tuple[str, int]] = set()
"""Places in the code where requests have failed."""


def log_fault(log: logging.Logger, text: str, error: BaseException) -> None:
    """Logs an error of a request that nobody expected, with its traceback. Each place in the code
    is logged once, however often a guest leads there."""
    place = [
        (each.filename, each.lineno or 0) for each in traceback.extract_tb(error.__traceback__)
    ]
    if place[-1] not in _faults:
        _faults.add(place[-1])
        log.error("%s", text, exc_info=error)
