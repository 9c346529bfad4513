"""What the keeper needs of the kernel: clones that share descriptors, names, signals as
descriptors (csrc/server/process.c), and the end on signals to stop (csrc/server/stop.c)."""

import ctypes
import os
import signal
import struct
from collections.abc import Collection, Iterable

from vhost9p.native.library import check, ffi, lib

FD_MAX = 2**32 - 1
_SIGNAL_INFO = struct.Struct("I124x")
"""struct signalfd_siginfo (signalfd(2)); it begins with the signal's number."""


_clone = ctypes.PYFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.POINTER(ctypes.c_int32))(
    int(ffi.cast("uintptr_t", ffi.addressof(lib, "v9_process_clone")))
)
"""Called through ctypes, since cffi would release the interpreter, which the child has to own."""
_HOOKS = tuple(
    ctypes.cast(getattr(ctypes.pythonapi, f"PyOS_{name}"), ctypes.c_void_p)
    for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
)


def clone() -> tuple[int, int]:
    """Creates a child that shares this process's descriptors, but copies its memory as os.fork
    does. Returns its pid and a pidfd of it; (0, -1) in the child. The process must have no other
    thread. Raises OSError."""
    pidfd = ctypes.c_int32(-1)
    pid = check(_clone(*_HOOKS, ctypes.byref(pidfd)))
    return pid, pidfd.value


def end_with(parent: int) -> None:
    """From now on this process is killed when its parent ends, whose pid is `parent`. Raises
    ProcessLookupError if it has ended."""
    check(lib.v9_process_end_with(parent))


def admit(process: int) -> None:
    """From now on another process and its descendants may take this one's descriptors, if all their
    rights are at least this one's."""
    lib.v9_process_admit(process)


def take_descriptor(pidfd: int, number: int) -> int:
    """Returns a copy of a descriptor of another process. Raises OSError."""
    return check(lib.v9_process_take(pidfd, number))


def set_name(name: str, title: str | None = None) -> None:
    """Sets what ps(1) shows: the name of the main thread and, unless it is None, the command
    line."""
    lib.v9_process_name(os.fsencode(name), ffi.NULL if title is None else os.fsencode(title))


def close_others(kept: Collection[int]) -> None:
    """Closes all descriptors but these. Raises OSError."""
    first = 0
    for fd in sorted({*kept, FD_MAX}):
        if fd > first:
            check(lib.v9_process_close_range(first, fd - 1))
        first = fd + 1


class Signals:
    """Signals that are blocked, as a descriptor that becomes readable."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Raises OSError."""
        each = ffi.new("int32_t[]", [int(number) for number in numbers])
        self._fd = check(lib.v9_process_signals(each, len(each)))

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def read(self) -> list[signal.Signals]:
        """Returns the signals that have arrived since the last call. Raises OSError."""
        try:
            data = os.read(self._fd, 16 * _SIGNAL_INFO.size)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for (number,) in _SIGNAL_INFO.iter_unpack(data)]


def take_stop_signals(fd: int, patience: float) -> None:
    """From now on SIGTERM and SIGINT, blocked in all threads, are written to an eventfd. The
    process ends with status 0 at most `patience` seconds after the first of them."""
    check(lib.v9_stop_start(fd, round(patience * 1000)))


def handle_stop_signals(fd: int, patience: float) -> None:
    """The same in a process without threads; unblocks them."""
    check(lib.v9_stop_handle(fd, round(patience * 1000)))


def postpone_end(patience: float) -> None:
    """After a signal that `handle_stop_signals` handles: the process ends so many seconds from now
    instead."""
    lib.v9_stop_postpone(round(patience * 1000))
