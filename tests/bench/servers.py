"""The servers, each started on a directory and connected to a queue in shared memory.

Belongs here: how each one is started, connected and stopped. A server is a context manager that
gives the Queue for a driver.

The comparison is of servers, not of VMMs; so each costs the driver the same for a kick (a write to
an event descriptor that the server waits for) and tells it of replies in the same way (a write to
an event descriptor). For the vhost-user servers these are the descriptors they are handed. QEMU's
built-in server has its kick descriptor in QEMU, where pidfd_getfd fetches it. What it signals is an
MSI-X vector, for which only KVM has a direct way to a descriptor; here the vector's address is the
doorbell of an ivshmem device whose descriptor this process holds: QEMU writes to it in the same
step, as it does with irqfd.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import report
from tests.bench.driver import MEMORY_SIZE, QUEUE_SIZE, RING_AT, Queue
from tests.bench.qtest import PciDevice, Qtest, VirtioPci
from tests.frontend.daemon import Daemon
from tests.frontend.memory import PAGE, GuestMemory
from tests.frontend.vhost_user import (
    EVENT_IDX_BIT,
    INDIRECT_BIT,
    PROTOCOL_FEATURES_BIT,
    VERSION_1_BIT,
    Frontend,
    Protocol,
    Request,
)
from tests.guest import fetch
from vhost9p import __version__

PARTS = (RING_AT, RING_AT + PAGE, RING_AT + 2 * PAGE)  # descriptors, available, used
FEATURES = 1 << INDIRECT_BIT | 1 << EVENT_IDX_BIT | 1 << VERSION_1_BIT
PATIENCE = 20.0  # seconds

ROOT = Path(__file__).resolve().parents[2]

_SYS_PIDFD_GETFD = 438


class ServerError(Exception):
    """A server does not start, or lacks what the benchmark needs."""


@dataclass(frozen=True)
class Server:
    """One way to serve a directory."""

    name: str
    start: Callable[[Path], AbstractContextManager[Queue]]
    version: Callable[[], str]
    """What it is; raises FetchError when it cannot be had."""


def _wait(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None:
            raise ServerError(f"{what}: it ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.01)


@contextmanager
def _process(
    command: list[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, ended at the end; its output is told when something fails inside."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
    try:
        yield process
    except Exception as error:
        said = log.read_text(errors="replace").strip()[-2000:]
        if said:
            error.add_note(f"{Path(command[0]).name} said:\n{said}")
        raise
    finally:
        process.kill()
        process.wait()


@contextmanager
def _folder() -> Iterator[Path]:
    """A short path for sockets."""
    path = Path(tempfile.mkdtemp(prefix="v9b-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# ---- vhost-user servers


def _vhost_user_queue(stack: ExitStack, path: str, index: int) -> tuple[int, int, int]:
    """Queue `index` of the server on a socket: its memory, kick and call descriptors."""
    frontend = Frontend(path)
    stack.callback(frontend.close)
    memory = GuestMemory()
    stack.callback(memory.close)
    region = memory.add_region(0, MEMORY_SIZE)
    kick, call = (os.eventfd(0, os.EFD_CLOEXEC) for _ in range(2))
    stack.callback(os.close, kick)
    stack.callback(os.close, call)
    offered = frontend.get_features()
    if FEATURES & ~offered:
        raise ServerError(f"features {FEATURES:#x} are wanted of {offered:#x}")
    frontend.set_protocol_features(frontend.get_protocol_features() & 1 << Protocol.REPLY_ACK)
    frontend.send(Request.SET_OWNER)
    frontend.set_features(FEATURES | 1 << PROTOCOL_FEATURES_BIT)
    frontend.set_mem_table(memory.regions)
    desc, avail, used = (memory.uva(part) for part in PARTS)
    frontend.set_vring_num(QUEUE_SIZE, index)
    frontend.set_vring_base(0, index)
    frontend.set_vring_addr(desc, used, avail, index)
    frontend.set_vring_fd(Request.SET_VRING_KICK, kick, index)
    frontend.set_vring_fd(Request.SET_VRING_CALL, call, index)
    frontend.set_vring_enable(True, index)
    return region.memfd.fd, kick, call


@contextmanager
def vhost9p_process(
    directory: Path,
    model: str = "passthrough",
    options: Sequence[str] = (),
    wrapper: Sequence[str] = (),
    checkout: Path = ROOT,
) -> Iterator[tuple[Path, int]]:
    """vhost9p on a directory: socket and pid. `wrapper` as Daemon has it; `checkout` is one that is
    built."""
    words = ("--path", str(directory), "--security-model", model, "--multidevs", "remap", *options)
    python = sys.executable if checkout == ROOT else str(checkout / ".venv" / "bin" / "python")
    daemon = Daemon(
        *words,
        wrapper=wrapper,
        command=(python, "-m", "vhost9p"),
        env={"PYTHONPATH": str(checkout)},
        cwd="/",
    )
    with daemon:
        yield Path(daemon.socket), daemon.worker


@contextmanager
def vhost9p(
    directory: Path,
    model: str = "passthrough",
    options: Sequence[str] = (),
    wrapper: Sequence[str] = (),
    checkout: Path = ROOT,
) -> Iterator[Queue]:
    """The queue of a vhost9p_process."""
    process = vhost9p_process(directory, model, options, wrapper, checkout)
    with process as (path, pid), connected(str(path), pid) as queue:
        yield queue


@contextmanager
def connected(socket_path: str, pid: int) -> Iterator[Queue]:
    """The queue of one device of a vhost9p that runs."""
    with ExitStack() as stack:
        yield Queue("9p", *_vhost_user_queue(stack, socket_path, 0), (pid,))


@contextmanager
def virtiofsd_process(
    directory: Path, cache: str = "never", tag: str = ""
) -> Iterator[tuple[Path, int]]:
    """virtiofsd without a pool of threads, with extended attributes, as 9P servers have them:
    socket and pid. `cache` is what it lets the guest keep; `tag` is for a frontend that asks the
    server for it."""
    with _folder() as folder:
        path = folder / "fs.sock"
        words = [*fetch.virtiofsd().command, "--socket-path", str(path)]
        words += ["--shared-dir", str(directory), f"--cache={cache}", "--thread-pool-size=0"]
        words += ["--xattr", *(["--tag", tag] if tag else [])]
        words += ["--sandbox=chroot" if os.geteuid() == 0 else "--sandbox=none"]
        with _process(words, folder / "log") as process:
            _wait(path.exists, "virtiofsd's socket", process)
            yield path, process.pid


@contextmanager
def virtiofsd(directory: Path) -> Iterator[Queue]:
    """virtiofsd on a directory."""
    with virtiofsd_process(directory) as (path, pid), ExitStack() as stack:
        made = _vhost_user_queue(stack, str(path), 1)  # 0 is hiprio
        yield Queue("fuse", *made, (pid,))


# ---- QEMU's built-in server


def _descriptors(pid: int, target: str) -> set[int]:
    """The descriptors of a process that point to what begins with `target`."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{name}").startswith(target):
                found.add(int(name))
    return found


