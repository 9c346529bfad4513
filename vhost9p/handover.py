"""What main leaves to the version of the code that takes its place, and the environment variable by
which that finds it.

Main executes the new code in its own process, so the pid, the children and the descriptors stay.
The rest is text: a file in memory with JSON. The new code gets it twice, with the same command
line: first in a child, which only tries whether it can go on (upgrade.py), then in main itself.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from vhost9p import memory_file
from vhost9p.saved_state import Unreadable

VARIABLE = "VHOST9P_HANDOVER"
"""Its value: "try" or "go", and the number of the file's descriptor."""
FORMAT = 1
"""Of the text; docs/upgrade.md describes it."""
READY = "ready"
"""What new code that can go on answers, as its last line."""


@dataclass(frozen=True)
class Handover:
    """What the version before has left. With `only_tries` nothing may happen but the answer."""

    only_tries: bool
    written: dict[str, Any]

    def answer(self) -> NoReturn:
        """Ends the process that only tries: it can go on."""
        print(READY, flush=True)
        sys.exit(0)


def write(main: dict[str, Any]) -> int:
    """Writes what main knows. Returns the descriptor. Raises OSError."""
    fd = memory_file.create("vhost9p-handover")
    with os.fdopen(os.dup(fd), "w", encoding="utf-8") as file:
        file.write(text(main))
    return fd


def environment(fd: int, *, only_tries: bool) -> dict[str, str]:
    """Returns the environment of the new code."""
    return {**os.environ, VARIABLE: f"{'try' if only_tries else 'go'} {fd}"}


def command() -> list[str]:
    """Returns the command line of this process, for the interpreter that it was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


def is_due() -> bool:
    """Whether a version before this one has left something."""
    return VARIABLE in os.environ


def received() -> Handover | None:
    """Returns what a version before this one has left, once; None if nobody has. Raises Unreadable,
    OSError."""
    value = os.environ.pop(VARIABLE, "")
    if not value:
        return None
    purpose, _, number = value.partition(" ")
    with os.fdopen(int(number), encoding="utf-8") as file:
        file.seek(0)
        written = parse(file.read())
    return Handover(purpose == "try", written)


def text(main: Mapping[str, Any]) -> str:
    """Returns what main knows as text."""
    return json.dumps({"format": FORMAT, **main})


def parse(text: str) -> dict[str, Any]:
    """Reads what `text` has returned. Raises Unreadable."""
    try:
        written = dict(json.loads(text))
    except ValueError:
        raise Unreadable("what the process before has written down is no JSON") from None
    if written.get("format") != FORMAT:
        raise Unreadable(
            f"the old version has written down what it knows in format {written.get('format')}, "
            f"and this version reads {FORMAT} only"
        )
    return written
