"""A guest: QEMU with an image, its console, its monitor and its agent.

Belongs here: QEMU's command line and life. What connects it to a daemon is vhost9p.qemu's, which
image runs is image.py's business, how commands reach the guest is channel.py's.

    with VM(Image.build(fetch.kernel("6.12")), sockets=[path]) as vm:
        vm.mount("host0", "/mnt")
        print(vm.run("ls -la /mnt", uid=1000).text)

The guest's memory is a shared memfd, as vhost-user needs. Emulation (TCG) is the rule, because
/dev/kvm may exist and still hang; VHOST9P_KVM=1 in the environment asks for KVM. QEMU ends with
the thread that started it (exit-with-parent; tests/children.py has that for other programs), so a
killed test run leaves no guest behind: start a VM from a thread that lives as long as it. Every
call that waits for the guest fails at once, with the end of the console, when QEMU exits or the
guest's kernel panics or oopses.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.children import ending_with_tests
from tests.frontend.daemon import environment
from tests.guest import cache, fetch
from tests.guest.channel import Channel, GuestLost
from tests.guest.guest import Guest
from tests.guest.image import Image
from tests.guest.qmp import Qmp, QmpError
from vhost9p.qemu import options

BOOT_SECONDS = 180.0
"""How long a boot may take on a busy machine under emulation."""

_FATAL = re.compile(
    rb"Kernel panic|Oops: |kernel BUG at|general protection fault|"
    rb"BUG: (?!soft lockup|workqueue lockup)[^\n]*"
)
# TCG carries out a string instruction byte by byte, walks each level of a page table, and leaves
# its block of code at each STAC: Linux does without these if the processor has not got them.
_SLOW_IF_EMULATED = ("erms", "fsrm", "fsrs", "la57", "smap", "pku")
_EMULATED = ",".join(("max", *(f"-{feature}" for feature in _SLOW_IF_EMULATED)))
# All this saves work that is slow under emulation: rewriting code at boot, testing the kernel's own
# cryptography, reading certificates. But memory has to be cleared when it is allocated: TCG keeps
# what it has translated until the guest itself writes there, and what a device of another process
# writes it does not notice. Programs of the mount would run into other programs' code. And Linux
# counts interrupts of its timer for a moment, which may be too short on a busy host: a panic.
_UNUSED_AT_BOOT = (
    *("crypto_kdf108_init", "init_encrypted", "jent_mod_init", "load_system_certificate_list"),
    "trace_eval_init",
)
_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=5 panic=0 mitigations=off noreplace-smp cryptomgr.notests "
    "init_on_alloc=1 no_timer_check "
    f"initcall_blacklist={','.join(_UNUSED_AT_BOOT)}"
)


@dataclass(frozen=True)
class Virtfs:
    """A folder exported by QEMU's own 9p server, to compare with."""

    path: Path
    tag: str
    security_model: str = "none"
    multidevs: str = "remap"
    readonly: bool = False
    options: str = ""
    """More of -fsdev's, each with a comma in front."""


