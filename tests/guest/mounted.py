"""A daemon, an export and a guest that has it mounted, for tests that look from both sides."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.guest.channel import Result
from tests.guest.conftest import Boot
from tests.guest.guest import Guest
from tests.guest.vm import VM

MOUNT = "/mnt"


class Mounted:
    """One export, mounted at /mnt of one guest."""

    def __init__(self, daemon: Daemon, export: Path, vm: Guest) -> None:
        self.daemon = daemon
        self.export = export
        self.vm = vm

    def sh(self, script: str, *, uid: int = 0, timeout: float = 300, check: bool = True) -> str:
        """Runs a script in the mount's root; its output."""
        return self.result(script, uid=uid, timeout=timeout, check=check).text

    def result(
        self, script: str, *, uid: int = 0, timeout: float = 300, check: bool = True
    ) -> Result:
        """The same, with all that the command left."""
        script = f"set -e; cd {MOUNT}; {script}"
        return self.vm.run(script, uid=uid, gid=uid, timeout=timeout, check=check)

    def features(self) -> set[int]:
        """The numbers of the virtio features that the guest's 9p driver has negotiated."""
        bits = self.sh(
            "for d in /sys/bus/virtio/drivers/9pnet_virtio/virtio*; do cat $d/features; done"
        )
        return {i for i, bit in enumerate(bits.split()[0]) if bit == "1"}

    def remount(self, cache: str = "none", options: str = "") -> None:
        """Mounts again in another way."""
        self.vm.umount(MOUNT)
        self.vm.mount("host0", MOUNT, cache=cache, options=options)


class MountedInQemu(Mounted):
    """The same in a guest of QEMU."""

    vm: VM


@contextmanager
def scratch_export() -> Iterator[Path]:
    """A directory on a real file system that everybody may reach."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="v9-guest-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _served(
    args: Sequence[str], wrapper: Sequence[str], env: Mapping[str, str] | None
) -> Iterator[tuple[Daemon, Path]]:
    with (
        scratch_export() as export,
        Daemon("--path", str(export), *args, wrapper=wrapper, env=env) as daemon,
    ):
        yield daemon, export


@contextmanager
def mounted(
    boot: Boot,
    *args: str,
    wrapper: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Mounted]:
    """Everything, until the block ends; `args` and `env` are the daemon's, `wrapper` runs it."""
    with _served(args, wrapper, env) as (daemon, export):
        vm = boot("full", [Path(daemon.socket)])
        vm.mount("host0", MOUNT)
        yield Mounted(daemon, export, vm)
        vm.kill()  # before the daemon: a guest may not survive its backend


@contextmanager
def mounted_in_qemu(
    boot: Boot,
    *args: str,
    cpus: int = 1,
    wrapper: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[MountedInQemu]:
    """The same in a guest of QEMU, whose device can be taken out."""
    with _served(args, wrapper, env) as (daemon, export):
        vm = boot.qemu("full", [Path(daemon.socket)], cpus=cpus, hotplug=True)
        vm.mount("host0", MOUNT)
        yield MountedInQemu(daemon, export, vm)
        vm.kill()  # before the daemon: QEMU does not survive its backend
