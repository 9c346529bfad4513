"""Mounts a directory over itself with other ids, and goes on as a command:
`unshare -m python -m tests.system.idmapped DIRECTORY DISK MOUNT COUNT COMMAND…`.

`count` ids from `disk` on, as the file system has them, are those from `mount` on for whoever looks
through the mount (mount_setattr(2), MOUNT_ATTR_IDMAP).
"""

import ctypes
import os
import subprocess
import sys

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, AT_EMPTY_PATH = 1, 4, 0x1000
MOUNT_ATTR_IDMAP = 0x100000
UNSUPPORTED = 77
"""Exit status where this kernel or file system has no such mounts."""

libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *args: object) -> int:
    """A system call; ends the process where it fails."""
    result: int = libc.syscall(number, *args)
    if result < 0:
        print(f"system call {number}: {os.strerror(ctypes.get_errno())}")
        sys.exit(UNSUPPORTED)
    return result


def namespace(mapping: str) -> int:
    """A descriptor of a user namespace with these ids."""
    child = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        for kind in ("uid", "gid"):
            with open(f"/proc/{child.pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write(mapping)
        found = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY)
        child.stdin.close()
    return found


def main() -> None:
    """See the module."""
    directory, mapping, command = sys.argv[1], " ".join(sys.argv[2:5]), sys.argv[5:]
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    path = os.fsencode(directory)
    tree = call(OPEN_TREE, -100, path, OPEN_TREE_CLONE)
    attr = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, namespace(mapping))
    call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attr, ctypes.sizeof(attr))
    call(MOVE_MOUNT, tree, b"", -100, path, MOVE_MOUNT_F_EMPTY_PATH)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
