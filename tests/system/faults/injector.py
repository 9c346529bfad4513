"""Makes the n-th system call fail that a daemon's serving thread makes for a request.

injector.c does it, inside an ordinary daemon; both share a page. Calls are counted while `failing`
lasts, which is meant for one request:

    injector = Injector(folder)
    with Daemon(..., *injector.args, env=injector.env) as daemon:
        with injector.failing(errno.EIO, at=2) as fault:
            client.mkdir(...)
        assert fault.failed
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("injector.c")
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")


def lacks() -> str | None:
    """Why this machine cannot inject faults, if it cannot."""
    if platform.machine() != "x86_64":
        return f"the injector knows the system calls of x86_64, not of {platform.machine()}"
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    return None if release >= (5, 11) else "Linux before 5.11 has no Syscall User Dispatch"


class Page(ctypes.Structure):
    """The page as injector.c declares it."""

    _fields_ = [
        ("selector", ctypes.c_uint8),
        ("lasts", ctypes.c_uint8),
        ("any", ctypes.c_uint8),
        ("works", ctypes.c_uint8),
        ("at", ctypes.c_uint32),
        ("error", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
        ("name", ctypes.c_char * 24),
        ("path", ctypes.c_char * 64),
        ("first", ctypes.c_int64),
        ("third", ctypes.c_int64),
    ]


class Lasts(IntEnum):
    """Which calls fail after the n-th one."""

    ONCE = 0
    REPEATED = 1
    """The same one, if it is tried again."""
    ALL = 2


@dataclass
class Fault:
    """What happened while calls were counted."""

    error: int
    at: int
    lasts: Lasts
    count: int = 0
    """Calls that may fail with this errno."""
    failed: bool = False
    call: str = ""
    """The first one that failed, with the path that it was given."""

    def __str__(self) -> str:
        which = f"{self.lasts.name.lower()} by call {self.at} of {self.count}"
        return f"{errno.errorcode[self.error]} {which}: {self.call}"


class Injector:
    """The test's end. `args` and `env` are what the daemon is started with."""

    args = ("--sandbox", "none")

    def __init__(self, folder: Path) -> None:
        library, page = folder / "injector.so", folder / "page"
        command = [os.environ.get("CC", "cc"), *WARNINGS, "-O2", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
        page.write_bytes(bytes(mmap.PAGESIZE))
        with page.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._page = Page.from_buffer(self._memory)
        preload = filter(None, (os.environ.get("VHOST9P_TEST_PRELOAD"), str(library)))
        self.env = {"LD_PRELOAD": ":".join(preload), "FAULTS": str(page)}

    @property
    def works(self) -> bool:
        """Whether the daemon has a serving thread that is watched."""
        return bool(self._page.works)

    @contextmanager
    def failing(
        self,
        error: int = errno.EIO,
        at: int = 0,
        *,
        lasts: Lasts = Lasts.ONCE,
        anywhere: bool = False,
    ) -> Iterator[Fault]:
        """Lets the call fail that is the `at`-th (from 1; 0: none) of those that may fail with
        `error`. `anywhere`: every call on a file may."""
        page, fault = self._page, Fault(error, at, lasts)
        page.at, page.error, page.lasts, page.any = at, error, lasts, anywhere
        page.count = page.failed = 0
        page.name = page.path = b""
        page.selector = 1
        try:
            yield fault
        finally:
            page.selector = 0
            fault.count, fault.failed = page.count, bool(page.failed)
            fault.call = f"{page.name.decode()}({os.fsdecode(page.path)})"
