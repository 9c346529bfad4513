"""Changes by the host, and when a program in the guest sees them.

Belongs here: what is changed and how the time is taken. The clocks of both sides are compared by
the fastest of some questions and answers, so a time may be wrong by half of what that took.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.changes import probe
from tests.guest.following import MOUNT, Following, Program

FOLDER = "watched"
FILE = "file"
WAYS = ("inotify", "by name", "open file")
"""How a program sees a change: it is woken; it opens the file by name; it has it open."""
PATIENCE = 3.0
"""Seconds after which a change counts as not seen."""
IN_VAIN = 3
"""Edits at the beginning that are not seen, behind which no others will be."""
QUESTIONS = 100
SETTLE_S = 0.05
"""Seconds before a change in which nothing happens."""


@dataclass(frozen=True)
class Times:
    """From changes until they were seen, in ms; None: not within PATIENCE."""

    all: Sequence[float | None]

    def __str__(self) -> str:
        """Median and 99th percentile."""
        seen = sorted(each for each in self.all if each is not None)
        if not seen:
            return "not seen"
        last = seen[math.ceil(0.99 * len(seen)) - 1]
        missed = len(self.all) - len(seen)
        lost = f", {missed} of {len(self.all)} not seen" if missed else ""
        return f"{statistics.median(seen):.1f} / {last:.1f}{lost}"


class Eyes:
    """The program in the guest, and a directory of the host that it looks at."""

    def __init__(self, following: Following) -> None:
        self.folder = following.export / FOLDER
        self._program = Program(following, Path(probe.__file__), f"{MOUNT}/{FOLDER}", str(PATIENCE))
        self.uncertainty, self._ahead = min(self._compare() for _ in range(QUESTIONS))
        """In ns: how far off a time may be; how far the guest's clock is ahead."""

    def _compare(self) -> tuple[int, int]:
        begin = time.monotonic_ns()
        theirs = int(self._program.ask("clock"))
        end = time.monotonic_ns()
        return (end - begin) // 2, theirs - (begin + end) // 2

    def time(self, order: str, change: Callable[[], object]) -> float | None:
        """Changes something once the guest obeys an order; how long until it saw that, in ms."""
        self._program.ask("ready")
        self._program.tell(order)
        time.sleep(SETTLE_S)
        begin = time.monotonic_ns()
        change()
        seen = int(self._program.answer())
        return (seen - self._ahead - begin) / 1e6 if seen else None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The guest has the file open."""
        self._program.ask(f"open {FILE}")
        yield
        self._program.ask(f"close {FILE}")

    def ask(self, order: str) -> float | None:
        """When it was done, in ms of the host's clock; None if it was not."""
        done = int(self._program.ask(order, 2 * probe.ALL_PATIENCE_S))
        return (done - self._ahead) / 1e6 if done else None


def edits(eyes: Eyes, number: int) -> dict[str, Times]:
    """So many edits of a file in place, for each way of WAYS."""
    path = eyes.folder / FILE
    texts = (f"edit-{turn}-" + "x" * turn for turn in range(3 * number))

    def edit(order: str) -> float | None:
        text = next(texts)
        return eyes.time(order.replace("TEXT", text), lambda: rewrite(path, text))

    found = {"inotify": _times(edit, f"watch {FILE}", number)}
    found["by name"] = _times(edit, f"name {FILE} TEXT", number)
    with eyes.opened():
        found["open file"] = _times(edit, f"descriptor {FILE} TEXT", number)
    return found


def _times(edit: Callable[[str], float | None], order: str, number: int) -> Times:
    """Of so many edits; of few if none of these is seen, where nothing leads to that."""
    times: list[float | None] = []
    while len(times) < number and (len(times) < IN_VAIN or any(times)):
        times.append(edit(order))
    return Times(times)


def rewrite(path: Path, text: str) -> None:
    """Longer text in the place of shorter one: with one system call."""
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())


@dataclass(frozen=True)
class Burst:
    """Many files changed at once."""

    files: int
    written: float
    """Seconds that it took the host."""
    right: float | None
    """Seconds from its end until the guest saw all of them right by name."""
    overflows: int
    """How often the agent was told that lines are missing."""


def burst(following: Following, eyes: Eyes, directories: int, files: int) -> Burst:
    """The host changes all files of some directories within a second, the guest has read each."""
    order = f"all {directories} {files}"
    eyes.ask(f"{order} old")
    before = overflows(following)
    begin = time.monotonic()
    for number in range(directories * files):
        rewrite(eyes.folder / f"d{number // files}" / f"f{number % files}", "other")
        if number % files == 0:
            time.sleep(max(0.0, begin + number / (directories * files) - time.monotonic()))
    end = time.monotonic()
    seen = eyes.ask(f"{order} other")
    right = None if seen is None else max(0.0, seen / 1000 - end)
    return Burst(directories * files, end - begin, right, overflows(following) - before)


def overflows(following: Following) -> int:
    """How often the agent has said so."""
    return following.agent.stderr.count(b"changes were lost")
