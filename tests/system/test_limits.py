"""A guest takes all that it can get of each thing that is limited (docs/limits.md). It gets the
right errno, another device of its VM and another VM work as before, and after it has given all back
it can take as much again: nothing is lost, and nothing grows."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, UNLCK, WRLCK, Client, P9Errno
from tests.frontend.daemon import Daemon, run_cli, worker_of
from tests.frontend.memory import MIB, PAGE
from tests.frontend.vhost_user import REGION, U64, BackendError, Frontend, Request
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, mounted, remount
from tests.system.test_budgets import do_everything
from vhost9p import limits, log_pipe
from vhost9p.fs import lock_files, locked_ranges
from vhost9p.native import memory

FIDS, FEW = 2000, 200
SLOTS = memory.of_device(FIDS, 4096).slots
PIECES = locked_ranges.FILE_PIECES_MAX
XATTR_SIZE_MAX = 65536
SLACK_KIB = 8192
"""By so much memory may grow that is not the attack's: caches, the interpreter's arenas."""


@dataclass
class Vms:
    """Two devices of a VM, the first of which an attacker has, and another VM."""

    daemon: Daemon
    attacker: Share
    neighbour: Share
    stranger: Share
    worker: int
    """Of the first VM."""
    sockets: dict[str, str]

    def others_go_on(self) -> None:
        for share in (self.neighbour, self.stranger):
            do_everything(share, b"beside")

    def resident_kib(self) -> int:
        """Memory that the worker has taken, of all kinds; the guests' own does not change."""
        status = Path(f"/proc/{self.worker}/status").read_text(encoding="ascii")
        found = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE)
        return sum(map(int, found))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))


