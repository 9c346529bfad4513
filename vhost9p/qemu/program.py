"""A QEMU program: whether it has the device, and of which version it is.

It is asked with `-device help`, which every QEMU answers before it makes a machine or opens a file.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from vhost9p.qemu.options import FIRST_VERSION, FRONTEND

NAME = re.compile(r"qemu(-kvm|-system-\w+)?")
PATIENCE_S = 30.0
"""Seconds for an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a QEMU says of itself."""

    version: str
    has_frontend: bool


def ask(command: Sequence[str]) -> Answer:
    """Asks the QEMU that a command line starts. Raises OSError if it cannot be started, ValueError
    if what it answers is not QEMU's."""
    devices = _output([*command, "-device", "help"])
    if "virtio" not in devices:
        raise ValueError(f"{command[0]} does not answer -device help as QEMU does")
    found = re.search(r"version (\d[\w.]*)", _output([*command, "-version"]))
    return Answer(found[1] if found else "", f'"{FRONTEND}"' in devices)


def why_no_frontend(program: str) -> str | None:
    """Returns why a QEMU has no device for the daemon; None if it has one, or does not say. By its
    name it has to be QEMU: a script may start the VM whatever it is given."""
    if not NAME.fullmatch(os.path.basename(program)):
        return None
    try:
        answer = ask([program])
    except (OSError, ValueError):
        return None
    if answer.has_frontend:
        return None
    return lacks_frontend(answer)


def lacks_frontend(answer: Answer) -> str:
    """Returns the line about a QEMU without the device."""
    version = f"QEMU {answer.version}" if answer.version else "this QEMU"
    return f"{version} has no {FRONTEND}: QEMU {FIRST_VERSION} or newer is needed"


def _output(command: Sequence[str]) -> str:
    """Raises OSError."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return (done.stdout + done.stderr).decode(errors="replace")
