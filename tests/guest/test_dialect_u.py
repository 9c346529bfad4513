"""A guest's mount with version=9p2000.u, here and from QEMU's own server: the same program on both.

The program prints the result of everything that it does. What it prints, and what it leaves on the
host, must be the same; what QEMU's server cannot do is done on ours alone.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import scratch_export
from tests.guest.vm import VM, Virtfs

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files of several users need a daemon of root"),
]

MANY = 4000

HELPERS = """
import errno, hashlib, os, socket, stat, sys

def show(path):
    s = os.lstat(path)
    size = s.st_size if not stat.S_ISDIR(s.st_mode) else "-"
    device = (os.major(s.st_rdev), os.minor(s.st_rdev))
    return stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_nlink, size, device

def do(what, *args):
    try:
        found = what(*args)
    except OSError as error:
        found = errno.errorcode[error.errno]
    print(what.__name__, str(args)[:80], found, flush=True)

def put(path, text, flags=os.O_CREAT | os.O_TRUNC, mode=0o644):
    fd = os.open(path, os.O_WRONLY | flags, mode)
    os.write(fd, text)
    os.close(fd)
    return show(path)

def get(path):
    with open(path, "rb") as file:
        return file.read()

def names(path="."):
    return sorted(os.listdir(path))

def bind(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)

def as_user(uid, *todo):
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for each in todo:
        do(*each)
    os._exit(0)

def within(path, change, *args):
    fd = os.open(path, os.O_RDWR)
    change(fd, *args)
    os.close(fd)
    return show(path)

os.umask(0o022)
"""

PROGRAM = (
    HELPERS
    + """
do(names)
listed = hashlib.sha256("".join(names("many")).encode()).hexdigest()
print(len(os.listdir("many")), listed, len(os.listdir("many")))
for what in ("stat", "statvfs"):
    assert getattr(os, what)(".")
do(put, "f", b"hello\\n"); do(put, "f", b"more\\n", os.O_APPEND); do(get, "f")
do(put, "f", b"x", os.O_CREAT | os.O_EXCL); do(put, "f", b"short"); do(get, "f")
do(within, "f", os.pwrite, b"AB", 3); do(get, "f")
do(put, "exec", b"#!/bin/sh\\necho ran\\n", os.O_CREAT, 0o755); print(os.popen("./exec").read())
do(put, "big", bytes(range(256)) * 6000); do(os.truncate, "big", 1 << 32); do(show, "big")
do(os.truncate, "big", 5); do(show, "big")
do(os.mkdir, "d"); do(os.mkdir, "d"); do(os.mkdir, "d/e", 0o700); do(show, "d"); do(show, "d/e")
do(os.mkdir, "n" * 255); do(os.mkdir, "n" * 256); do(os.mkdir, b"\\xff\\xfe"); do(os.mkdir, "no/d")
do(put, "d/a", b"a"); do(put, "d/b", b"b")
do(os.rename, "d/a", "d/c"); do(os.rename, "d/c", "d/b"); do(get, "d/b"); do(names, "d")
do(os.rename, "f", "d/f"); do(os.rename, "d", "dd"); do(get, "dd/b"); do(os.rename, "no", "n")
do(os.rename, "dd/b", "dd/e"); do(os.rename, "dd/e", "dd/b"); do(os.mkdir, "dd/full")
do(put, "dd/full/x", b"x"); do(os.rename, "dd/e", "dd/full"); do(os.rmdir, "dd/full")
do(os.unlink, "dd"); do(os.rmdir, "f"); do(os.rmdir, "dd/e"); do(os.unlink, "no")
do(os.symlink, "target", "s"); do(os.readlink, "s"); do(show, "s"); do(os.symlink, "x", "s")
do(os.symlink, "dd/b", "s2"); do(get, "s2"); do(os.symlink, "t" * 4000, "s3")
print(len(os.readlink("s3"))); do(os.readlink, "f")
do(os.link, "dd/b", "h"); do(show, "h"); do(show, "dd/b"); do(os.link, "f", "h")
do(os.link, "h", "dd/h2"); do(os.unlink, "h"); do(names, "dd"); do(get, "dd/h2")
do(os.rename, "dd/h2", "dd/h3"); do(names, "dd"); do(os.unlink, "dd/b"); do(get, "dd/h3")
do(os.mknod, "c", stat.S_IFCHR | 0o644, os.makedev(1, 3)); do(show, "c"); do(get, "c")
do(os.mknod, "b", stat.S_IFBLK | 0o600, os.makedev(8, 300)); do(show, "b")
do(os.mkfifo, "p"); do(show, "p"); do(bind, "sock"); do(show, "sock")
for mode in (0o640, 0o4755, 0o2755, 0o1755, 0o7777, 0):
    do(os.chmod, "f", mode); do(show, "f"); do(os.chmod, "dd", mode); do(show, "dd")
