"""The host changes files, and a guest whose agent runs sees what there is: by name, and through
what it holds open, in each cache mode.

The agent works beside a program that looks all the time, so what is stale is cached anew while it is
dropped. Only what is wrong for good fails.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import pytest

from tests.guest import sights, uml_kernel
from tests.guest.following import MOUNT, Following, Program, following
from tests.guest.sights import Sights, digest_of
from tests.guest.upheaval import Upheaval, stock

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root")
built = pytest.mark.skipif(
    not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
)
pytestmark = [needs_root, built, pytest.mark.guest]

PATIENCE = 20.0
HELD = 6


def rounds(guest: Following, seed: int, number: int, links: bool, old: bool, types: bool) -> list[float]:
    """So many changes; how long each took until the guest saw all of it, in s."""
    choice = random.Random(seed)
    top = guest.export / "top"
    top.mkdir()
    upheaval = Upheaval(top, seed, links=links, types=types)
    names = [*stock()]
    ours = Sights(str(top), names)
    theirs = Program(guest, Path(sights.__file__), f"{MOUNT}/top", *names)
    waits = []
    done = []
    held: list[str] = []
    for turn in range(number):
        done = [upheaval.change() for _ in range(choice.choice((1, 1, 2, 4)))]
        begin = time.monotonic()
        looks = 0
        ours.lose(upheaval.moved)
        upheaval.moved.clear()
        keys = ours.keys(old=old)
        while theirs.ask(f"look {' '.join(keys)}") != digest_of(ours.look(keys)):
            looks += 1
            if time.monotonic() > begin + PATIENCE:
                seen, there = json.loads(theirs.ask(f"tell {' '.join(keys)}")), json.loads(json.dumps(ours.look(keys)))
                wrong = {
                    k: (seen.get(k), there.get(k))
                    for k in {**seen, **there}
                    if seen.get(k) != there.get(k)
                }
                if "DEBUG" in os.environ:
                    for name in wrong:
                        name=name.split(":")[-1].removeprefix("held ")
                        print(guest.guest.run(f"cd /sys/kernel/tracing; echo > trace; echo 1 > events/9p/enable; ls -la {MOUNT}/top/{name}; cat {MOUNT}/top/{name} | head -c 100 ; echo 0 > events/9p/enable; grep -v '#' trace|grep dump -A7; cat {MOUNT}/.vhost9p/../top/$(dirname {name})/. ; exit 0").text[:8000])
                    print((guest.shared/"agent.out"), guest.agent.stdout[-1500:].decode(), guest.agent.stderr.decode())
                pytest.fail(f"seed {seed}, turn {turn}, {done}: seen, there: {wrong}")
        waits.append(time.monotonic() - begin)
        if (path := upheaval.one()):
            if len(held) >= HELD:
                key = held.pop(0)
                ours.release(key)
                theirs.ask(f"release {key}")
            key = f"{turn}:{path}"
            ours.hold(key, path)
            theirs.ask(f"hold {key} {path}")
            held.append(key)
    theirs.end()
    return waits


@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
def test_nothing_stays_stale(cache: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        export = Path(folder)
        export.chmod(0o755)
        with following(export, cache) as guest:
            waits = rounds(guest, int(os.environ.get("SEED", "1")), int(os.environ.get("N", "40")), links=cache == "none", old=cache == "none", types=cache=="loose")
    print(f"cache={cache}: until it was right: median {statistics.median(waits) * 1000:.1f} ms, longest {max(waits) * 1000:.1f} ms")
