"""What the daemon logs: each warning and error says what it concerns, and is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vhost9p.log_record import FIELDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vhost9p"
LEVELS = {"warning", "error", "critical", "exception", "log"}
OF_A_DEVICE = {"fs", "native", "p9", "policy"}
"""Packages that serve one device and log within `concerning`."""
OF_THE_DAEMON = re.compile(
    r"(answers|control|metrics)/|(daemon|predecessor|single_vm|upgrade|upgrading_daemon|vm_folder|worker)\.py"
)
"""Files with messages that concern all VMs: they say `extra=about()`."""
OF_A_KEEPER = "keeper.py"
"""It logs for its VM alone, and main enters which one."""
EXPLAINED_THEMSELVES = re.compile(
    r"ends? by an error of its own|a bug, report it|the new version says|until the next SIGHUP"
    r"|SIGTERM ends it|restarted in order|is restarted: |nothing can be added until"
    r"|remove it yourself"
    r"|restart (?:what held|that)|ulimit -n|umount in the guest|set rescan|mount again"
    r"|(?:is|are) tried again|Export it separately|multidevs: remap|serves again once"
)
"""What messages say that have their remedy in them, or leave nothing to do but to report a bug."""


class Call(NamedTuple):
    """Something is logged."""

    file: str
    line: int
    logger: str
    level: str
    text: str
    extra: ast.expr | None

    @property
    def where(self) -> str:
        return f"vhost9p/{self.file}:{self.line}"


def text_of(node: ast.expr) -> str:
    """The text of a message; what it leaves open is `%s`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(each.value) if isinstance(each, ast.Constant) else "%s" for each in node.values
        )
    return "%s"


def calls() -> Iterator[Call]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            logger = ast.unparse(node.func.value)
            if logger not in {"log", "self._log"} or node.func.attr not in LEVELS:
                continue
            extra = next((each.value for each in node.keywords if each.arg == "extra"), None)
            first = node.args[1 if node.func.attr == "log" else 0]
            file = str(path.relative_to(PACKAGE))
            yield Call(file, node.lineno, logger, node.func.attr, text_of(first), extra)


CALLS = [each for each in calls() if each.file not in {"device_log.py", "output.py"}]


def test_there_are_messages() -> None:
    assert len(CALLS) > 40


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.where)
def test_what_is_logged_says_what_it_concerns(call: Call) -> None:
    if call.logger == "self._log" or call.file == OF_A_KEEPER:
        return  # a DeviceLog, or main, says it
    if call.extra is None:
        assert call.file.split("/")[0] in OF_A_DEVICE, call.where
        return
    said = ast.unparse(call.extra)
    if said == "about()":
        assert OF_THE_DAEMON.match(call.file), call.where
    elif said not in {"self._about", "state._about"}:  # of SharedState, which is a socket's
        assert isinstance(call.extra, ast.Call) and ast.unparse(call.extra.func) == "about"
        names = [each.arg for each in call.extra.keywords if each.arg]
        assert set(names) <= set(FIELDS), call.where
        assert "%" in call.text or not names, f"{call.where}: the text has to name it, too"


def code(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def documented() -> list[str]:
    """The pieces of the messages in docs/troubleshooting.md."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    text += (ROOT / "docs/upgrade.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return [
        piece.strip()
        for cell in cells
        for message in code(cell)
        for piece in message.split("…")
        if len(piece.strip()) >= 8
    ]


DOCUMENTED = documented()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.where)
def test_what_is_logged_has_a_remedy(call: Call) -> None:
    """In the message itself, or in the documents."""
    if EXPLAINED_THEMSELVES.search(call.text) or not re.search("[a-z]{3}", call.text):
        return
    assert any(piece in call.text for piece in DOCUMENTED), f"{call.where}: {call.text}"
