"""What one guest's worst requests cost another one of the same daemon.

A quiet guest (the driver) attaches one at a time, which Python answers; beside it a loud one, a
process of its own with a client in Python, makes what takes a server longest, over and over.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.bench import servers
from tests.bench.driver import Driver, DriverError, Point, Sample
from tests.frontend.client import SET_SIZE, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.machine import Machine
from tests.frontend.wire import NOFID, T

RING_SIZE = 1024
ROOT_FID = 0
IN_FLIGHT = 64
ATTACHES = 30
NAME = b"/".join([b".."] * 1300)  # 3,899 bytes

_serials = itertools.count(1 << 33)  # of no other run


class Size(NamedTuple):
    """How much the loud guest has."""

    fids: int
    depth: int
    mebibytes: int


def _in_flight(client: Client, count: int, submit: Callable[[int], object]) -> None:
    """Makes requests, a ring's worth at a time."""
    for start in range(0, count, IN_FLIGHT):
        tickets = [submit(number) for number in range(start, min(start + IN_FLIGHT, count))]
        client.ring.kick()
        for ticket in tickets:
            client.wait(ticket)  # type: ignore[arg-type]


def tversion(client: Client, tree: Path, size: Size) -> Iterator[None]:
    """Many fids of one file, all of which a new session ends."""
    while True:
        client.walk(ROOT_FID, 1, b"loud")
        _in_flight(client, size.fids, lambda n: client.submit(T.WALK, 1, n + 2, (), kick=False))
        client.version()
        client.attach(ROOT_FID, aname=os.fsencode(tree.name))
        yield


def attach(client: Client, tree: Path, size: Size) -> Iterator[None]:
    """Long ways to the root."""
    fields = (b"", NAME, 0xFFFFFFFF)
    while True:
        tickets = [client.submit(T.ATTACH, n + 2, NOFID, *fields) for n in range(ATTACHES)]
        for number, ticket in enumerate(tickets):
            client.wait(ticket)
            client.clunk(number + 2)
        yield


def rename(client: Client, tree: Path, size: Size) -> Iterator[None]:
    """A file far below the root, by its fid."""
    client.walk(ROOT_FID, 2)
    for _ in range(size.depth):
        client.mkdir(2, b"d")
        client.walk(2, 2, b"d")
    client.walk(2, 3)
    client.create(3, b"old")
    client.walk(2, 4, b"old")
    for name in itertools.cycle((b"new", b"old")):
        client.rename(4, 2, name)
        yield


def truncate(client: Client, tree: Path, size: Size) -> Iterator[None]:
    """A large file with holes."""
    with (tree / "large").open("wb") as file:
        client.walk(ROOT_FID, 2, b"large")
        while True:
            for at in range(0, size.mebibytes << 20, 8192):
                os.pwrite(file.fileno(), b"x", at)
            client.setattr(2, SET_SIZE, size=0)
            yield


def renameat(client: Client, tree: Path, size: Size) -> Iterator[None]:
    """As many renames as are allowed in flight, of a file to its own name."""
    names = (ROOT_FID, b"loud", ROOT_FID, b"loud")
    while True:
        _in_flight(client, 16 * IN_FLIGHT, lambda n: client.submit(T.RENAMEAT, *names, kick=False))
        yield


WORK: dict[str, tuple[type[Client], Callable[[Client, Path, Size], Iterator[None]]]] = {
    "Tversion with many fids (9P2000.u)": (DialectUClient, tversion),
    "Tattach, 4,000 bytes, 30 at a time": (Client, attach),
    "Trename by fid, far down": (Client, rename),
    "Tsetattr: a large file of holes to size 0": (Client, truncate),
    "Trenameat, 64 at a time": (Client, renameat),
}


def _be_loud(title: str, socket: str, tree: Path, size: Size, parent: Connection) -> None:
    """In a process of its own: one line to the parent once it has begun, then on until it says so,
    and how often at the end."""
    speaks, work = WORK[title]
    with Machine(socket, ring_size=RING_SIZE) as machine:
        machine.boot()
        client = speaks(machine)
        client.version()
        client.attach(ROOT_FID, aname=os.fsencode(tree.name))
        for times, _ in enumerate(work(client, tree, size), 1):
            if times == 1:
                parent.send(0)
            if parent.poll():
                parent.send(times)
                return


def _beside(
    quiet: Callable[[], Sample], title: str, socket: str, tree: Path, size: Size
) -> tuple[Sample, int]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    loud = multiprocessing.get_context("spawn").Process(
        target=_be_loud, args=(title, socket, tree, size, theirs)
    )
    loud.start()
    theirs.close()
    try:
        ours.recv()
        sample = quiet()
        ours.send(None)
        return sample, int(ours.recv())
    except EOFError as error:
        raise DriverError(f"the loud guest has failed: {title}") from error
    finally:
        loud.join()


def isolation(
    program: Path, trees: Sequence[Path], milliseconds: int, rounds: int, size: Size
) -> str:
    """The quiet guest's latency alone, and beside each."""
    point = Point("attach", 1, "call")
    found: dict[str, list[Sample]] = {"nothing": []}
    with TemporaryDirectory(prefix="v9b-") as name:
        sockets = [f"{name}/{number}.sock" for number in range(2)]
        config = Path(name) / "config.yaml"
        config.write_text(
            "devices:\n"
            + "".join(
                f"  - {{socket: {path}, path: {tree}, tag: {tree.name}, multidevs: remap,"
                f" security_model: passthrough, max_fids: {size.fids + 1000}}}\n"
                for path, tree in zip(sockets, trees, strict=True)
            )
        )
        with (
            Daemon("--config", str(config), socket=False) as daemon,
            servers.connected(sockets[0], daemon.worker) as queue,
            closing(Driver(program, trees[0], queue)) as driver,
        ):

            def quiet() -> Sample:
                return driver.run(point, milliseconds, next(_serials))

            for turn in range(rounds):
                for number, title in enumerate(WORK):
                    found["nothing"].append(quiet())
                    below = trees[1] / f"{turn}-{number}"
                    below.mkdir()
                    (below / "loud").touch()
                    sample, _ = _beside(quiet, title, sockets[1], below, size)
                    found.setdefault(title, []).append(sample)
    alone = statistics.median(sample.p99_ns for sample in found["nothing"])
    rows = []
    for title, samples in found.items():
        rate = statistics.median(sample.ops * 1e9 / sample.ns for sample in samples)
        p50 = statistics.median(sample.p50_ns for sample in samples)
        p99 = statistics.median(sample.p99_ns for sample in samples)
        cells = (title, f"{rate:,.0f}", f"{p50 / 1000:,.0f}", f"{p99 / 1000:,.0f}")
        rows.append(f"| {' | '.join(cells)} | {p99 / alone:.1f} |")
    head = "| beside a guest that makes | ops/s | p50 µs | p99 µs | p99, times that alone |"
    title = "**A Tattach at a time, while another guest of the same daemon makes its worst**\n"
    return "\n".join((title, head, "| --- | --: | --: | --: | --: |", *rows))
