"""Descriptors that are fewer than expected, shared by guests, and far fewer than fids."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.bench.scale import SHARED, mapped_bytes
from tests.frontend.daemon import Daemon
from tests.system.eviction.crowd import (
    AS_USER,
    CROWD,
    LIMIT,
    Place,
    age,
    evict,
    look_at_many,
    mkdir,
    put,
    serving,
)
from tests.system.share import (
    Share,
    mounted,
)


def limit_files(share: Share, place: Place, limit: int) -> None:
    """Sets the daemon's limit; its user may, where root needs a capability for it (prlimit(2))."""
    command = ["prlimit", f"--pid={share.daemon.worker}", f"--nofile={limit}:"]
    user = [] if place.privileged else AS_USER
    subprocess.run([*user, *command], cwd="/", check=True)


def test_descriptors_that_run_out_early_are_evicted(place: Place) -> None:
    """Descriptors run out before the daemon expects it: some are given up, and it tries again."""
    with serving(place, 4 * LIMIT) as share:
        client = share.client
        mkdir(share, "d")
        for i in range(2 * LIMIT):
            put(share, f"d/{i}", str(i))
        age()
        above = client.walk_to(share.top, b"d")
        early = [client.walk_to(above, b"%d" % i) for i in range(LIMIT)]
        limit_files(share, place, LIMIT)
        late = [client.walk_to(above, b"%d" % i) for i in range(LIMIT, 2 * LIMIT)]
        for i, fid in enumerate(early + late):
            client.lopen(fid, os.O_RDONLY)
            assert client.read(fid, 0, 10) == str(i).encode()
        for i in range(LIMIT):
            created = client.walk_to(above)
            client.lcreate(created, b"new%d" % i, os.O_RDWR, 0o600, 0)
            if not place.privileged:
                client.clunk(created)  # open for writing it would keep its descriptor
        limit_files(share, place, 4 * LIMIT)


@pytest.mark.parametrize("parent", [tempfile.gettempdir(), "/dev/shm"])
def test_a_guest_evicts_for_another_one(parent: str) -> None:
    """One that has taken nearly everything gives up for another."""
    folders = [tempfile.mkdtemp(prefix="v9-two-", dir=parent) for _ in range(2)]
    sockets = tempfile.mkdtemp(prefix="v9-")
    config = Path(sockets) / "config.yaml"
    config.write_text(
        "devices:\n"
        + "".join(
            f"  - {{socket: {sockets}/{i}, tag: t{i}, path: {folder}, security_model: none}}\n"
            for i, folder in enumerate(folders)
        )
    )
    daemon = Daemon(
        "--config", str(config), socket=False, wrapper=["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    )
    with daemon, contextlib.ExitStack() as stack:
        shares = []
        for i, folder in enumerate(folders):
            daemon.socket = f"{sockets}/{i}"
            shares.append(stack.enter_context(mounted(daemon, Path(folder))))
        for share in shares:
            look_at_many(share, directories=4, files=CROWD // 4)
        counts = [
            sum(path.startswith(folder) for path in daemon.fds().values()) for folder in folders
        ]
        assert min(counts) > LIMIT // 10, counts
        for share in shares:
            evict(share)
    for folder in (*folders, sockets):
        shutil.rmtree(folder)


def memory(daemon: Daemon) -> int:
    """Bytes that the daemon takes for itself: its own memory and the fid table, not the guest's."""
    return mapped_bytes(daemon.worker, SHARED) + daemon.anonymous_kib() * 1024


@pytest.mark.full
@pytest.mark.parametrize("evicted", [False, True], ids=["descriptors", "evicted"])
@pytest.mark.parametrize("privileged", [True, False], ids=["root", "user"])
def test_half_a_million_fids_are_served_with_4096_descriptors(
    privileged: bool, evicted: bool
) -> None:
    """500,000 live fids under `ulimit -n 4096`; what each takes of memory is printed (-s), and for
    comparison what one takes that keeps its descriptor, with as many as may be open."""
    place = Place(tempfile.gettempdir(), privileged)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4096 if evicted else allowed
    directories = 500 if evicted else min(allowed // 1200, 500)
    with serving(place, limit) as share:
        fids = look_at_many(share, directories // 2, 1000)
        before, count = memory(share.daemon), len(fids)
        fids |= look_at_many(share, directories // 2, 1000, directories // 2)
        each = (memory(share.daemon) - before) / (len(fids) - count)
        print(
            f"\n{len(fids)} fids of as many files, {share.daemon.fd_count()} descriptors: "
            f"{each:.0f} bytes of the daemon's memory for one more"
        )
        for number, (fid, ino) in enumerate(fids.items()):
            if number % 7 == 0:
                assert share.client.getattr(fid).qid.path == ino


def test_prlimit_limits_the_descriptors_of_its_command() -> None:
    """The wrapper that these tests rely on."""
    reported = subprocess.run(
        ["prlimit", "--nofile=99:99", "sh", "-c", "ulimit -n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert reported.stdout.strip() == "99"
