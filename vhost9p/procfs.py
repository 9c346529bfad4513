"""Paths to open files of this process (proc_pid_fd(5))."""


def proc_path(fd: int) -> str:
    """Returns a path to the file of a descriptor of this process, whatever names the file has by
    now. A system call that follows the path reaches the file itself, without following it further
    if it is a symlink; readlink(2) returns its name on the host, or its kind if it has none."""
    return f"/proc/self/fd/{fd}"
