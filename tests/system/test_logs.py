"""The log of a daemon that serves: as JSON, and to journald, over a restart and an upgrade."""

from __future__ import annotations

import errno
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.client import P9Errno
from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.deaths import kill
from tests.system.share import mounted, needs_root, serve
from tests.system.test_config_dir import Folder
from tests.test_log_format import parsed

JOURNAL = (
    *("unshare", "--mount", "sh", "-c"),
    "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && "
    'mount --bind "$0" /run/systemd/journal && exec "$@"',
)
"""Runs a command where journald listens in the directory that follows."""


def upgrade(daemon: Daemon) -> None:
    done = run_cli("upgrade", str(daemon.pid))
    assert done.returncode == 0, done.stderr


def test_json_says_what_each_line_concerns(export: Path) -> None:
    daemon = serve(export, "--readonly", "--log-failures", "--log-format", "json")
    daemon.ready = '"serving '
    with daemon:
        with mounted(daemon, export) as share:
            for name in (b"new", b"\x1e\x1ferror\x1fsaid\x1fvm=other\x1fforged\n"):
                with suppress(P9Errno):
                    share.client.mkdir(share.root, name, gid=0)
            kill(daemon.worker)
            daemon.wait_line("serving 'host0' .* again")
            upgrade(daemon)
            with suppress(P9Errno):
                share.client.mkdir(share.root, b"last", gid=0)
        daemon.stop()
    logged: list[dict[str, Any]] = [json.loads(line) for line in daemon.lines]
    assert all(each["time"] and each["message"].isprintable() for each in logged)
    whole = {"device": "host0", "socket": daemon.socket, "export": str(export)}
    for each in logged:
        about = {name: each[name] for name in ("vm", *whole) if name in each}
        assert about in ({}, {"vm": daemon.socket, **whole})
    (death,) = (each for each in logged if ", death 1: " in each["message"])
    assert (death["level"], death["vm"]) == ("error", daemon.socket)
    failed = [each for each in logged if "errno" in each]
    assert [(each["request"], each["errno"]) for each in failed] == [("Tmkdir", errno.EROFS)] * 3
    assert "forged" in failed[1]["message"]


@needs_root
def test_journald_gets_the_log(scratch: Path) -> None:
    """By itself, where standard error leads to it; of each VM with its name."""
    place = scratch / "journal"
    place.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(place / "socket"))
        journald.settimeout(60)
        folder = Folder(scratch, *JOURNAL, str(place))
        folder.add("web")
        folder.add("mail", "tag: spool\n")
        folder.daemon.args += ["--log-format", "journald"]
        folder.daemon.start(wait=False)
        served: dict[str, dict[str, str]] = {}
        while len(served) < 2:
            fields = parsed(journald.recv(65536))
            if ": serving " in fields["MESSAGE"]:
                served[fields["VM"]] = fields
        for name, tag in (("web", "host0"), ("mail", "spool")):
            fields = served[name]
            assert fields.pop("MESSAGE").startswith(f"{name}: serving {folder.exports / name} as ")
            assert fields == {
                "PRIORITY": "6",
                "SYSLOG_IDENTIFIER": "vhost9p",
                "VM": name,
                "DEVICE": tag,
                "SOCKET": folder.socket(name),
                "EXPORT": str(folder.exports / name),
            }
        folder.daemon.stop()
        assert folder.daemon.lines == []


@pytest.mark.parametrize("form", ["json", "auto"])
def test_a_file_of_config_dir_has_no_log_of_its_own(scratch: Path, form: str) -> None:
    """Not even where it says what holds anyway."""
    folder = Folder(scratch)
    folder.add("a", f"log_format: {form}\n")
    folder.add("b")
    with folder.daemon:
        folder.daemon.wait_line(r"a.yaml:\d+:1: log_format: is the daemon's: give it --log-format")
        folder.is_served("b")
