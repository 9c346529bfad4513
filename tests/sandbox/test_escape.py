"""From a process that is confined as a worker nothing but its exports can be reached. The same
attacks succeed in a process that is not confined, which shows that they are attacks."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.children import ending_with_tests
from tests.frontend.daemon import ROOT, environment
from tests.ordinary_user import as_ordinary_user
from tests.sandbox.attacks import ATTACKS
from tests.system.share import IS_ROOT, needs_root

ROOT_ALONE = {"make_device", "change_sysctl", "mount", "change_root", "change_user", "bpf"} | {
    "raise_capability"
}
"""An ordinary user fails in them anyway."""
OPTIONAL = {"io_uring", "userfaultfd", "keyctl", "bpf", "perf_event", "other_abi"}
"""Kernels can be built, or started, without their system calls."""
NOT_EVERYWHERE = {"io_uring", "userfaultfd", "keyctl", "user_namespace", "trace_process"} | {
    *("take_descriptor", "bpf", "raise_capability", "perf_event", "read_memory", "reach_keeper"),
    "dump_core",
}
"""The host may refuse them to everybody (sysctls, a container)."""
SIGNAL = "SIGSYS"
BY_NAMESPACES = {
    "read_passwd": "ENOENT",
    "read_sibling": "ENOENT",
    "climb_to_sibling": "ENOENT",
    "stat_sibling": "ENOENT",
    "list_processes": "ENOENT",
    "open_device": "ENOENT",
    "make_device": "EACCES",
    "change_sysctl": "ENOENT",
    "inet_socket": "EACCES",
    "execute": "ENOENT",
    "execute_from_export": "EACCES",
    "trace_process": "ESRCH",
    "take_descriptor": "ESRCH",
    "signal_process": "ESRCH",
    "own_signals": "ESRCH",
    "read_memory": "ESRCH",
    "open_descriptor": "ENOENT",
    "reach_keeper": "EACCES",
    "change_oom_score": "EROFS",
    "use_directory_of_a_frontend": "EACCES",
    "leave_by_proc": "ENOENT",
    "dump_core": "SIGSEGV",
    "change_root": "EPERM",
    "raise_capability": "EPERM",
}
"""What stops an attack if all system calls are allowed."""
BY_SYSTEM_CALLS = {
    *("inet_socket", "execute", "execute_from_export", "trace_process", "take_descriptor"),
    *("signal_process", "read_memory", "change_root"),
}
"""Those of them that the filter stops before."""
BY_ERRNO = {
    **{name: error for name, error in BY_NAMESPACES.items() if name not in BY_SYSTEM_CALLS},
    "io_uring": "ENOSYS",
}
"""Attacks by system calls that serving takes too, and one that a library tries: they fail, and the
process goes on."""
BY_CHROOT = {
    **BY_NAMESPACES,
    **dict.fromkeys(("list_processes", "change_sysctl", "open_descriptor"), "EACCES"),
    **dict.fromkeys(("change_oom_score", "leave_by_proc"), "EACCES"),
    **dict.fromkeys(("trace_process", "take_descriptor", "signal_process", "read_memory"), "EPERM"),
    **dict.fromkeys(("make_device", "own_signals"), "done"),
}
"""The same without namespaces, by Landlock. docs/threat-model.md names what succeeds."""
KNOWN = ("use_directory_of_a_frontend",)
"""A worker of root succeeds: docs/threat-model.md says so."""


INTERFACES = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime connect bind listen socket
delete_module execve execveat fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen
fspick init_module inotify_init1 io_setup io_submit io_uring_enter io_uring_register kcmp
kexec_file_load kexec_load keyctl kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self mbind memfd_secret migrate_pages mount mount_setattr move_mount move_pages
mq_open msgget open_tree perf_event_open personality pidfd_getfd pidfd_open pidfd_send_signal
pivot_root process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl
quotactl_fd reboot remap_file_pages request_key rt_sigqueueinfo rt_tgsigqueueinfo sched_setattr
sched_setscheduler seccomp semget set_mempolicy setdomainname setgid sethostname setns setpriority
setregid setresgid setresuid setreuid settimeofday setuid shmat shmget splice swapoff swapon
syslog tee tkill umount2 unshare userfaultfd vhangup vmsplice
"""
"""Of the kernel's, which no worker needs. Headers of some hosts do not have all."""


