"""Where /proc is, and what this process uses below it (proc_pid_fd(5)). csrc/base/proc.h is the
same for C.

A root directory that was changed may have no /proc; then it is the current directory. A worker goes
on to the directory of its descriptors (native/descriptors.py, `go_to`).
"""

_root, _fds = "/proc/", "/proc/self/fd/"
"""What paths below it begin with, and those of descriptors."""


def is_here() -> None:
    """From now on /proc is the current directory."""
    global _root, _fds
    _root, _fds = "", "self/fd/"


def fds_are_here() -> None:
    """From now on the directory of this process's descriptors is the current one."""
    global _root, _fds
    _root, _fds = "../../", ""


def path(below: str) -> str:
    """Returns the path of a file of proc(5), such as self/mountinfo."""
    return _root + below


def proc_path(fd: int) -> str:
    """Returns a path to the file of a descriptor of this process, whatever names the file has by
    now. A system call that follows the path reaches the file itself, without following it further
    if it is a symlink; readlink(2) returns its name on the host, or its kind if it has none."""
    return f"{_fds}{fd}"
