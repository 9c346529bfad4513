"""What an upgrade is put together from: configurations as JSON, the status that main keeps."""

from __future__ import annotations

import json
import os
from dataclasses import fields

import pytest

from vhost9p import plain, upgrade_status
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


def test_others_read_the_status() -> None:
    assert upgrade_status.read(os.getpid()) is None
    file = StatusFile()
    try:
        assert upgrade_status.read(os.getpid()) == Status()
        file.report(succeeded=False, text="x" * 10000)
        assert upgrade_status.read(os.getpid()) == Status(
            1, False, "x" * (upgrade_status.SIZE // 8)
        )
        again = StatusFile(os.dup(file.fd))
        os.close(again.fd)
        again.fd = file.fd
        again.report(succeeded=True, text="\u00fc")
        assert upgrade_status.read(os.getpid()) == Status(2, True, "\u00fc")
    finally:
        os.close(file.fd)
    assert upgrade_status.read(2**22 + 1) is None
