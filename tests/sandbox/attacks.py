"""What somebody who has taken over a worker might try, run in processes that are confined as one.

`python -m tests.sandbox.attacks HOW EXPORT OUTSIDE PID PORT NAME...` runs attacks, each in a
process of its own, and prints lines of the name and what came of it: `done`, the name of an errno,
or that of the signal that ended the process. A number as NAME is the system call of that number,
with arguments of -1. HOW is `free`, for processes that are not confined, or a level of the sandbox
and what becomes of system calls that are not listed: `namespace-kill` for a worker as it is,
`namespace-log` for one whose other layers show what they stop by themselves. EXPORT is what is
served, OUTSIDE a directory beside it, PID a process of the same user, PORT a TCP port of this host
on which somebody listens.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vhost9p import confinement, procfs
from vhost9p.config import Config, DeviceConfig, ExportConfig, Level, Seccomp

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # by architecture; numbers from 424 on are the same everywhere
    "x86_64": {"ptrace": 101, "mount": 165, "keyctl": 250, "bpf": 321, "userfaultfd": 323}
    | {"perf_event_open": 298, "process_vm_readv": 310, "getpid": 39},
    "aarch64": {"ptrace": 117, "mount": 40, "keyctl": 219, "bpf": 280, "userfaultfd": 282}
    | {"perf_event_open": 241, "process_vm_readv": 270, "getpid": 172},
}[platform.machine()] | {"io_uring_setup": 425, "pidfd_getfd": 438}
X32 = 0x40000000
"""Of the numbers by which x86-64 has the calls of its 32-bit ABI (syscall(2))."""
CLONE_NEWUSER = 0x10000000
PTRACE_SEIZE = 0x4206
UFFD_USER_MODE_ONLY = 1


def call(name: str, *arguments: object) -> int:
    """A system call by its name; raises OSError."""
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(LIBC.syscall(NUMBERS[name], *whole))


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@dataclass
class Place:
    """Where the attack happens."""

    export: str
    outside: str
    pid: int
    port: int
    """An internet socket of the host; and `socket` in the export is one for datagrams."""
    given: int
    """A descriptor of the host's root directory."""
    proc: int
    """That of /proc which a worker has."""

    def read(self, name: str) -> bytes:
        """Reads from a file below /proc."""
        with self._open(name, os.O_RDONLY) as fd:
            return os.read(fd, 1 << 16)

    def write(self, name: str, text: bytes) -> None:
        """Writes to one."""
        with self._open(name, os.O_WRONLY) as fd:
            os.write(fd, text)

    @contextlib.contextmanager
    def _open(self, name: str, flags: int) -> Iterator[int]:
        fd = os.open(name, flags, dir_fd=self.proc)
        try:
            yield fd
        finally:
            os.close(fd)


def read_passwd(at: Place) -> None:
    Path("/etc/passwd").read_bytes()


def read_sibling(at: Place) -> None:
    Path(at.outside, "secret").read_bytes()


def climb_to_sibling(at: Place) -> None:
    """Through `..`, with the name that the sibling has beside the export."""
    top = os.open(at.export, os.O_RDONLY | os.O_DIRECTORY)
    name = os.path.basename(at.outside)
    os.close(os.open(f"../{name}/secret", os.O_RDONLY, dir_fd=top))


def stat_sibling(at: Place) -> None:
    os.stat(at.outside)


def list_processes(at: Place) -> None:
    at.read(f"{at.pid}/cmdline")


def open_device(at: Place) -> None:
    os.close(os.open("/dev/null", os.O_RDWR))


def make_device(at: Place) -> None:
    """Root makes a node for the device in the export, and opens that."""
    node = os.path.join(at.export, "node")
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    try:
        os.close(os.open(node, os.O_RDWR))
    finally:
        os.unlink(node)


def change_sysctl(at: Place) -> None:
    """Writes what is there already."""
    at.write("sys/kernel/core_pattern", at.read("sys/kernel/core_pattern"))


def inet_socket(at: Place) -> None:
    with socket.socket(socket.AF_INET) as sock:
        sock.connect(("127.0.0.1", at.port))


def unix_socket(at: Place) -> None:
    socket.socket(socket.AF_UNIX).close()


def send_datagram(at: Place) -> None:
    """To a socket of the host that is in the export; by one of a pair, which needs no connect."""
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with end, other:
        end.sendto(b"datagram", os.path.join(at.export, "socket"))


def execute(at: Place) -> None:
    os.execv("/bin/echo", ["echo", "done"])


def execute_from_export(at: Place) -> None:
    """A program that the worker could have put there."""
    os.execv(os.path.join(at.export, "echo"), ["echo", "done"])


def start_process(at: Place) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def trace_process(at: Place) -> None:
    call("ptrace", PTRACE_SEIZE, at.pid, None, None)


def take_descriptor(at: Place) -> None:
    call("pidfd_getfd", os.pidfd_open(at.pid), 0, 0)


def signal_process(at: Place) -> None:
    os.kill(at.pid, signal.SIGCONT)


def own_signals(at: Place) -> None:
    """Has the kernel signal another process when a socket is written to (F_SETOWN of fcntl(2))."""
    end, other = socket.socketpair()
    with end, other:
        fcntl.fcntl(end, fcntl.F_SETOWN, at.pid)


