"""A guest that follows the host's changes: a daemon with notify, User Mode Linux, a mount, and the
agent (vhost9p/guest) at work in the guest.

Belongs here: how these are started, until a change of the host is known to arrive; and programs in
the guest that answer questions, a line each.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import placement
from tests.bench.placement import ANYWHERE, Placement
from tests.frontend.daemon import Daemon
from tests.guest.channel import Process
from tests.guest.uml import NINEP, Device, Uml

MOUNT = "/tmp/export"
OPTIONS = "trans=virtio,version=9p2000.L,msize=512000"
SHARED = "/mnt"
"""Where a guest finds the host's folder (tests/guest/uml.py)."""
PATIENCE = 120.0
"""Seconds for an answer."""
_SIGN = "sign-of-life"

# Waits for anything in a directory. It is held, so that its watch works in each cache mode.
_AWAIT = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
held = os.open(sys.argv[1], os.O_PATH)
notices = libc.inotify_init1(0)
libc.inotify_add_watch(notices, sys.argv[1].encode(), 0x102)
print("watches", flush=True)
while sys.argv[2].encode() not in os.read(notices, 65536):
    pass
"""


class Program:
    """One in the guest, `source` of this tree, that answers each line of its input with a line."""

    def __init__(self, following: Following, source: Path, *words: str) -> None:
        shutil.copy(source, following.shared)
        self._process = following.guest.popen(
            ["python3", f"{SHARED}/{source.name}", *words], cwd=MOUNT, stdin=None
        )
        self._taken = 0

    def ask(self, question: str, patience: float = PATIENCE) -> str:
        """A question, and its answer. Raises as `answer`."""
        self.tell(question)
        return self.answer(patience)

    def tell(self, question: str) -> None:
        """A question whose answer is fetched later."""
        self._process.write(question.encode(errors="surrogateescape") + b"\n")

    def answer(self, patience: float = PATIENCE) -> str:
        """The next answer. Raises CommandFailed, CommandTimeout, GuestLost."""
        line = self._process.line(self._taken, patience)
        self._taken += len(line)
        return line[:-1].decode(errors="surrogateescape")

    def end(self) -> None:
        """Lets it end by itself."""
        self._process.close_stdin()
        self._process.wait()


@dataclass(frozen=True)
class Following:
    """See the module."""

    export: Path
    daemon: Daemon
    guest: Uml
    shared: Path
    agent: Process
    exports: Sequence[str] = ()
    """Directories below `export`; if there are none it is the only export itself."""

    def await_change(self) -> None:
        """Returns when a change of the host has reached the guest. Raises CommandFailed,
        CommandTimeout, GuestLost."""
        below = self.exports[0] if self.exports else ""
        waits = self.guest.popen(["python3", "-c", _AWAIT, f"{MOUNT}/{below}", _SIGN])
        waits.expect(b"watches")
        sign = self.export / below / _SIGN
        while waits.poll() is None:
            sign.write_text(sign.read_text() + "." if sign.exists() else ".")
            time.sleep(0.05)
        waits.wait()
        sign.unlink()


@contextmanager
def following(
    export: Path,
    cache: str,
    *options: str,
    agent: Sequence[str] = (),
    exports: Sequence[str] = (),
    where: Placement = ANYWHERE,
) -> Iterator[Following]:
    """All of it, on a directory, or on several below it; `options` are vhost9p's, `agent` the
    agent's."""
    each = [word for name in exports for word in ("--export", f"name={name},path={export}/{name}")]
    served = each or ["--path", str(export)]
    with (
        tempfile.TemporaryDirectory(prefix="vhost9p-shared-") as shared,
        Daemon(*served, "--multidevs", "remap", "--notify", *options) as daemon,
    ):
        placement.pin(daemon.worker, where.server)
        device = Device(Path(daemon.socket), NINEP)
        with Uml([device], Path(shared), cpu=where.driver) as guest:
            guest.run(f"mkdir {MOUNT} && mount -t 9p -o {OPTIONS},cache={cache} host0 {MOUNT}")
            process = guest.popen(["sh", f"{MOUNT}/.vhost9p/agent", *agent])
            found = Following(export, daemon, guest, Path(shared), process, exports)
            found.await_change()
            yield found
