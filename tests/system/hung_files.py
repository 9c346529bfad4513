"""A file system whose files hang, as those of a server that is gone do.

`python -m tests.system.hung_files MOUNTPOINT CONTROL WHAT COMMAND…`, in a mount namespace of its
own, mounts a FUSE file system and runs COMMAND. Its directory has one file, `hung`, of SIZE bytes
b"h". Opening and stating it works. With `requests` as WHAT reads, writes, fsync and truncation are
not answered until a byte comes on the descriptor CONTROL, and all of them are from then on; with
`close` it is the close of a descriptor that is not, and with `opening` the opening of directories
and statfs.

Reads and writes go through the page cache: with FUSE's direct I/O the kernel would hold on to the
caller's pages themselves, which no change of mappings takes away.

Source: fuse(4) and the kernel's uapi/linux/fuse.h, protocol 7.31. A request is in_header {u32 len,
u32 opcode, u64 unique, u64 node, u32 uid, gid, pid, padding} and a body, a reply out_header {u32
len, i32 error, u64 unique} and a body.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys

SIZE = 1 << 20
ROOT, HUNG = 1, 2

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
INTERRUPT, BATCH_FORGET = 36, 42
HANGING = {
    "requests": (READ, WRITE, FSYNC, SETATTR),
    "close": (FLUSH,),
    "opening": (OPENDIR, STATFS),
}
UNANSWERED = (FORGET, BATCH_FORGET, INTERRUPT)

IN_HEADER = struct.Struct("=IIQQIIII")
OUT_HEADER = struct.Struct("=IiQ")
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
INIT_OUT = struct.Struct("=IIIIHHIIHHI7I")
OPEN_OUT = struct.Struct("=QII")
PR_SET_PDEATHSIG = 1


def attributes(node: int) -> bytes:
    """struct fuse_attr."""
    mode = stat.S_IFDIR | 0o777 if node == ROOT else stat.S_IFREG | 0o666
    size = 0 if node == ROOT else SIZE
    return ATTR.pack(
        node, size, size // 512, *[0] * 6, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0
    )


def answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """A reply's body, or an errno."""
    if opcode == INIT:
        return INIT_OUT.pack(7, 31, 0, 0, 0, 0, 1 << 20, 1, 256, 0, 0, *[0] * 7)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"hung":
            return errno.ENOENT
        return struct.pack("=QQQQII", HUNG, 0, 0, 0, 0, 0) + attributes(HUNG)
    if opcode in (GETATTR, SETATTR):
        return struct.pack("=QII", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return OPEN_OUT.pack(0, 0, 0)
    if opcode == READ:
        offset, wanted = struct.unpack_from("=QI", body, 8)
        return b"h" * max(min(int(wanted), SIZE - int(offset)), 0)
    if opcode == WRITE:
        count: int = struct.unpack_from("=QQI", body)[2]
        return struct.pack("=II", count, 0)
    if opcode == READDIR:
        return b""
    if opcode == STATFS:
        return struct.pack("=QQQQQIIII6I", 0, 0, 0, 2, 0, 4096, 255, 4096, 0, *[0] * 6)
    return b"" if opcode in (RELEASE, RELEASEDIR, FLUSH, FSYNC) else errno.ENOSYS


class Server:
    """Answers the kernel; what hangs waits in `waiting`."""

    def __init__(self, fuse: int, control: int, hanging: tuple[int, ...]) -> None:
        self.hanging = hanging
        self.fuse = fuse
        self.control = control
        self.waiting: list[bytes] | None = []

    def reply(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        found = answer(opcode, node, request[IN_HEADER.size :])
        error, body = (-found, b"") if isinstance(found, int) else (0, found)
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.write(self.fuse, OUT_HEADER.pack(OUT_HEADER.size + len(body), error, unique) + body)

    def take(self, request: bytes) -> None:
        opcode = IN_HEADER.unpack_from(request)[1]
        if opcode in UNANSWERED:
            return
        if opcode in self.hanging and self.waiting is not None:
            self.waiting.append(request)
        else:
            self.reply(request)

    def release(self) -> None:
        """From here on nothing hangs."""
        waiting, self.waiting = self.waiting, None
        for request in waiting or []:
            self.reply(request)

    def run(self) -> None:
        """Serves until the file system is unmounted."""
        sources = [self.fuse, self.control]
        while True:
            ready = select.select(sources, [], [])[0]
            if self.control in ready:
                sources.remove(self.control)
                self.release()
            if self.fuse in ready:
                try:
                    self.take(os.read(self.fuse, (1 << 20) + 4096))
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        return
                    if error.errno not in (errno.EINTR, errno.ENOENT):
                        raise


def mount(point: str) -> int:
    """Mounts; returns the descriptor that the kernel's requests come from."""
    fuse = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40777,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if libc.mount(b"hung", os.fsencode(point), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount")
    return fuse


def main() -> None:
    """See the module."""
    point, control, what, command = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    fuse = mount(point)
    if os.fork() == 0:
        # It ends with the daemon, whose hanging threads are let go by that; and it must not hold
        # the daemon's output open.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        os.dup2(1, 2)
        Server(fuse, control, HANGING[what]).run()
        os._exit(0)
    os.close(fuse)
    os.close(control)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