def read_memory(at: Place) -> None:
    where = 4096
    with contextlib.suppress(OSError):  # then it fails for another reason than the address
        where = int(at.read(f"{at.pid}/maps").partition(b"-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    theirs = (ctypes.c_size_t * 2)(where, 8)
    call("process_vm_readv", at.pid, ours, 1, theirs, 1, 0)


def open_descriptor(at: Place) -> None:
    """One that another process has open."""
    at.read(f"{at.pid}/fd/0")


def reach_keeper(at: Place) -> None:
    """The memory of the process that has started this one."""
    os.close(os.open(f"{os.getppid()}/mem", os.O_RDONLY, dir_fd=at.proc))


def change_oom_score(at: Place) -> None:
    at.write("self/oom_score_adj", b"1000")


def use_directory_of_a_frontend(at: Place) -> None:
    """Which a frontend has sent over its connection (SCM_RIGHTS)."""
    os.close(os.open("etc/passwd", os.O_RDONLY, dir_fd=at.given))


def leave_by_proc(at: Place) -> None:
    at.read("../etc/passwd")


def dump_core(at: Place) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    signal.raise_signal(signal.SIGSEGV)


def mount(at: Place) -> None:
    call("mount", b"none", os.fsencode(at.export), b"tmpfs", 0, None)
    checked(LIBC.umount2(os.fsencode(at.export), 0))


def user_namespace(at: Place) -> None:
    checked(LIBC.unshare(CLONE_NEWUSER))


def change_root(at: Place) -> None:
    os.chroot(at.export)


def change_user(at: Place) -> None:
    os.setuid(65534)


def raise_capability(at: Place) -> None:
    """CAP_SYS_PTRACE, which no export needs; from whom it is permitted."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    checked(LIBC.capget(header, sets))
    sets[0] |= 1 << 19
    sets[1] |= 1 << 19
    checked(LIBC.capset(header, sets))


def io_uring(at: Place) -> None:
    call("io_uring_setup", 1, ctypes.create_string_buffer(120))


def bpf(at: Place) -> None:
    """BPF_MAP_CREATE of an array with one element."""
    call("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128)


def userfaultfd(at: Place) -> None:
    call("userfaultfd", UFFD_USER_MODE_ONLY)


def keyctl(at: Place) -> None:
    """KEYCTL_GET_KEYRING_ID of the session's keyring, made if there is none."""
    call("keyctl", 0, -3, 1)


def perf_event(at: Place) -> None:
    """PERF_COUNT_SW_CPU_CLOCK of this process, without the kernel."""
    attributes = (ctypes.c_uint32 * 32)(1, 128)
    attributes[10] = 1 << 5 | 1 << 6
    call("perf_event_open", attributes, 0, -1, -1, 0)


def other_abi(at: Place) -> None:
    checked(LIBC.syscall(X32 + NUMBERS["getpid"]))


def executable_memory(at: Place) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


ATTACKS: dict[str, Callable[[Place], None]] = {
    each.__name__: each
    for each in (
        read_passwd,
        read_sibling,
        climb_to_sibling,
        stat_sibling,
        list_processes,
        open_device,
        make_device,
        change_sysctl,
        inet_socket,
        unix_socket,
        send_datagram,
        execute,
        execute_from_export,
        start_process,
        trace_process,
        take_descriptor,
        signal_process,
        own_signals,
        read_memory,
        open_descriptor,
        reach_keeper,
        change_oom_score,
        use_directory_of_a_frontend,
        leave_by_proc,
        dump_core,
        mount,
        user_namespace,
        change_root,
        change_user,
        raise_capability,
        io_uring,
        bpf,
        userfaultfd,
        keyctl,
        perf_event,
        other_abi,
        executable_memory,
    )
}


def attack(name: str, at: Place) -> str:
    try:
        if name.isdecimal():
            checked(LIBC.syscall(int(name), *[ctypes.c_long(-1)] * 6))
        else:
            ATTACKS[name](at)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def in_child(name: str, at: Place, confine: Callable[[], object]) -> str:
    """Runs an attack in a child, which `confine` prepares; says what came of it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.chdir(at.export)
        confine()
        os.write(1, attack(name, at).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 100).decode().strip()
    status = os.waitpid(pid, 0)[1]
    os.close(reading)
    if os.WIFSIGNALED(status):
        return "done" if os.WCOREDUMP(status) else signal.Signals(os.WTERMSIG(status)).name
    return said if status == 0 else f"exit code {os.waitstatus_to_exitcode(status)}"


def run_confined(names: Sequence[str], level: Level, seccomp: Seccomp, at: Place) -> None:
    """Runs each attack in a child of a child, which are confined as a keeper and its worker that
    serve `at.export`."""
    export = ExportConfig(path=at.export, security_model="passthrough")
    device = DeviceConfig((export,), socket="/none", state_dir="/none")
    config = Config((device,), sandbox=level, seccomp=seccomp)
    pid = confinement.fork(config)
    if pid == 0:
        config, entered = confinement.enter(config)
        at.export = config.devices[0].exports[0].place
        at.proc = open_proc()
        for name in names:
            print(
                name, in_child(name, at, lambda: confinement.confine(config, entered)), flush=True
            )
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def open_proc() -> int:
    return os.open(procfs.path("."), os.O_PATH | os.O_DIRECTORY)


def main() -> None:
    how, export, outside, process, port, *names = sys.argv[1:]
    shutil.copy("/bin/echo", export)
    given = os.open("/", os.O_PATH | os.O_DIRECTORY)
    at = Place(export, outside, int(process), int(port), given, open_proc())
    if how == "free":
        for name in names:
            print(name, in_child(name, at, lambda: None), flush=True)
    else:
        level, seccomp = how.split("-")
        run_confined(names, Level(level), Seccomp(seccomp), at)


if __name__ == "__main__":
    main()
