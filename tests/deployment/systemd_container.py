"""A systemd of its own, as the first process of a container: a root directory (debian.py), and
namespaces for all but the network.

The tests are outside: they reach its files through /proc/PID/root, and connect to its sockets
there.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.children import ending_with_tests
from tests.deployment.debian import Layer

START_S = 60
BOOT = r"""
mkdir -p $root/mnt
mount -t sysfs -o ro sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
for each in run tmp dev; do mount -t tmpfs tmpfs $root/$each; done
for each in null zero full random urandom tty; do
    touch $root/dev/$each; mount --bind /dev/$each $root/dev/$each
done
mkdir $root/dev/pts $root/dev/shm
mount -t devpts devpts $root/dev/pts -o newinstance,ptmxmode=666
mount -t tmpfs tmpfs $root/dev/shm
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
cd $root; pivot_root . mnt; umount -l /mnt
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""


def cgroups() -> Path | None:
    """Where cgroups of version 2 are mounted."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


class Container:
    """As a context manager it has booted inside."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        above = cgroups()
        assert above, "the caller has looked"
        self._cgroup = above / f"vhost9p-tests-{os.getpid()}-{id(self)}"
        self._log = (layer.folder / "console").open("w+b")
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Container:
        self._cgroup.mkdir()
        names = ("mount", "pid", "uts", "ipc", "cgroup")
        unshare = ["unshare", *(f"--{name}" for name in names), "--fork", "--kill-child"]
        join = ["sh", "-c", f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"', "sh"]
        self._process = subprocess.Popen(
            ending_with_tests([*join, *unshare, "sh", "-c", self._layer.mount + BOOT]),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_for_boot()
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

    def _wait_for_boot(self) -> None:
        assert self._process
        deadline = time.monotonic() + START_S
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while time.monotonic() < deadline:
            with suppress(OSError, LookupError, subprocess.SubprocessError):
                self._init = int(children.read_text().split()[0])
                if self._call("systemctl is-system-running").stdout.strip() in (
                    "running",
                    "degraded",
                ):
                    return
            time.sleep(0.2)
        raise AssertionError(f"systemd has not booted: {self.console()}")

    def close(self) -> None:
        """Ends it: all its processes end with the first one."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self._log.close()
        for folder in sorted((*self._cgroup.rglob("*/"), self._cgroup), reverse=True):
            deadline = time.monotonic() + START_S
            while folder.is_dir() and time.monotonic() < deadline:
                with suppress(OSError):  # the last processes are about to end
                    folder.rmdir()
                    break
                time.sleep(0.05)

    def console(self) -> str:
        """What was written before systemd has its journal."""
        return (self._layer.folder / "console").read_text(errors="replace")[-4000:]

    def path(self, inside: str) -> Path:
        """A path inside, for processes outside."""
        return Path(f"/proc/{self._init}/root{inside}")

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-t", str(self._init), "-m", "-p", "-C", "-u", "-i", "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"},
            text=True,
            errors="replace",
            timeout=START_S,
            check=False,
        )

    def run(self, command: str) -> str:
        """Runs a shell's command inside; returns what it prints."""
        done = self._call(command)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{self._call(JOURNAL).stdout}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property={name} --value {unit}")

    def wait_for(self, command: str, wanted: str) -> None:
        """Waits until a command prints a text."""
        deadline = time.monotonic() + START_S
        while wanted not in (said := self._call(command).stdout):
            assert time.monotonic() < deadline, f"{command}: {said}\n{self._call(JOURNAL).stdout}"
            time.sleep(0.2)


JOURNAL = "journalctl --no-pager --lines=40"
