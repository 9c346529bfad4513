"""A guest whose root is the mount: its agent finds that, and the guest follows what the host
changes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.following import OPTIONS, SHARED
from tests.guest.uml import NINEP, Device, Uml
from tests.marks import needs_root, needs_uml

pytestmark = [needs_root, needs_uml, pytest.mark.guest]

# Has the mount as root, in a namespace of its own, and becomes the agent.
BEGIN = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    if getattr(libc, name)(*words):
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
call("unshare", 0x20000)
call("mount", None, b"/", None, 0x44000, None)
call("mount", b"host0", b"/tmp/root", b"9p", 0, sys.argv[1].encode())
call("mount", b"proc", b"/tmp/root/proc", b"proc", 0, None)
os.chdir("/tmp/root")
call("syscall", 155, b".", b"old")
os.chroot(".")
call("umount2", b"/old", 2)
print(os.getpid(), flush=True)
os.execv(f"/.vhost9p/agent-{os.uname().machine}", ["agent", "-v"])
"""
# Prints a file's contents, by name and through what is open, until both are what is wanted.
LOOK = """
import errno, os, sys, time
held = open("file")
print("open", held.read(), flush=True)
def shows(text):
    held.seek(0)
    try:
        return {held.read(), open("file").read()} == {text}
    except OSError as error:  # where it is empty for a moment: it has less than the guest knows
        return error.errno != errno.ENODATA and sys.exit(str(error))
while not shows(sys.argv[1]):
    time.sleep(0.05)
"""


@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
def test_the_root_follows_the_host(cache: str) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder,
        tempfile.TemporaryDirectory(prefix="vhost9p-shared-") as shared,
    ):
        export = Path(folder)
        export.chmod(0o755)
        for name in ("proc", "old"):
            (export / name).mkdir()
        (export / "file").write_text("old")
        (Path(shared) / "begin.py").write_text(BEGIN)
        (Path(shared) / "look.py").write_text(LOOK)
        with (
            Daemon("--path", folder, "--multidevs", "remap", "--notify") as daemon,
            Uml([Device(Path(daemon.socket), NINEP)], Path(shared)) as guest,
        ):
            guest.run("mkdir /tmp/root")
            options = f"{OPTIONS},cache={cache}"
            agent = guest.popen(["python3", f"{SHARED}/begin.py", options])
            agent.expect(b"ready\n")
            root = f"/proc/{agent.line(0).decode().strip()}/root"
            look = ["python3", f"{SHARED}/look.py", "new, and longer"]
            looks = guest.popen(look, cwd=root)
            looks.expect(b"open old\n")
            (export / "file").write_text("new, and longer")
            looks.wait()
