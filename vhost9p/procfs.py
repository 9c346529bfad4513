"""Where /proc is, and what this process uses below it (proc_pid_fd(5)). csrc/base/proc.h is the
same for C.

A root directory that was changed may have no /proc; then it is the current directory, or that is in
it (native/descriptors.py, `go_to`).
"""

_root = "/proc/"


def is_here() -> None:
    """From now on /proc is the current directory."""
    global _root  # noqa: PLW0603
    _root = ""


def fds_are_here() -> None:
    """From now on the directory of this process's descriptors is the current one."""
    global _root  # noqa: PLW0603
    _root = "../../"


def path(below: str) -> str:
    """Returns the path of a file of proc(5), such as self/mountinfo."""
    return _root + below


def proc_path(fd: int) -> str:
    """Returns a path to the file of a descriptor of this process, whatever names the file has by
    now. A system call that follows the path reaches the file itself, without following it further
    if it is a symlink; readlink(2) returns its name on the host, or its kind if it has none."""
    return path(f"self/fd/{fd}")