do(os.chmod, "dd", 0o755); do(os.chmod, "p", 0o660); do(show, "p"); do(os.chmod, "c", 0o666)
do(os.chown, "f", 1000, 1001); do(show, "f"); do(os.chown, "f", -1, 1002); do(show, "f")
do(os.lchown, "s", 5, 6); do(show, "s"); do(os.chown, "no", 1, 1)
do(os.utime, "f", (1000000000, 1111111111)); print(os.stat("f").st_atime, os.stat("f").st_mtime)
do(within, "f", os.fchmod, 0o644); do(within, "f", os.fchown, 7, 8)
do(within, "f", os.ftruncate, 2); do(get, "f"); do(get, "no")
do(os.getxattr, "f", "user.x"); do(os.setxattr, "f", "user.x", b"v")
as_user(1000, (put, "au", b"x"), (os.mkdir, "mine"), (os.chmod, "f", 0o777), (names, "secret"))
do(os.mkdir, "open"); do(os.chmod, "open", 0o1777); do(os.mkdir, "secret", 0o700)
as_user(1000, (put, "open/a", b"alice"), (os.mkdir, "open/da"), (os.symlink, "x", "open/sa"),
        (os.mkfifo, "open/pa"), (os.chmod, "open/a", 0o600), (names, "secret"))
as_user(1001, (get, "open/a"), (put, "open/a", b"x"), (os.unlink, "open/a"), (put, "open/b", b"b"),
        (os.chmod, "open/a", 0o777), (os.chown, "open/b", 1000, 1000), (os.rmdir, "open/da"))
as_user(1000, (get, "open/a"), (get, "open/b"), (os.rename, "open/a", "open/a2"))
for name in names("open"):
    do(show, "open/" + name)
fd = os.open("g", os.O_RDWR | os.O_CREAT)
do(os.rename, "g", "g2"); os.write(fd, b"written"); do(get, "g2"); os.close(fd)
os.makedirs("deep/" * 12); do(os.rename, "deep", "deeper"); do(names, "deeper/deep")
print(len([os.unlink("many/" + name) for name in names("many")[:50]]), len(names("many")))
do(names)
"""
)

BETTER = (
    HELPERS
    + """
fd = os.open("un", os.O_RDWR | os.O_CREAT)
os.write(fd, b"0123456789"); os.unlink("un")
put("un", b"other")
os.ftruncate(fd, 4); os.fchmod(fd, 0o600); os.lseek(fd, 0, 0)
assert (os.fstat(fd).st_size, os.read(fd, 20)) == (4, b"0123")
assert (get("un"), os.stat("un").st_mode) == (b"other", 0o100644)
os.fsync(fd); os.fdatasync(fd); os.close(fd)
os.mkdir("sticky", 0o1777); assert os.stat("sticky").st_mode == 0o41755, os.stat("sticky")
os.makedirs("one/two"); os.rename("one", "1"); os.chdir("1/two")
os.rename("../../1", "../../uno"); put("here", b"x"); assert names() == ["here"], names()
"""
)
"""An open file without a name, fsync(2) (which hangs with QEMU's server), mkdir(2) with a sticky
bit, and a directory that is used while its parent is renamed."""


def tree(root: Path) -> dict[str, object]:
    """Kind, mode, owner, content of everything below a directory."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG and path.name != "big":
            content = hashlib.sha256(path.read_bytes()).digest()
        owner = (status.st_uid, status.st_gid, status.st_nlink, status.st_rdev)
        found[str(path.relative_to(root))] = (status.st_mode, owner, content)
    return found


@contextmanager
def filled_export() -> Iterator[Path]:
    """A directory with a large one in it."""
    with scratch_export() as root:
        many = root / "many"
        many.mkdir()
        for i in range(MANY):
            os.mknod(many / f"entry{i:05}")
        yield root


def results(vm: VM, where: str, program: str) -> list[str]:
    run = vm.run(["python3", "-c", program], cwd=where, timeout=300)
    return run.text.splitlines()


@pytest.mark.parametrize(
    "model", ["passthrough", pytest.param("mapped-xattr", marks=pytest.mark.full)]
)
def test_a_9p2000u_guest_sees_what_qemus_server_shows(boot: Boot, model: str) -> None:
    """With cache=loose the client misses some of its own changes, and QEMU's server others after a
    directory was renamed: there each result has to be QEMU's, or the one without a cache."""
    with ExitStack() as stack:
        exports = {
            tag: stack.enter_context(filled_export())
            for tag in ("ours", "ours-loose", "qemus", "qemus-loose")
        }
        args = ("--multidevs", "remap", "--security-model", model)
        daemons = [
            stack.enter_context(Daemon("--path", str(root), "--tag", tag, *args))
            for tag, root in exports.items()
            if "ours" in tag
        ]
        virtfs = [Virtfs(exports[tag], tag, model) for tag in ("qemus", "qemus-loose")]
        vm = boot.qemu("full", [Path(daemon.socket) for daemon in daemons], virtfs)
        stack.callback(vm.kill)  # before the daemons: QEMU does not survive its backend
        found = {}
        for tag in exports:
            cache = "loose" if "loose" in tag else "none"
            vm.mount(tag, f"/mnt/{tag}", version="9p2000.u", cache=cache)
            found[tag] = results(vm, f"/mnt/{tag}", PROGRAM)
            if tag != "qemus-loose":  # which some kernels never end: QEMU owes them a reply
                vm.umount(f"/mnt/{tag}")
        assert len(found["ours"]) > 150
        assert found["ours"] == found["qemus"]
        assert tree(exports["ours"]) == tree(exports["qemus"])
        columns = (found["ours-loose"], found["qemus-loose"], found["ours"])
        for ours, *others in zip(*columns, strict=True):
            assert ours in others
        vm.mount("ours", "/mnt/ours", version="9p2000.u")
        assert results(vm, "/mnt/ours", BETTER) == []
        vm.umount("/mnt/ours")
        assert (exports["ours"] / "un").read_bytes() == b"other"
