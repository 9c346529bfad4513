"""A guest with a throttled mount: its readers and writers wait, and it lives on meanwhile.

The limit is 1 byte a second: once something was read, what is read next waits for longer than the
test takes.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.channel import Process
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, Mounted, scratch_export
from tests.guest.vm import VM

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

SIZE = 2048
"""Within a page: one request, with every kernel."""


def stopped_once(vm: VM, process: Process) -> bool:
    """Stops the machine and lets it go on; whether a process of the guest has ended since."""
    vm.pause()
    vm.resume()
    return process.poll() is not None


def test_life_of_a_throttled_mount(boot: Boot) -> None:
    args = ("--throttling", "bps-total=1", "--writeout", "immediate")
    with scratch_export() as export, Daemon("--path", str(export), *args) as daemon:
        vm = boot.qemu("full", [Path(daemon.socket)])
        vm.mount("host0", MOUNT)
        share = Mounted(daemon, export, vm)
        data = os.urandom(SIZE)
        (export / "file").write_bytes(data)
        share.sh(f"dd if=file of=/tmp/first bs={SIZE} count=1")  # from here on all wait
        reader = vm.popen(f"cd {MOUNT}; dd if=file of=/tmp/again bs={SIZE} count=1")
        writer = vm.popen(f"cd {MOUNT}; dd if=/tmp/first of=copy bs={SIZE}; sync copy")
        killed = [vm.popen(("dd", f"if={MOUNT}/file", "of=/dev/null")) for _ in range(3)]
        daemon.wait_until((export / "copy").exists, "the guest has not created a file")
        # With other files: a kernel may lock an inode while it reads or writes.
        share.sh(">other; mkdir d; mv other d/moved; ln -s x d/link; chmod 600 d/moved; ls -l . d")
        # A signal flushes the request, which ends at once: nobody hangs who is to be killed.
        for process in killed:
            process.kill(signal.SIGTERM)
            assert process.wait(check=False).returncode != 0
        assert reader.poll() is None and writer.poll() is None
        assert (export / "copy").read_bytes() == b""
        # What waits goes when the machine is stopped, without an error.
        daemon.wait_until(lambda: stopped_once(vm, reader), "the reader waits after a stop")
        daemon.wait_until(lambda: stopped_once(vm, writer), "the writer waits after a stop")
        assert (reader.wait().returncode, writer.wait().returncode) == (0, 0)
        assert share.sh("sha256sum </tmp/again") == share.sh("sha256sum </tmp/first")
        assert (export / "copy").read_bytes() == data
        # A session that ends with requests that wait leaves nothing behind.
        vm.popen(("cat", f"{MOUNT}/copy"))
        share.sh("stat copy")
        vm.reboot()
        vm.mount("host0", MOUNT)
        assert share.sh("stat -c %s file copy d/moved") == f"{SIZE}\n{SIZE}\n0"
