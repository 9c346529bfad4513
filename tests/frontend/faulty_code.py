"""Functions of a daemon that fault, fail or never return, whenever they are called.

Their first instruction is replaced in the memory of its keeper, of which all later workers are
copies, and of its present worker. The product has no part in that.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import pytest

from tests.frontend.daemon import Daemon
from vhost9p import _native

X86 = platform.machine() == "x86_64"
FAULT = b"\x0f\x0b" if X86 else bytes(4)
"""ud2; udf #0: SIGILL."""
LOOP = b"\xeb\xfe" if X86 else b"\x00\x00\x00\x14"
"""A jump to itself."""
LACKS = b"\xb8\xf5\xff\xff\xff\xc3" if X86 else b"\x40\x01\x80\x12\xc0\x03\x5f\xd6"
"""Returns -EAGAIN."""


@cache
def _functions() -> dict[str, int]:
    """Where the functions of the extension are."""
    command = ["nm", "--defined-only", _native.__file__]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: int(at, 16) for at, _, name in (line.split() for line in lines)}


def _base(pid: int) -> int:
    """Where the extension is in a process."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return next(
            int(line.split("-")[0], 16)
            for line in maps
            if os.path.basename(_native.__file__) in line and line.split()[2] == "00000000"
        )


def _exchange(pid: int, function: str, code: bytes) -> bytes:
    """Replaces the first bytes of a function; returns what they were."""
    at = _base(pid) + _functions()[function]
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(at)
        before = memory.read(len(code))
        memory.seek(at)
        memory.write(code)
    return before


class Replaced:
    """A function that is replaced in some processes, until `heal`."""

    def __init__(self, daemon: Daemon, function: str, code: bytes = FAULT) -> None:
        self._daemon = daemon
        self._function = function
        self._code = code
        self._before: bytes | None = None

    def in_keeper(self) -> None:
        """In all later workers."""
        try:
            self._before = _exchange(self._daemon.keepers[0], self._function, self._code)
        except PermissionError:
            pytest.skip("needs root, to change a daemon's memory")

    def in_worker(self) -> None:
        """In the present worker, too."""
        _exchange(self._daemon.worker, self._function, self._code)

    def heal(self) -> None:
        """It does again what it is for, in the present worker, too, if that has not just died."""
        assert self._before
        _exchange(self._daemon.keepers[0], self._function, self._before)
        with suppress(FileNotFoundError, ProcessLookupError, StopIteration, OSError):
            _exchange(self._daemon.worker, self._function, self._before)


@contextmanager
def replaced(daemon: Daemon, function: str, code: bytes = FAULT) -> Iterator[Replaced]:
    """Meanwhile a function is replaced in all workers."""
    code_of = Replaced(daemon, function, code)
    code_of.in_keeper()
    code_of.in_worker()
    try:
        yield code_of
    finally:
        code_of.heal()
