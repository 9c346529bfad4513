"""The host changes files, and a guest whose agent runs sees what there is: by name, and through
what it holds open, in each cache mode.

The agent works beside a program that looks all the time, so what is stale is cached anew while it
is dropped. Only what stays wrong fails; how long it took is printed.

What Linux's client does not let anybody mend is left out, by cache mode (MODES).
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guest import sights
from tests.guest.following import MOUNT, Following, Program, following
from tests.guest.sights import Sight, Sights, digest_of
from tests.guest.upheaval import Upheaval, stock
from tests.marks import needs_root, needs_uml

pytestmark = [needs_root, needs_uml, pytest.mark.guest]

SHORT, LONG = 24, 1000
PATIENCE = 60.0
HELD = 6
"""Files and directories that are open at a time."""


class Mode(NamedTuple):
    """What a cache mode can follow."""

    links: bool
    """Second names of a file. The host's kernel reports a change under the name by which it was
    made; the others are not asked for (__v9fs_lookup_revalidate), and pages are those of the name
    that is in use."""
    types: bool
    """A symlink in the place of a file that is open: the dentry in use stays, since
    v9fs_dentry_operations has no d_revalidate, and v9fs_refresh_inode_dotl leaves an inode of
    another type as it is."""
    old: bool
    """The contents of an open file whose name is gone: else the inode is the new file's, too, with
    its pages (mmap), or nothing leads to the inode any more (loose), so what was changed at the
    last moment is not seen."""


MODES = {
    "none": Mode(links=True, types=False, old=True),
    "mmap": Mode(links=False, types=False, old=False),
    "loose": Mode(links=False, types=True, old=False),
}


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("number", [SHORT, pytest.param(LONG, marks=pytest.mark.full)])
def test_nothing_stays_stale(cache: str, number: int) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        export = Path(folder)
        export.chmod(0o755)
        with following(export, cache) as guest:
            waits = [wait * 1000 for wait in follow(guest, MODES[cache], number)]
    print(
        f"cache={cache}: until all was right, in ms: median {statistics.median(waits):.0f},"
        f" longest {max(waits):.0f}"
    )


def follow(guest: Following, mode: Mode, number: int, seed: int = 1) -> list[float]:
    """So many rounds of changes; how long each took until the guest saw what there is, in s."""
    top = guest.export / "top"
    top.mkdir()
    choice = random.Random(seed)
    upheaval = Upheaval(top, seed, links=mode.links, types=mode.types)
    names = [*stock()]
    ours = Sights(str(top), names)
    theirs = Program(guest, Path(sights.__file__), f"{MOUNT}/top", *names)
    waits = []
    held: list[str] = []
    for turn in range(number):
        done = [upheaval.change() for _ in range(choice.choice((1, 1, 2, 4)))]
        ours.lose(upheaval.moved)
        upheaval.moved.clear()
        waits.append(agree(ours, theirs, ours.keys(old=mode.old), f"turn {turn}, {done}"))
        path = upheaval.one()
        if path and len(held) == HELD:
            key = held.pop(0)
            ours.release(key)
            theirs.ask(f"release {key}")
        if path:
            held.append(f"{turn}:{path}")
            ours.hold(held[-1], path)
            theirs.ask(f"hold {held[-1]} {path}")
    theirs.end()
    return waits


def agree(ours: Sights, theirs: Program, keys: list[str], what: str) -> float:
    """Returns when both see the same, after how many seconds; fails if they do not."""
    begin = time.monotonic()
    there = ours.look(keys)
    while theirs.ask(" ".join(("look", *keys))) != digest_of(there):
        if time.monotonic() > begin + PATIENCE:
            seen = json.loads(theirs.ask(" ".join(("tell", *keys))))
            pytest.fail(f"{what}: what is seen, and what there is: {differences(seen, there)}")
    return time.monotonic() - begin


def differences(seen: Sight, there: Sight) -> dict[str, tuple[object, object]]:
    """By path or key."""
    return {
        name: (seen.get(name), there.get(name))
        for name in seen.keys() | there.keys()
        if seen.get(name) != there.get(name)
    }