@contextlib.contextmanager
def serving(more: str = "", ring_size: int = 128) -> Iterator[Vms]:
    """`more` are options of the attacker's device."""
    folder = Path(tempfile.mkdtemp(prefix="v9-limits-"))
    configs = folder / "vms"
    configs.mkdir()
    model = f"security_model: {SECURITY[1]}"
    for vm, names in (("one", ("a", "b")), ("other", ("c",))):
        lines = ["devices:"]
        for name in names:
            (folder / name).mkdir()
            options = more if name == "a" else ""
            lines.append(
                f"- {{socket: {folder}/{name}.sock, tag: {name}, path: {folder / name}, {model}"
                f"{', ' + options if options else ''}}}"
            )
        (configs / f"{vm}.yaml").write_text("\n".join(lines) + "\n")
    daemon = Daemon("--config-dir", str(configs), socket=False)
    daemon.ready = "INFO: .*: 2 VMs"
    try:
        with daemon, contextlib.ExitStack() as stack:
            shares = []
            for name in "abc":
                daemon.wait_line(f"serving .* as '{name}'")
                daemon.socket = f"{folder}/{name}.sock"
                size = ring_size if name == "a" else 128
                share = mounted(daemon, folder / name, ring_size=size, n_uname=0)
                shares.append(stack.enter_context(share))
            keeper = next(
                pid
                for pid in daemon.keepers
                if b"keeper of one" in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
            sockets = {name: f"{folder}/{name}.sock" for name in "abc"}
            attacker, neighbour, stranger = shares
            yield Vms(daemon, attacker, neighbour, stranger, worker_of(keeper), sockets)
            daemon.check_output()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- what is taken by requests -------------------------------------------------------------------


@dataclass
class Attack:
    """What a guest takes, one by one, and gives back."""

    share: Share
    fids: list[int] = field(default_factory=list)

    most = 100_000
    """After so many it would be no limit."""

    @property
    def client(self) -> Client:
        return self.share.client

    def prepare(self) -> None:
        """Before the first one."""

    def take(self, number: int) -> None:
        """Raises P9Errno at the limit."""

    def give_back(self) -> None:
        while self.fids:
            self.client.clunk(self.fids.pop())

    def take_all(self) -> tuple[int, int | None]:
        """How many it got, and the errno that ended it."""
        for number in range(self.most):
            try:
                self.take(number)
            except P9Errno as error:
                return number, error.errno
        raise AssertionError("there is no limit")


class Fids(Attack):
    """Fids of one file."""

    def take(self, number: int) -> None:
        self.fids.append(self.client.walk_to(self.share.top))


class Files(Attack):
    """Fids of as many files, with long names."""

    def prepare(self) -> None:
        for number in range(FIDS):
            self.share.put(b"%04d" % number + b"x" * 251)

    def take(self, number: int) -> None:
        name = b"%04d" % number + b"x" * 251
        self.fids.append(self.client.walk_to(self.share.top, name))


class DeepFiles(Attack):
    """Fids with long names above them, which nobody has: more than there is memory for names. They
    are as good without."""

    names = [b"%02d" % depth + b"x" * 200 for depth in range(11)]

    def prepare(self) -> None:
        for number in range(FEW):
            os.makedirs(os.path.join(self.share.path(b"%d" % number), *self.names))

    def take(self, number: int) -> None:
        self.fids.append(self.client.walk_to(self.share.top, b"%d" % number, *self.names))
        assert self.client.getattr(self.fids[-1]).nlink == 2


class Values(Attack):
    """The largest values of extended attributes, and then empty ones."""

    def prepare(self) -> None:
        self.share.put("file")

    def take(self, number: int) -> None:
        self.fids.append(self.client.walk_to(self.share.top, b"file"))
        try:
            self.client.xattrcreate(self.fids[-1], b"user.a", XATTR_SIZE_MAX)
        except P9Errno:
            self.client.xattrcreate(self.fids[-1], b"user.a", 0)

    def give_back(self) -> None:
        while self.fids:
            with contextlib.suppress(P9Errno):  # EINVAL: the value is not complete
                self.client.clunk(self.fids.pop())


class LockedFiles(Attack):
    """One file, locked by a process each."""

    def prepare(self) -> None:
        self.share.put("file")

    def take(self, number: int) -> None:
        if not self.fids:
            self.fids.append(self.client.open(self.share.top, b"file", os.O_RDWR))
        got = self.client.lock(self.fids[0], WRLCK, 2 * number, 1, proc_id=number)
        assert got == LOCK_SUCCESS


class LockedRanges(Attack):
    """Ranges of one file, locked by one process."""

    def prepare(self) -> None:
        self.share.put("file")

    def take(self, number: int) -> None:
        if not self.fids:
            self.fids.append(self.client.open(self.share.top, b"file", os.O_RDWR))
        assert self.client.lock(self.fids[0], WRLCK, 2 * number, 1) == LOCK_SUCCESS

    def give_back(self) -> None:
        assert self.client.lock(self.fids[0], UNLCK) == LOCK_SUCCESS
        super().give_back()


VALUES = memory.of_device(FIDS, 4096).values // 2 // XATTR_SIZE_MAX
ATTACKS: list[tuple[type[Attack], str, int, range]] = [
    (Fids, f"max_fids: {FIDS}", errno.EMFILE, range(FIDS - 2, FIDS - 1)),  # two are the share's
    (Files, f"max_fids: {FIDS}", errno.EMFILE, range(FIDS - 2, FIDS - 1)),
    (DeepFiles, f"max_fids: {FEW}", errno.EMFILE, range(FEW - 2, FEW - 1)),
    (Values, "max_xattr: 0", errno.ENOSPC, range(VALUES * 9 // 10, VALUES * 2)),
    (Values, "max_xattr: 50", errno.ENOSPC, range(50, 51)),
    (LockedFiles, "", errno.ENOLCK, range(1000, lock_files.FILES_MAX + 1)),
    (LockedRanges, "", errno.ENOLCK, range(PIECES, PIECES + 2)),
]


@pytest.mark.parametrize("attack,options,error,most", ATTACKS)
def test_what_a_guest_takes_is_limited_and_comes_back(
    attack: type[Attack], options: str, error: int, most: range
) -> None:
    with serving(options) as vms:
        does = attack(vms.attacker)
        does.prepare()
        descriptors = vms.descriptors()
        got, refused = does.take_all()
        assert refused == error
        assert got in most
        vms.others_go_on()
        does.give_back()
        do_everything(vms.attacker, b"after")
        once = vms.resident_kib()
        assert does.take_all() == (got, refused)
        does.give_back()
        assert vms.resident_kib() < once + SLACK_KIB
        vms.others_go_on()
        vms.daemon.wait_until(  # files stay cached for a moment
            lambda: vms.descriptors() <= descriptors + 2, "the descriptors do not come back"
        )


def test_memory_goes_back_with_the_session() -> None:
    """Of names and paths of files, most of all."""
    deep = [b"%03d" % number + b"x" * 250 for number in range(16)]
    with serving("max_fids: 100000") as vms:
        client, above = vms.attacker.client, vms.attacker.top
        for name in deep:
            client.mkdir(above, name)
            above = client.walk_to(above, name)
        before = vms.resident_kib()
        fids = range(5000, 6500)
        for fid in fids:
            client.walk(vms.attacker.top, fid, *deep)
            client.mkdir(fid, b"%d" % fid + b"x" * 240)
            client.walk(fid, fid, b"%d" % fid + b"x" * 240)
        taken = vms.resident_kib() - before
        assert taken > 500  # each has its fid, its inode and its name
        remount(vms.attacker, n_uname=0)
        assert vms.resident_kib() - before < taken * 2 / 3
        do_everything(vms.attacker, b"after")


def test_requests_in_flight_are_limited() -> None:
    """More requests than a device has room for wait in its ring."""
    more = 100
    with serving("throttling: {iops-read: 1}", ring_size=2 * SLOTS) as vms:
        machine, client = vms.attacker.machine, vms.attacker.client
        vms.attacker.put("file", b"data")
        fid = client.open(vms.attacker.top, b"file")
        before = vms.resident_kib()
        for _ in range(SLOTS + more):
            client.submit(T.READ, fid, 0, 4, kick=False)
        client.ring.kick()
        vms.others_go_on()
        requests = memory.of_device(FIDS, 4096).requests // 1024
        assert vms.resident_kib() < before + requests + SLACK_KIB
        machine.stop()  # has all run that the device has taken
        assert finished(client) < SLOTS + more // 2
        while client.in_flight:
            machine.start()
            machine.stop()
            finished(client)
        machine.start()
        assert client.getattr(fid).size == 4  # reads are still held back


def finished(client: Client) -> int:
    """Takes what is back; how many requests."""
    done = client.ring.poll()
    for each in done:
        assert client.wait(client.finish(each.head, each.length)).fields == (b"data",)
    return len(done)


# ---- what a frontend takes -----------------------------------------------------------------------


def test_descriptors_that_a_frontend_sends_do_not_stay() -> None:
    """With messages that need none, with ones that replace others, and on connections that end."""
    with serving() as vms:
        frontend = vms.attacker.machine.frontend
        with contextlib.ExitStack() as stack:
            fds = [os.eventfd(0) for _ in range(8)]
            for fd in fds:
                stack.callback(os.close, fd)
            before, memory_before = vms.descriptors(), vms.resident_kib()
            for _ in range(200):
                frontend.send(Request.GET_FEATURES, b"", fds)
                frontend.receive()
                frontend.send(Request.SET_VRING_CALL, U64.pack(0), fds[:1])
                frontend.send(Request.SET_VRING_ERR, U64.pack(0), fds[1:2])
            frontend.get_features()
            assert vms.descriptors() <= before + 2
            assert vms.resident_kib() < memory_before + SLACK_KIB
        vms.others_go_on()


def turned_away(socket: str) -> None:
    """Connects as a second frontend."""
    frontend = Frontend(socket)
    with pytest.raises((OSError, BackendError)):
        frontend.get_features()
    frontend.close()


def test_connections_do_not_stay() -> None:
    """Neither a second frontend's nor those of one that leaves at once."""
    with serving() as vms:
        before, memory_before = vms.descriptors(), vms.resident_kib()
        for _ in range(100):
            turned_away(vms.sockets["a"])
        vms.attacker.machine.frontend.get_features()
        assert vms.descriptors() <= before + 2
        assert vms.resident_kib() < memory_before + SLACK_KIB
        vms.others_go_on()


def test_regions_come_and_go() -> None:
    """As many as there may be; then the frontend's message fails, and removing makes room."""
    with serving() as vms:
        frontend = vms.attacker.machine.frontend
        before = vms.descriptors()
        fd = os.memfd_create("region")
        os.ftruncate(fd, PAGE)
        for _ in range(2):
            added: list[bytes] = []
            while True:
                at = 1 << 50 | len(added) * MIB
                region = REGION.pack(at, PAGE, at, 0)
                if frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + region, [fd]):
                    break
                added.append(region)
            assert 8 <= len(added) < 509
            vms.others_go_on()
            for region in added:
                assert not frontend.ack(Request.REM_MEM_REG, U64.pack(0) + region)
            assert vms.descriptors() <= before + 20
        os.close(fd)
        do_everything(vms.attacker, b"after")


# ---- the log -------------------------------------------------------------------------------------


def lines_of(vms: Vms) -> int:
    return sum("vhost9p: one: " in line for line in vms.daemon.lines)


def test_a_guest_that_breaks_its_ring_does_not_fill_the_log() -> None:
    with serving() as vms:
        machine = vms.attacker.machine
        for _ in range(log_pipe.BURST // 2):
            machine.ring.publish(machine.ring.size + 7)
            machine.ring.kick(force=True)
            machine.ring.wait_broken()
            machine.reboot()
        assert any("the ring is broken" in line for line in vms.daemon.lines)
        assert lines_of(vms) < log_pipe.BURST // 2
        vms.others_go_on()


def test_whoever_has_taken_over_a_worker_does_not_fill_the_log() -> None:
    with serving() as vms, open(f"/proc/{vms.worker}/fd/2", "wb", buffering=0) as pipe:
        before = lines_of(vms)
        for _ in range(1000):
            pipe.write(b"vhost9p: one: all is well\n" * 100)
        os.kill(vms.worker, signal.SIGKILL)
        vms.daemon.wait_until(
            lambda: any("other" in line for line in vms.daemon.lines), "the other VM's line"
        )
        devices = 2
        assert lines_of(vms) - before < 2 * devices * log_pipe.BURST
        turned_away(vms.sockets["c"])
        vms.daemon.wait_line("vhost9p: other: .*second frontend")
        vms.others_go_on()


# ---- what is said of the limits ------------------------------------------------------------------


def test_the_limits_are_printed(tmp_path: Path) -> None:
    args = ["--socket", str(tmp_path / "s"), "--path", str(tmp_path), *SECURITY]
    args += ["--multidevs", "remap", "--quota-bytes", "1GiB", "--max-fids", "1234"]
    result = run_cli(*args, "--print-limits")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^  fids, .*: 1,234, \d+ MiB; beyond: EMFILE$", result.stdout, re.MULTILINE)
    assert re.search(r"^all of the VM: [\d,]+ MiB; ", result.stdout, re.MULTILINE)
    assert not (tmp_path / "s").exists()


def test_the_sum_holds_what_an_attacker_takes() -> None:
    """The memory that is said to be the most is more than what the attacks take together."""
    options = "max_fids: 20000, max_xattr: 0, msize_max: 65536"
    with serving(options) as vms:
        before = vms.resident_kib()
        attacks = [each(vms.attacker) for each in (Values, LockedRanges)]
        for attack in attacks:
            attack.prepare()
            attack.take_all()
        taken = vms.resident_kib() - before
        device = memory.of_device(20000, 65536)
        pieces = PIECES * limits.RANGE_BYTES
        assert taken * 1024 < device.files + device.values + pieces + 1024 * SLACK_KIB
        vms.others_go_on()
