"""A guest that is a process: User Mode Linux, its devices and its agent.

Belongs here: its command line and life. The kernel is uml_kernel.py's business; how commands reach
the guest is channel.py's.

    with Uml([Device(socket, NINEP)]) as guest:
        guest.run("mount -t 9p -o trans=virtio,version=9p2000.L host0 /tmp/9p")

Nothing is emulated, so that the guest's kernel and programs run at the machine's own speed; and it
boots in a third of a second. Its root is the host's own, read-only, through hostfs: what is
installed on the host can be run in the guest. /tmp, /run and /dev are the guest's; /mnt is the
host's folder `shared`, read-only. The guest's memory is a file on a tmpfs, which the kernel shares
with its vhost-user devices. It ends with the thread that started it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.children import ending_with_tests
from tests.guest import image, uml_kernel
from tests.guest.channel import Channel, GuestLost
from tests.guest.guest import Guest

NINEP, VIRTIOFS = 9, 26
"""Device numbers of virtio."""
BOOT_SECONDS = 60.0

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t hostfs -o ro,FOLDER shared /mnt
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
exec /mnt/agent /dev/ttyS0
"""
_TERMINAL = "ssl0=fd:{0} con=null con0=null,fd:1"


@dataclass(frozen=True)
class Device:
    """A vhost-user device that listens on a socket."""

    socket: Path
    number: int


class Uml(Guest):
    """One guest with one CPU."""

    def __init__(
        self,
        devices: Sequence[Device],
        shared: Path,
        *,
        memory: str = "512M",
        cpu: int | None = None,
        root: Path | None = None,
        append: str = "",
    ) -> None:
        """`cpu` is the host's CPU that all of it runs on. `root` is a root folder of image.py, in
        the host's place: its init then prepares the guest by the script `setup` in `shared`, which
        is at /shared meanwhile. Without it, the agent is put into `shared`. `append` is added to
        the kernel's arguments."""
        self._state = Path(tempfile.mkdtemp(prefix="uml-"))
        self._log = self._state / "console.log"
        self._cpu = cpu
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._words = [
            *(str(uml_kernel.kernel()), f"mem={memory}", "seccomp=auto", f"uml_dir={self._state}"),
            *("rootfstype=hostfs", "ro", *(_tree(root, shared) if root else self._host(shared))),
            *(f"virtio_uml.device={device.socket}:{device.number}" for device in devices),
            *append.split(),
        ]

    def _host(self, shared: Path) -> tuple[str, str]:
        """The host's root, with its kernel arguments."""
        if not (shared / "agent").exists():  # other guests of this folder run it
            shutil.copy(image.agent(), shared / "agent")
        script = self._state / "init"
        script.write_text(_INIT.replace("FOLDER", str(shared)))
        script.chmod(0o755)
        return ("rootflags=/", f"init={script}")

    def start(self) -> None:
        """Starts it and waits until it has booted. Raises GuestLost; nothing is left running
        then."""
        ours, theirs = socket.socketpair()
        pinned = () if self._cpu is None else ("taskset", "-c", str(self._cpu))
        env = {name: value for name, value in os.environ.items() if name not in _TEMPORARY}
        try:
            with self._log.open("wb") as log, theirs:
                self._process = subprocess.Popen(
                    ending_with_tests(
                        [*self._words, *_TERMINAL.format(theirs.fileno()).split()], pinned
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    env=env,
                    start_new_session=True,
                )
            channel = self._channel = Channel(ours, self._check)
            if not channel.wait_for(lambda: channel.boots > 0, BOOT_SECONDS):
                raise GuestLost(f"the guest has not booted in {BOOT_SECONDS:g} s\n{self.console()}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends it at once, as a crash would. Idempotent."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._channel:
            self._channel.close()
        shutil.rmtree(self._state, ignore_errors=True)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its kernel. Raises GuestLost when it has not been started."""
        if not self._process:
            raise GuestLost("the guest has not been started")
        return self._process

    @property
    def channel(self) -> Channel:
        """The channel to the guest's agent. Raises GuestLost when it has not been started."""
        if not self._channel:
            raise GuestLost("the guest has not been started")
        return self._channel

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.close()

    def console(self, size: int = 4000) -> str:
        """The end of the guest's console."""
        return self._log.read_bytes()[-size:].decode(errors="replace")

    def _check(self) -> None:
        """Raises GuestLost when it has ended, as it does when its kernel panics."""
        if self._process and self._process.poll() is not None:
            raise GuestLost(
                f"the guest has ended with {self._process.returncode}\n{self.console()}"
            )


def add_files(shared: Path, files: Mapping[str, Path]) -> None:
    """Writes into `shared` what a root folder's init adds: files of the host at absolute guest
    paths, with their modes."""
    lines = []
    for i, (name, path) in enumerate(files.items()):
        shutil.copy(path, shared / str(i))
        target = shlex.quote(name)
        lines.append(f"mkdir -p {shlex.quote(os.path.dirname(name))}; cp -p /shared/{i} {target}\n")
    (shared / "setup").write_text("".join(lines))


def _tree(root: Path, shared: Path) -> tuple[str, str, str]:
    """Kernel arguments for a root folder. Its init gets `shared` as an environment variable."""
    return (f"rootflags={root}", "init=/init", f"shared={shared}")


_TEMPORARY = ("TMPDIR", "TMP", "TEMP")
"""Where these do not say otherwise, the guest's memory is in /dev/shm."""
