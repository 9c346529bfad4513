"""Which code opens files of the host: one function in C opens what is there for reading or writing,
and it looks first at what that is. Everything else holds O_PATH descriptors, or makes new files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPENER = "v9_sys_open_file"
OWN_IN_C = {
    "find_arguments": "where the kernel finds the process's command line, in /proc",
    "count_open": "the process's descriptors, in /proc",
    "find_orphan": "the same",
    "is_asleep": "what a thread waits for, in /proc",
    "own_descriptor": "a pipe that the frontend gave, as a description of our own",
}
"""Functions that open what is no file of an export."""
C_CALL = re.compile(
    r"\b(?:open|open64|openat|openat2|open_by_handle_at|creat|fopen|freopen|opendir|scandir|nftw)\("
    r"|\bSYS_open\w*\s*,"
)
HARMLESS = re.compile(r"\bO_PATH\b|\bO_TMPFILE\b|\bO_CREAT \| O_EXCL\b")
FUNCTION = re.compile(r"^[a-z][^;={}]*?\b(\w+)\([^;{}]*\)\n\{.*?^\}", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)

# Modules of the control plane that open directories of their own (state, sockets, /proc, the
# configuration), and no file that a guest reaches.
OWN_FILES = {
    "commands/replay.py",
    "commands/trace.py",
    "replay/served.py",
    "trace/memory.py",
    "config_file.py",
    "fd_store.py",
    "examine_exports.py",
    "handover.py",
    "host.py",
    "keeper.py",
    "native/sandbox.py",
    "output.py",
    "qemu/command_line.py",
    "service_job.py",
    "supervisor.py",
    "old_keeper.py",
    "upgrade_status.py",
    "exports.py",
    "fs/lock_recovery.py",
    "policy/locked_file.py",
    "policy/mounts.py",
    "policy/rights.py",
    "policy/state.py",
    "policy/state_dir.py",
    "vhost_user/listener.py",
    "vm_facts.py",
    "watcher/child.py",
    "watcher/file_systems.py",
    "fs/tree.py",
    "fs/notices.py",
}


def c_statements() -> list[tuple[str, str]]:
    """Function and text of each statement in csrc that opens something; how an openat2 opens
    stands in its struct, so that it is the whole function."""
    found = []
    for source in sorted((ROOT / "csrc").rglob("*.c")):
        if source.parent.name == "guest":
            continue  # that program opens files of guests
        text = COMMENT.sub("", source.read_text())
        for function in FUNCTION.finditer(text):
            body = function[0]
            for call in C_CALL.finditer(body, body.index("\n{")):
                whole = "SYS_" in call[0]
                statement = body if whole else body[call.start() : body.index(";", call.start())]
                found.append((function[1], statement))
    return found


def test_one_function_in_c_opens_what_is_there() -> None:
    statements = c_statements()
    others = {name for name, text in statements if not HARMLESS.search(text)}
    assert others == {OPENER, *OWN_IN_C}
    makers = {name for name, text in statements if "O_EXCL" in text or "O_TMPFILE" in text}
    assert makers == {"create", "v9_sys_tmpfile"}
    assert len(statements) > 8, "the search finds nothing"


def python_opens(path: Path) -> list[str]:
    """The calls in a module that open a file by a name."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func) in ("open", "os.open", "io.open", "Path.open", "os.fdopen")
    ]


def test_python_opens_no_file_of_an_export() -> None:
    """What a scan for the quota and a look at its root open are directories, as the kernel sees to
    (O_DIRECTORY)."""
    package = ROOT / "vhost9p"
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        calls = python_opens(path)
        if name in OWN_FILES:
            assert calls, f"{name} opens nothing"
        elif name in ("policy/usage.py", "policy/spelling.py", "watcher/places.py"):
            assert all(", DIRECTORY" in call or "O_PATH" in call for call in calls)
        else:
            assert not [call for call in calls if "O_PATH" not in call and "flags" not in call], (
                name
            )
