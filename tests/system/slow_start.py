"""Runs a vhost9p command whose quotas take for ever to count: `python -m tests.system.slow_start
COMMAND…`."""

import sys
import time
from unittest.mock import patch

from vhost9p.__main__ import main


def _scan(*_: object) -> None:
    print("counting", flush=True)
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
    with patch("vhost9p.policy.quota.scan", _scan):
        sys.exit(main())
