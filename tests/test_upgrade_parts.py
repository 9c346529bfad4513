"""What an upgrade is put together from: configurations as JSON, the status that main keeps."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from vhost9p import plain, upgrade_status
from vhost9p.commands import upgrade as upgrade_command
from vhost9p.config import (
    Config,
    DeviceConfig,
    ExportConfig,
    IdMap,
    IdRange,
    Level,
    Limit,
    Quota,
    Throttling,
    XattrRule,
    XattrRules,
)
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade_status import Status, StatusFile

EVERYTHING = Config(
    (
        DeviceConfig(
            (
                ExportConfig(
                    "/srv/\udcff",
                    "one",
                    "passthrough",
                    throttling=Throttling(bps_read=Limit(1000, 2000, 3)),
                    id_map=IdMap((IdRange(0, 1000, 1),), squash_gid=3, forbid_uid=((7, 2),)),
                    xattrs=XattrRules((XattrRule("user.", "store", "user.x."),)),
                    quota=Quota(bytes=1 << 40, error="EDQUOT"),
                ),
                ExportConfig("/srv/other", "other", readonly=True, place="/exports/1"),
            ),
            "/run/a.sock",
            socket_mode=0o660,
            cpus=(0, 3),
        ),
    ),
    "debug",
    Level.CHROOT,
    file="/etc/vm.yaml",
)


def test_a_configuration_comes_back_as_it_was() -> None:
    text = json.dumps(plain.to_plain(EVERYTHING))
    assert plain.from_plain(Config, json.loads(text)) == EVERYTHING


def test_what_was_added_since_gets_its_default() -> None:
    value = plain.to_plain(DeviceConfig((ExportConfig("/x"),), "/socket", state_dir="/state"))
    added = [each.name for each in fields(DeviceConfig)][3:]
    for name in set(added) - {"state_dir"}:
        del value[name]
    found = plain.from_plain(DeviceConfig, value)
    assert found == DeviceConfig((ExportConfig("/x"),), "/socket", state_dir="/state")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sockets": 3}, "sockets is unknown"),
        ({"exports": None}, "not understood"),
        ({"threads": "two"}, "'two' is no int"),
        ({"multidevs": "often"}, "'often' is none of warn, forbid, remap"),
        ({"exports": [{}]}, "path"),
    ],
)
def test_what_is_not_understood_is_refused(change: dict[str, object], why: str) -> None:
    value = plain.to_plain(DeviceConfig((ExportConfig("/x"),), "/socket")) | change
    with pytest.raises(Unreadable, match=why):
        plain.from_plain(DeviceConfig, value)


def test_a_level_is_one_again() -> None:
    assert plain.from_plain(Level, plain.to_plain(Level.CHROOT)) is Level.CHROOT
    with pytest.raises(Unreadable):
        plain.from_plain(Level, "high")


def read(pid: int) -> Status | None:
    """What the command sees of a process."""
    if (fd := upgrade_status.find(pid)) < 0:
        return None
    try:
        return upgrade_status.read(fd)
    finally:
        os.close(fd)


def test_others_read_the_status() -> None:
    assert read(os.getpid()) is None
    file = StatusFile()
    try:
        assert read(os.getpid()) == Status()
        file.report(succeeded=False, text="\u1234" * 10000)
        assert read(os.getpid()) == Status(1, False, "\u1234" * upgrade_status.TEXT_MAX)
        again = StatusFile(os.dup(file.fd))
        os.close(again.fd)
        again.fd = file.fd
        again.report(succeeded=True, text="\u00fc")
        assert read(os.getpid()) == Status(2, True, "\u00fc")
    finally:
        os.close(file.fd)
    with pytest.raises(FileNotFoundError):
        read(2**22 + 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"count": []}',
        b'{"count": 1, "succeeded": true, "text": 3}',
        b"[" * upgrade_status.SIZE,
    ],
)
def test_what_is_no_status_is_none(data: bytes) -> None:
    """Nor is more of it read than a daemon writes."""
    fd = os.memfd_create(upgrade_status.NAME)
    try:
        os.ftruncate(fd, 1 << 42)
        os.pwrite(fd, data, 0)
        assert upgrade_status.find(os.getpid()) >= 0
        assert read(os.getpid()) is None
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else")
def test_a_file_of_somebody_else_is_not_looked_at() -> None:
    """Whose process was given it, and may know nothing of the signal."""
    file = StatusFile()
    try:
        os.fchown(file.fd, 1, 1)
        assert read(os.getpid()) is None
    finally:
        os.close(file.fd)


def test_a_file_that_only_has_the_name_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of the process's owner, who may answer as he likes, or a FIFO of that name."""
    name = f"/memfd:{upgrade_status.NAME} (deleted)"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text(json.dumps(asdict(Status())))
    monkeypatch.setattr(os, "readlink", lambda _: name)
    for each in ("fifo", "file"):
        fd = os.open(tmp_path / each, os.O_PATH)
        assert not upgrade_status._is_status(fd, {os.geteuid()})
        os.close(fd)


def test_an_upgrade_of_no_daemon_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is installed where nothing runs."""
    monkeypatch.setattr("vhost9p.upgrade_status.find_all", lambda **_: [])
    assert upgrade_command.run(argparse.Namespace(pid=[])) == 0