def _take_descriptor(pid: int, fd: int) -> int:
    """A duplicate of another process's descriptor (pidfd_getfd(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        taken = int(libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        os.close(pidfd)
    if taken < 0:
        raise ServerError(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return taken


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(1)
    server.settimeout(PATIENCE)
    return server


class _Doorbell:
    """The other end of an ivshmem-doorbell device: a write of `value` signals `fd`.

    The protocol (QEMU: docs/specs/ivshmem-spec.rst) tells the device, in messages of 8 bytes with
    a descriptor beside some, its version, the device's own number, the shared memory, and then
    everybody's event descriptors.
    """

    OWN, PEER = 0, 1
    value = PEER << 16  # and vector 0
    offset = 12  # of the register, in BAR 0

    def __init__(self, stack: ExitStack) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._own = os.eventfd(0, os.EFD_CLOEXEC)
        self._memory = os.memfd_create("doorbell", os.MFD_CLOEXEC)
        for fd in (self.fd, self._own, self._memory):
            stack.callback(os.close, fd)
        os.ftruncate(self._memory, 1 << 20)

    def tell(self, connection: socket.socket) -> None:
        for number, fd in (
            (0, None),
            (self.OWN, None),
            (-1, self._memory),
            (self.PEER, self.fd),
            (self.OWN, self._own),
        ):
            rights = [] if fd is None else [fd]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))]
            connection.sendmsg([struct.pack("<q", number)], ancillary if rights else [])

    def prove(self, qtest: Qtest, register: int) -> None:
        """Waits until a write to the register arrives here."""
        for _ in range(100):
            qtest.write(register, self.value, 4)
            if select.select([self.fd], [], [], 0.1)[0]:
                os.eventfd_read(self.fd)
                return
        raise ServerError("QEMU's doorbell does not ring")


@contextmanager
def qemu(directory: Path, model: str = "passthrough") -> Iterator[Queue]:
    """QEMU's built-in server, as virtio-9p-pci in a machine without a running processor."""
    with _folder() as folder, ExitStack() as stack:
        qtests = stack.enter_context(_listen(folder / "qtest"))
        doorbells = stack.enter_context(_listen(folder / "doorbell"))
        words = [
            *fetch.qemu().command,
            *("-machine", "q35,accel=qtest,memory-backend=ram", "-m", str(MEMORY_SIZE >> 20)),
            *("-object", f"memory-backend-memfd,id=ram,size={MEMORY_SIZE},share=on"),
            *("-nodefaults", "-display", "none", "-qtest-log", "/dev/null"),
            *("-qtest", f"unix:{folder}/qtest"),
            *("-fsdev", f"local,id=f,path={directory},security_model={model},multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=f,mount_tag=host0,disable-legacy=on,addr=4"),
            *("-chardev", f"socket,id=d,path={folder}/doorbell"),
            *("-device", "ivshmem-doorbell,chardev=d,vectors=1,addr=5"),
        ]
        process = stack.enter_context(_process(words, folder / "log", _module_path()))
        doorbell = _Doorbell(stack)
        rings = stack.enter_context(_accept(doorbells, process))
        doorbell.tell(rings)  # before which QEMU does nothing else
        qtest = Qtest(stack.enter_context(_accept(qtests, process)))
        yield _qemu_queue(stack, process.pid, qtest, doorbell)


