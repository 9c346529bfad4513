"""Every descriptor that is opened for a device passes csrc/base/budget.h, and is closed through
it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENS = re.compile(r"\b(?:open|openat|open_by_handle_at|memfd_create)\(|\bSYS_openat2\b|\bF_DUPFD_")
OWN = {
    "export/export.c": 2,  # an export's root and /proc/self/fd, when it is made
    "server/ring_setup.c": 1,  # the kick descriptor
    "virtio/guest_memory.c": 1,  # a region of guest memory: v9_device_mem_add bounds them
    "export/mounts.c": 1,  # the table of mounts, when an export is made
    "request/notify.c": 2,  # a call or err descriptor, by either way
    "export/qidmap.c": 1,  # a map's arena
    "export/credentials.c": 1,  # what v9_cred_create calls through V9_OPEN
    "sandbox/landlock.c": 1,  # each path, before serving
    "sandbox/root_directory.c": 1,  # /proc, before serving
    "sandbox/system_calls.c": 1,  # opens nothing: SYS_openat2 is in the list
    "server/workers.c": 1,  # whether a thread sleeps, for a moment
}
"""How many descriptors are opened elsewhere: the process's own, which v9_budget_begin has seen."""
SOURCES = [path for path in sorted((ROOT / "csrc").rglob("*.c")) if path.parent.name != "guest"]
"""The daemon's: the guest's agent is no part of it."""
CLOSES = {
    "base/budget.c",
    "virtio/guest_memory.c",
    "export/mounts.c",
    "export/dir_marks.c",
    "base/shrinker.c",
    "export/qidmap.c",
    "sandbox/landlock.c",
    "sandbox/root_directory.c",
    "server/workers.c",
}
"""Files with a close(2) of their own."""


def code(path: Path) -> str:
    """A C file without its comments."""
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.stem not in ("budget", "shrinker")],
    ids=lambda path: path.name,
)
def test_c_opens_within_the_budget(path: Path) -> None:
    text = code(path)
    beside = 0
    for found in OPENS.finditer(text):
        statement = re.split(r"[;{}]", text[: found.start()])[-1]
        beside += "V9_OPEN(" not in statement
    assert beside == OWN.get(str(path.relative_to(ROOT / "csrc")), 0), (
        f"{beside} descriptors are opened without V9_OPEN"
    )
    if str(path.relative_to(ROOT / "csrc")) not in CLOSES:
        assert not re.search(r"(?<![\w.>])close\(", text), "close(2) instead of v9_budget_close"


@pytest.mark.parametrize("folder", ["p9", "fs"])
def test_python_closes_within_the_budget(folder: str) -> None:
    for path in sorted((ROOT / "vhost9p" / folder).glob("*.py")):
        if path.name != "tree.py":  # at the start
            assert not re.search(r"\bos\.(?:close|dup)\(", path.read_text()), path.name