class VM(Guest):
    """One guest, as a context manager: entered when it has booted, gone when it is left."""

    def __init__(
        self,
        image: Image,
        sockets: Sequence[Path] = (),
        virtfs: Sequence[Virtfs] = (),
        *,
        memory: str = "1G",
        cpus: int = 1,
        hotplug: bool = False,
        args: Sequence[str] = (),
        append: str = "",
        log: Path | None = None,
        run: Sequence[str] = (),
        patience: float = BOOT_SECONDS,
    ) -> None:
        """A guest with one vhost-user 9p device for each of `sockets`.

        `memory` in QEMU's notation; `hotplug` puts each device behind a port of its own, so that
        device_del works; `args` and `append` are added to QEMU's and the kernel's arguments;
        `log` is the folder in which console.log and qemu.log stay (else they go with the guest).
        `run` are the words of a `vhost9p run` that serves as long as the guest runs; a boot may
        take `patience` seconds.
        """
        self.image = image
        self._folder = Path(tempfile.mkdtemp(prefix="vm-"))
        log = log or self._folder
        log.mkdir(parents=True, exist_ok=True)
        self.console_log = log / "console.log"
        self._qemu_log = log / "qemu.log"
        devices = [
            [*options.device(i, str(path), pluggable=hotplug)] for i, path in enumerate(sockets)
        ]
        self._devices = [_for_qmp(each[-1]) for each in devices]
        self.command: tuple[str, ...] = (
            *(served(*run) if run else ()),
            *fetch.qemu().command,
            *_machine(memory, cpus, self._folder, self.console_log),
            *(word for each in devices for option in each for word in option.words),
            *(word for i, export in enumerate(virtfs) for word in _virtfs(i, export)),
            *("-kernel", str(image.kernel.image), "-initrd", str(image.initrd)),
            *("-append", f"{_KERNEL_ARGUMENTS} {append}".rstrip()),
            *args,
        )
        self._patience = patience
        self._console_read = 0
        self._console_tail = b""
        self._fatal = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._qmp: Qmp | None = None

    def start(self) -> None:
        """Start QEMU and wait for the guest. Raises GuestLost; nothing is left running then."""
        self.console_log.write_bytes(b"")
        try:
            with self._qemu_log.open("wb") as log:
                self._process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self._wait_sockets()
            self._qmp = Qmp(self._folder / "qmp")
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self._folder / "agent"))
            self._channel = Channel(connection, self.check)
            self.wait_boot()
        except BaseException as error:
            try:
                if isinstance(error, QmpError | OSError) and self._process:
                    self._process.wait(5)
                    self.check()
            finally:
                self.close()
            raise

    def close(self) -> None:
        """End QEMU, by its own command or by force, and remove its sockets. Idempotent."""
        if self._process and self._process.poll() is None:
            try:
                self.qmp.execute("quit")
                self._process.wait(5)
            except (QmpError, GuestLost, subprocess.TimeoutExpired):
                self.kill()
        if self._channel:
            self._channel.close()
        if self._qmp:
            self._qmp.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill QEMU at once, as a crash of it would."""
        self.process.kill()
        self.process.wait()

    def reboot(self, timeout: float | None = None) -> None:
        """Reset the machine as its reset button would, and wait until it has booted again."""
        boots = self.channel.boots
        self.qmp.execute("system_reset")
        self.wait_boot(boots, timeout)

    def wait_boot(self, after: int = 0, timeout: float | None = None) -> None:
        """Wait until the guest has booted more than `after` times (Channel.boots counts)."""
        timeout = self._patience if timeout is None else timeout
        channel = self.channel
        with cache.Progress(f"booting Linux {self.image.kernel.release}"):
            if not channel.wait_for(lambda: channel.boots > after, timeout):
                raise GuestLost(f"the guest has not booted in {timeout:g} s\n{self.console()}")

    def pause(self) -> None:
        """Stop the guest's processors; QEMU also stops its devices."""
        self.qmp.execute("stop")

    def resume(self) -> None:
        """Let a paused guest go on."""
        self.qmp.execute("cont")

    def unplug(self, index: int, timeout: float = 60.0) -> None:
        """Take 9p device number `index` out, with the guest's consent (needs `hotplug`)."""
        name = self._devices[index]["id"]
        self.qmp.execute("device_del", id=name)
        self.qmp.wait_event("DEVICE_DELETED", timeout, device=name)

    def plug(self, index: int) -> None:
        """Put 9p device number `index` back, on the same connection."""
        self.qmp.execute("device_add", **self._devices[index])

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """QEMU. Raises GuestLost when the VM has not been started."""
        if not self._process:
            raise GuestLost("the VM has not been started")
        return self._process

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor. Raises GuestLost when the VM has not been started."""
        if not self._qmp:
            raise GuestLost("the VM has not been started")
        return self._qmp

    @property
    def channel(self) -> Channel:
        """The channel to the guest's agent. Raises GuestLost when the VM has not been started."""
        if not self._channel:
            raise GuestLost("the VM has not been started")
        return self._channel

    def console(self, size: int = 4000) -> str:
        """The end of the guest's console."""
        return self.console_log.read_bytes()[-size:].decode(errors="replace")

    def check(self) -> None:
        """Raise GuestLost when QEMU has exited or the guest's kernel has panicked or oopsed."""
        with self.console_log.open("rb") as file:
            file.seek(self._console_read)
            new = file.read()
        self._console_read += len(new)
        found = _FATAL.search(self._console_tail + new)
        self._console_tail = (self._console_tail + new)[-200:]
        if found:
            self._fatal = found[0]
        code = self.process.poll()
        if self._fatal:
            time.sleep(0.5)  # for the rest of the message
            raise GuestLost(f"the guest's kernel failed: {self._fatal!r}\n{self.console()}")
        if code is not None:
            said = self._qemu_log.read_text(errors="replace")[-2000:]
            raise GuestLost(
                f"QEMU has ended with {code}\n{said}\n{shlex.join(self.command)}\n{self.console()}"
            )

    def _wait_sockets(self) -> None:
        end = time.monotonic() + 60
        while not all((self._folder / name).exists() for name in ("qmp", "agent")):
            self.check()
            if time.monotonic() > end:
                raise GuestLost("QEMU has not opened its sockets in 60 s")
            time.sleep(0.02)


def _machine(memory: str, cpus: int, folder: Path, console: Path) -> tuple[str, ...]:
    kvm = os.environ.get("VHOST9P_KVM") == "1"
    return (
        *(("-accel", "kvm", "-cpu", "host") if kvm else ("-accel", "tcg", "-cpu", _EMULATED)),
        *(word for option in options.machine("q35", memory) for word in option.words),
        *("-smp", str(cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-run-with", "exit-with-parent=on"),
        *("-serial", f"file:{options.escaped(str(console))}"),
        *("-qmp", f"unix:{options.escaped(str(folder / 'qmp'))},server=on,wait=off"),
        *(
            "-chardev",
            f"socket,id=agent,path={options.escaped(str(folder / 'agent'))},server=on,wait=off",
        ),
        *("-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=agent,name=org.vhost9p.agent"),
    )


def served(*words: str) -> list[str]:
    """The words before QEMU's by which it is served as long as it runs; `words` are those of
    `vhost9p run`."""
    words = (sys.executable, "-m", "vhost9p", "run", *words, "--")
    return ["env", f"PYTHONPATH={environment({})['PYTHONPATH']}", *ending_with_tests(words)]


def _for_qmp(device: options.Option) -> dict[str, str | int]:
    """A device as device_add takes it, where numbers are no text."""
    pairs = {key: int(text) if text.isdigit() else text for key, text in device.pairs}
    return {"driver": device.head, **pairs}


def _virtfs(index: int, export: Virtfs) -> tuple[str, ...]:
    share = (
        f"local,id=virtfs{index},path={options.escaped(str(export.path))},"
        f"security_model={export.security_model},multidevs={export.multidevs},"
        f"readonly={'on' if export.readonly else 'off'}{export.options}"
    )
    device = f"virtio-9p-pci,fsdev=virtfs{index},mount_tag={export.tag}"
    return "-fsdev", share, "-device", device