def _module_path() -> dict[str, str]:
    """Where a fetched QEMU finds its modules, one of which is the accelerator."""
    libraries = [word for word in fetch.qemu().command if (Path(word) / "qemu").is_dir()]
    return {"QEMU_MODULE_DIR": f"{libraries[0]}/qemu"} if libraries else {}


def _accept(listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket:
    def arrived() -> bool:
        return bool(select.select([listener], [], [], 0)[0])

    _wait(arrived, "QEMU's connection", process)
    connection = listener.accept()[0]
    connection.settimeout(None)
    return connection


def _qemu_queue(stack: ExitStack, pid: int, qtest: Qtest, doorbell: _Doorbell) -> Queue:
    """Sets the devices up and takes the descriptors that they use."""
    ninep, ivshmem = PciDevice(qtest, 4), PciDevice(qtest, 5)
    ninep.enable()
    ivshmem.enable()
    register = ivshmem.bars[0] + doorbell.offset
    doorbell.prove(qtest, register)
    ninep.enable_msix(register, doorbell.value)
    device = VirtioPci(ninep)
    device.negotiate(FEATURES)
    desc, avail, used = PARTS
    before = _descriptors(pid, "anon_inode:[eventfd]")
    device.start(QUEUE_SIZE, desc, avail, used)
    kicks = _descriptors(pid, "anon_inode:[eventfd]") - before
    if len(kicks) != 1:
        raise ServerError(f"QEMU's device opened {len(kicks)} event descriptors, not one")
    kick = _take_descriptor(pid, kicks.pop())
    stack.callback(os.close, kick)
    ram = _descriptors(pid, "/memfd:memory-backend-memfd")
    if len(ram) != 1:
        raise ServerError(f"QEMU has {len(ram)} descriptors of its memory, not one")
    memory = os.open(f"/proc/{pid}/fd/{ram.pop()}", os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, memory)
    return Queue("9p", memory, kick, doorbell.fd, (pid,))


def mapped(directory: Path) -> AbstractContextManager[Queue]:
    """vhost9p, keeping owners and modes in attributes."""
    return vhost9p(directory, "mapped-xattr")


def qemu_mapped(directory: Path) -> AbstractContextManager[Queue]:
    """QEMU's built-in server, keeping owners and modes in attributes."""
    return qemu(directory, "mapped-xattr")


def other(checkout: Path, model: str = "passthrough") -> Server:
    """The vhost9p of another checkout, to compare with."""
    return Server(
        report.OTHER,
        lambda directory: vhost9p(directory, model, checkout=checkout),
        lambda: str(checkout),
    )


VHOST9P = Server("vhost9p", vhost9p, lambda: f"vhost9p {__version__}")
VIRTIOFSD = Server("virtiofsd", virtiofsd, lambda: fetch.virtiofsd().version)
QEMU = Server("QEMU 9p", qemu, lambda: f"QEMU {fetch.qemu().version}")
VHOST9P_MAPPED = Server("vhost9p mapped", mapped, VHOST9P.version)
QEMU_MAPPED = Server("QEMU mapped", qemu_mapped, QEMU.version)
