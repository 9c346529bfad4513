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
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.children import ending_with_tests
from tests.guest import image, uml_kernel
from tests.guest.channel import Channel, GuestLost, Process, Result

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


class Uml:
    """One guest with one CPU, as a context manager: entered when it has booted."""

    def __init__(
        self,
        devices: Sequence[Device],
        shared: Path,
        *,
        memory: str = "512M",
        cpu: int | None = None,
    ) -> None:
        """`cpu` is the host's CPU that all of it runs on; the agent is put into `shared`."""
        self._folder = shared
        self._state = Path(tempfile.mkdtemp(prefix="uml-"))
        self._log = self._state / "console.log"
        self._cpu = cpu
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._words = [
            *(str(uml_kernel.kernel()), f"mem={memory}", "seccomp=auto", f"uml_dir={self._state}"),
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={self._state}/init"),
            *(f"virtio_uml.device={device.socket}:{device.number}" for device in devices),
        ]

    def __enter__(self) -> Uml:
        shutil.copy(image.agent(), self._folder / "agent")
        script = self._state / "init"
        script.write_text(_INIT.replace("FOLDER", str(self._folder)))
        script.chmod(0o755)
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
                raise GuestLost(f"the guest has not booted in {BOOT_SECONDS:g} s{self._console()}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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

    def run(
        self,
        command: str | Sequence[str | bytes],
        *,
        timeout: float = 120.0,
        check: bool = True,
        uid: int = 0,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Runs a command in the guest to its end; see Channel.spawn and Process.wait."""
        return self.popen(command, uid=uid, cwd=cwd, env=env).wait(timeout, check)

    def popen(
        self,
        command: str | Sequence[str | bytes],
        *,
        uid: int = 0,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = b"",
    ) -> Process:
        """Starts a command in the guest; see Channel.spawn."""
        assert self._channel is not None, "the guest has not been started"
        return self._channel.spawn(command, uid=uid, cwd=cwd, env=env, stdin=stdin)

    def _console(self) -> str:
        return "\n" + self._log.read_bytes()[-4000:].decode(errors="replace")

    def _check(self) -> None:
        """Raises GuestLost when it has ended, as it does when its kernel panics."""
        if self._process and self._process.poll() is not None:
            raise GuestLost(f"the guest has ended with {self._process.returncode}{self._console()}")


_TEMPORARY = ("TMPDIR", "TMP", "TEMP")
"""Where these do not say otherwise, the guest's memory is in /dev/shm."""
