"""Measures what a throttled export lets through: `python -m tests.measure_throttle [SECONDS]`.

A guest (the test frontend) keeps 100 requests in flight for each setting. Printed are the rate over
the whole time, the configured limit with the burst that it allows, and by how much they differ; for
bursts also the rate while the burst lasts and after it. On a machine that is busy otherwise, run it
under `chrt -f 5`: a client that gets no processor falls short of any rate.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.frontend.client import Client, Ticket
from tests.frontend.daemon import Daemon
from tests.frontend.wire import T
from tests.system.share import SECURITY, mounted

KIB, MIB = 1024, 1024 * 1024
IN_FLIGHT = 100


class Setting(NamedTuple):
    """A limit, and requests that run into it."""

    pairs: tuple[str, ...]
    kind: int
    size: int
    """Bytes of a request."""
    unit: int
    """Bytes that count as one; 0: each request counts as one."""
    avg: int
    room: float
    """What may go at once, before the rate holds."""
    burst: tuple[int, float] = (0, 0.0)
    """The rate of a burst, and how long it lasts in seconds."""


SETTINGS = [
    Setting(("bps-read=10MiB",), T.READ, 64 * KIB, 1, 10 * MIB, MIB),
    Setting(("bps-write=10MiB",), T.WRITE, 64 * KIB, 1, 10 * MIB, MIB),
    Setting(("bps-total=300000",), T.READ, 4 * KIB, 1, 300_000, 30_000),
    Setting(("bps-total=100MiB",), T.READ, 128 * KIB, 1, 100 * MIB, 10 * MIB),
    Setting(("iops-read=500",), T.READ, 4 * KIB, 0, 500, 50),
    Setting(("iops-write=2000",), T.WRITE, 512, 0, 2000, 200),
    Setting(("iops-total=1000", "iops-size=4KiB"), T.READ, 16 * KIB, 4 * KIB, 1000, 100),
    Setting(("bps-read=5MiB", "bps-read-max=40MiB"), T.READ, 64 * KIB, 1, 5 * MIB, 40 * MIB),
    Setting(
        ("bps-read=5MiB", "bps-read-max=20MiB", "bps-read-max-length=3"),
        T.READ,
        64 * KIB,
        1,
        5 * MIB,
        60 * MIB,
        (20 * MIB, 60 / 15),
    ),
    Setting(
        ("iops-write=200", "iops-write-max=1000", "iops-write-max-length=2"),
        T.WRITE,
        512,
        0,
        200,
        2000,
        (1000, 2000 / 800),
    ),
]


def run(client: Client, fid: int, setting: Setting, seconds: float) -> list[float]:
    """When each request was answered, in seconds from the beginning."""
    data = bytes(setting.size)
    left: set[Ticket] = set()
    times = []

    def submit() -> None:
        if setting.kind == T.READ:
            left.add(client.submit(T.READ, fid, 0, setting.size))
        else:
            left.add(client.submit(T.WRITE, fid, 0, data))

    begin = time.monotonic()
    for _ in range(IN_FLIGHT):
        submit()
    while time.monotonic() - begin < seconds:
        done = client.reap()
        now = time.monotonic() - begin
        left.difference_update(done)
        times += [now] * len(done)
        for _ in done:
            submit()
    client.machine.stop()
    return [each for each in times if each < seconds]


def report(setting: Setting, times: list[float], seconds: float) -> None:
    """Two lines at most."""
    each = setting.size / setting.unit if setting.unit else 1
    moved, expected = each * len(times), setting.room + setting.avg * seconds
    name = " ".join(setting.pairs)
    print(f"{name}: {moved / seconds:.0f}/s, {expected / seconds:.0f}/s expected, "
          f"{(moved / expected - 1) * 100:+.2f} %")  # fmt: skip
    rate, length = setting.burst
    if rate:
        during = each * sum(at < length for at in times) / length
        after = each * sum(at >= length for at in times) / (seconds - length)
        print(f"    burst of {length:.1f} s: {during:.0f}/s of {rate}/s; "
              f"then {after:.0f}/s of {setting.avg}/s")  # fmt: skip


def main() -> None:
    """Every setting, one after the other."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    export = Path(tempfile.mkdtemp(prefix="v9-throttle-"))
    (export / "file").write_bytes(bytes(MIB))
    try:
        for setting in SETTINGS:
            limits = [word for pair in setting.pairs for word in ("--throttling", pair)]
            with (
                Daemon("--path", str(export), *SECURITY, *limits) as daemon,
                mounted(daemon, export) as share,
            ):
                fid = share.client.open(share.top, b"file", os.O_RDWR)
                times = run(share.client, fid, setting, seconds)
            report(setting, times, seconds)
    finally:
        shutil.rmtree(export)


if __name__ == "__main__":
    main()
