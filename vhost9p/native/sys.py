"""System calls that Python's os module lacks (csrc/base/sys.c), and the rule for names."""

from vhost9p.native.library import check, ffi, lib

RDLCK: int = lib.V9_LOCK_RDLCK
WRLCK: int = lib.V9_LOCK_WRLCK
UNLCK: int = lib.V9_LOCK_UNLCK


def open_flags(flags: int) -> int:
    """open(2) flags for the flags of Tlopen and Tlcreate."""
    return int(lib.v9_sys_open_flags(flags))


def open_mode(mode: int) -> int:
    """Flags of Tlopen for the mode of Topen and Tcreate; OSError EOPNOTSUPP for ORCLOSE."""
    return check(lib.v9_sys_open_mode(mode))


def name_error(name: bytes, dots: int) -> int:
    """The errno for a name that no directory entry can have, `dots` for "." and ".."; else 0. C
    has the rule, for its own requests too (csrc/base/name.c)."""
    result = int(lib.v9_name_check(name, len(name)))
    return dots if result == lib.V9_NAME_DOTS else -result


class Cancel:
    """Ends a wait for a lock, together with the signal `wake_signal`."""

    def __init__(self) -> None:
        self.native = ffi.new("int32_t *")

    def set(self) -> None:
        """From now on a signal ends the wait."""
        lib.v9_lock_cancel(self.native)

    def is_set(self) -> bool:
        """Whether the wait was cancelled."""
        return bool(self.native[0])


def wake_signal() -> int:
    """The signal that ends a wait for a lock; installs its handler."""
    return check(lib.v9_sys_wake_signal())


def ofd_lock(fd: int, kind: int, start: int, length: int, cancel: Cancel | None = None) -> None:
    """Locks or unlocks a byte range; BlockingIOError if it is held and `cancel` is None,
    InterruptedError if the wait was cancelled."""
    native = cancel.native if cancel else ffi.NULL
    check(lib.v9_lock_ofd(fd, kind, start, length, native))


def flock(fd: int, kind: int, cancel: Cancel | None = None) -> None:
    """flock(2); fails as `ofd_lock`."""
    check(lib.v9_lock_flock(fd, kind, cancel.native if cancel else ffi.NULL))


def ofd_test(fd: int, kind: int, start: int, length: int) -> tuple[int, int, int, int] | None:
    """Returns a conflicting lock: (kind, start, length, pid), with pid -1 for an open file
    description; None if there is none."""
    lock = ffi.new("struct v9_lock *", {"type": kind, "start": start, "length": length})
    check(lib.v9_lock_ofd_test(fd, lock))
    return None if lock.type == UNLCK else (lock.type, lock.start, lock.length, lock.pid)


CAPABILITIES = {
    0: "CAP_CHOWN",
    1: "CAP_DAC_OVERRIDE",
    3: "CAP_FOWNER",
    6: "CAP_SETGID",
    7: "CAP_SETUID",
}
"""Names of the bits (linux/capability.h)."""


def lacking_capabilities() -> list[str]:
    """Returns the capabilities that the daemon lacks of those needed to set any owner."""
    lacking = lib.v9_cred_lacking_caps()
    return [name for bit, name in CAPABILITIES.items() if lacking >> bit & 1]
