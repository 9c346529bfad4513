"""Huge pages for tests, on hosts that have set none aside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest import cache

_OVERCOMMIT = Path("/proc/sys/vm/nr_overcommit_hugepages")


def _free() -> int:
    """Pages that may be taken without any being set aside."""
    found = re.search(r"^HugePages_Free:\s+(\d+)$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _allow(more: int) -> None:
    """Has the kernel make so many more on demand; other tests may do the same at any time."""
    with cache.locked("huge-pages"):
        _OVERCOMMIT.write_text(str(int(_OVERCOMMIT.read_text()) + more))


@contextmanager
def available(pages: int) -> Iterator[None]:
    """During the block so many can be had. Raises OSError where they cannot: who is not root may
    not ask for them, and a kernel may have none."""
    if _free() >= pages:
        yield
        return
    _allow(pages)
    try:
        yield
    finally:
        _allow(-pages)
