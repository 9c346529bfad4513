"""`vhost9p run --agent`: Debian 13's systemd runs the agent, in which nothing was installed.

The guest's root is Debian's tree in the cache (tests/deployment/debian.py), served read-only, below
an overlay in the guest's memory. The root has no agent; of the two devices that have one, the
guest's fstab(5) mounts one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deployment import debian
from tests.guest import fetch
from tests.guest.channel import Process
from tests.guest.image import Image
from tests.guest.test_agents import PROGRAM
from tests.guest.vm import VM

reason = debian.why_not()
pytestmark = [
    pytest.mark.full,
    pytest.mark.guest,
    pytest.mark.skipif(bool(reason), reason=reason),
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} was not built"),
]

BOOT_SECONDS = 900.0
KERNEL = f"rdinit=/start systemd.default_timeout_start_sec={BOOT_SECONDS:.0f}"
"""On a busy machine under emulation units start slowly."""
CONFIG = """
devices:
  - {tag: root, path: ROOT, readonly: true, security_model: passthrough}
  - {tag: share, path: share, notify: true, security_model: passthrough}
  - tag: other one
    notify: true
    notify_name: .changes
    security_model: passthrough
    exports:
      - {name: a, path: a}
      - {name: b, path: b, readonly: true}
"""
UNUSED = (
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount"),
    *(f"sys-kernel-{name}.mount" for name in ("config", "debug", "tracing")),
    *(f"systemd-{name}.service" for name in ("logind", "modules-load", "random-seed")),
    *("getty.target", "timers.target"),
)
"""Units that only make the boot longer."""
START = r"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for m in virtio_pci virtio_console 9pnet_virtio 9p overlay; do $b modprobe $m; done
$b mkdir /lower /upper /new
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $options,ro,cache=loose root /lower
$b mount -t tmpfs upper /upper
$b mkdir /upper/upper /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /new
$b mkdir -p /new/srv/other
echo "other\\040one /srv/other 9p $options,cache=loose,nofail 0 0" > /new/etc/fstab
$b cp /agent /new/usr/local/bin/tests
$b cp /watch /new/usr/local/bin/watch
$b cp /tests.service /new/etc/systemd/system/
$b ln -s ../tests.service /new/etc/systemd/system/multi-user.target.wants/
for unit in UNUSED; do $b ln -s /dev/null /new/etc/systemd/system/$unit; done
exec $b switch_root /new /lib/systemd/systemd
"""
TESTS = """[Unit]
After=vhost9p-agent.service

[Service]
ExecStart=/usr/local/bin/tests
"""
"""What runs commands in the guest for the tests."""


@contextmanager
def booted(folder: Path, watch_program: Path, *words: str) -> Iterator[VM]:
    """A guest whose configuration is served by `vhost9p run`."""
    files = {"/start": START.replace("UNUSED", " ".join(UNUSED)), "/tests.service": TESTS}
    for name, text in files.items():
        (folder / name[1:]).write_text(text)
        (folder / name[1:]).chmod(0o755)
    extra = {name: folder / name[1:] for name in files}
    image = Image.build(fetch.kernel("6.12"), "mini", {**extra, "/watch": watch_program})
    for name in ("share", "a", "b"):
        (folder / name).mkdir()
    config = folder / "vm.yaml"
    config.write_text(CONFIG.replace("ROOT", str(debian.root("trixie", debian.SYSTEM))))
    run = [*words, str(config)]
    with VM(image, run=run, log=folder / "logs", append=KERNEL, patience=BOOT_SECONDS) as vm:
        yield vm


@contextmanager
def watched(vm: VM, path: str) -> Iterator[Process]:
    process = vm.popen(f"exec /usr/local/bin/watch {path}")
    process.expect(b"ready\n")
    yield process
    process.kill()


def test_systemd_starts_the_agent_of_each_device(watch_program: Path) -> None:
    """A device that fstab(5) has, another one, and exports in one mount."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="v9-unit-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with booted(folder, watch_program, "--agent") as vm:
            print(vm.run("systemctl status vhost9p-agent.service", check=False).text)
            assert vm.run("systemctl show -P ActiveState vhost9p-agent").text == "active"
            for mount, export in (("/mnt/share", "share"), ("/srv/other/b", "b")):
                with watched(vm, mount) as watch:
                    (folder / export / "f").write_text("of the host")
                    watch.expect(f"{mount}/f modify".encode())
                    assert vm.run(f"cat {mount}/f").text == "of the host"