@dataclass
class Host:
    """What an attack may aim at."""

    export: Path
    outside: Path
    pid: int
    port: int
    user: list[str]

    @property
    def is_root(self) -> bool:
        return IS_ROOT and not self.user

    results: dict[tuple[str, str], str] = field(default_factory=dict)

    def attack(self, name: str, how: str) -> str:
        """What comes of it. All are run at once."""
        if (name, how) not in self.results:
            self.results |= {(each, how): said for each, said in self.run(ATTACKS, how)}
        return self.results[name, how]

    def run(self, names: Iterable[str], how: str) -> Iterator[tuple[str, str]]:
        """Names and what comes of each."""
        target = map(str, (self.export, self.outside, self.pid, self.port))
        words = [*self.user, sys.executable, "-m", "tests.sandbox.attacks", how, *target, *names]
        done = subprocess.run(
            words, cwd=ROOT, env=environment({}), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            name, _, said = line.partition(" ")
            yield name, said


USERS: dict[str, list[str]] = {
    **({"root": []} if IS_ROOT else {}),
    "user": as_ordinary_user(65534, 65534),
}


def hosts_and(names: Iterable[str]) -> pytest.MarkDecorator:
    """Each attack by each user who might succeed."""
    pairs = [
        (user, name) for user in USERS for name in names if user == "root" or name not in ROOT_ALONE
    ]
    return pytest.mark.parametrize(("host", "name"), pairs, indirect=["host"])


@contextmanager
def hosting(user: list[str]) -> Iterator[Host]:
    with (
        tempfile.TemporaryDirectory(prefix="v9-escape-") as folder,
        subprocess.Popen(ending_with_tests(["sleep", "1000"], user)) as other,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        export, outside = Path(folder, "export"), Path(folder, "outside")
        for each in (Path(folder), export, outside):
            each.mkdir(exist_ok=True)
            each.chmod(0o777)
        (outside / "secret").write_text("secret")
        datagrams.bind(str(export / "socket"))
        (export / "socket").chmod(0o666)
        yield Host(export, outside, other.pid, listener.getsockname()[1], user)
        other.kill()


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(hosting(user)) for name, user in USERS.items()}


@pytest.fixture(params=USERS)
def host(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Host:
    return hosts[request.param]


def expected(host: Host, name: str, otherwise: str) -> str:
    return "done" if host.is_root and name in KNOWN else otherwise


@hosts_and(ATTACKS)
def test_an_attack_succeeds_in_a_process_that_is_not_confined(host: Host, name: str) -> None:
    found = host.attack(name, "free")
    if name in OPTIONAL and found == "ENOSYS":
        return  # nor in any other here
    if found != "done" and name in NOT_EVERYWHERE:
        pytest.skip(f"this host refuses it to everybody: {found}")
    assert found == "done"


@hosts_and(ATTACKS)
def test_an_attack_fails_in_a_worker(host: Host, name: str) -> None:
    assert host.attack(name, "namespace-kill") == expected(host, name, BY_ERRNO.get(name, SIGNAL))


@hosts_and(BY_NAMESPACES)
def test_an_attack_fails_even_if_the_filter_lets_it_pass(host: Host, name: str) -> None:
    """In depth: a system call that the filter would have to forbid reaches nothing."""
    assert host.attack(name, "namespace-log") == expected(host, name, BY_NAMESPACES[name])


@needs_root
@pytest.mark.parametrize("name", BY_CHROOT)
def test_an_attack_fails_without_namespaces(hosts: dict[str, Host], name: str) -> None:
    """As `sandbox: chroot` leaves it."""
    assert hosts["root"].attack(name, "chroot-log") == BY_CHROOT[name]


def system_calls(names: Iterable[str]) -> dict[str, str]:
    """Their numbers, with names, as far as the C library's headers have them."""
    source = "#include <sys/syscall.h>\n" + "".join(f"{name}:SYS_{name}\n" for name in names)
    command = [os.environ.get("CC", "cc"), "-E", "-P", "-x", "c", "-"]
    text = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    pairs = (line.replace(" ", "").partition(":") for line in text.splitlines())
    return {number: name for name, _, number in pairs if number.isdecimal()}


def test_other_interfaces_of_the_kernel_end_a_worker(host: Host) -> None:
    numbers = system_calls(INTERFACES.split())
    assert len(numbers) > len(INTERFACES.split()) / 2
    found = {numbers[number]: said for number, said in host.run(numbers, "namespace-kill")}
    assert found == dict.fromkeys(numbers.values(), SIGNAL)
