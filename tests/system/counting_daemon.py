"""Runs a vhost9p command that says how many requests each death has cut off:
`python -m tests.system.counting_daemon COMMAND…`.

These requests had been taken from the ring and were not answered when the worker died.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from unittest.mock import patch

from vhost9p.__main__ import main
from vhost9p.device import Device

WRAPPER = (sys.executable, "-m", "tests.system.counting_daemon")
CUT_OFF = "requests were cut off"
_take_over = Device._take_over


def take_over(self: Device) -> None:
    """As always. No request runs before that."""
    print(f"{self.stats().inflight} {CUT_OFF}", flush=True)
    _take_over(self)


def cut_off(lines: Sequence[str]) -> list[int]:
    """How many requests each death has cut off, by what the daemon has printed."""
    counts = [re.search(rf"(\d+) {CUT_OFF}$", line) for line in lines]
    return [int(found[1]) for found in counts if found]


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
    with patch.object(Device, "_take_over", take_over):
        sys.exit(main())
