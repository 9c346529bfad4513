"""Runs a vhost9p command whose devices may mark few directories:
`python -m tests.system.few_marks COMMAND…`."""

from __future__ import annotations

import sys
from unittest.mock import patch

from vhost9p.__main__ import main
from vhost9p.marked import reader

WRAPPER = (sys.executable, "-m", "tests.system.few_marks")
MARKS = 8

if __name__ == "__main__":
    sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
    with patch.multiple(reader, MARKS_MAX=MARKS, ANEW_REST_S=0.01, FULL_REST_S=0.1):
        sys.exit(main())
