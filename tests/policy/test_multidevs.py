"""warn and forbid, and the choice of a policy."""

import errno
import logging
import os
from pathlib import Path

import pytest

from tests.policy.guest import no_probe, open_state, path_of
from vhost9p.config import Multidevs
from vhost9p.native.qidmap import QidMap
from vhost9p.policy.multidevs import MultidevsPolicy, make_policy

ROOT = os.makedev(8, 1)
OTHER = os.makedev(0, 77)


def make(mode: Multidevs) -> tuple[QidMap, MultidevsPolicy]:
    qidmap = QidMap()
    return qidmap, make_policy(mode, qidmap, ROOT, no_probe, None)


@pytest.mark.parametrize("mode", ["warn", "forbid"])
def test_the_roots_device_keeps_its_inodes(
    mode: Multidevs, caplog: pytest.LogCaptureFixture
) -> None:
    qidmap, policy = make(mode)
    for ino in (0, 2, 1 << 63, (1 << 64) - 1):
        assert path_of(qidmap, policy, ROOT, ino) == ino
    assert not caplog.records
    assert policy.sizes() == {"devices": 1, "groups": 0, "files": 0}
    policy.close()


def test_warn_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    qidmap, policy = make("warn")
    for st_dev in (OTHER, OTHER + 1, OTHER):
        assert path_of(qidmap, policy, st_dev, 5) == 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for said in ("0:77", "8:1", "export of its own", "multidevs: remap"):
        assert said in record.getMessage()


def test_the_warning_names_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    make("warn")[1].device(OTHER, 7, fd)
    os.close(fd)
    assert repr(str(tmp_path)) in caplog.text


def test_forbid_denies_other_devices(caplog: pytest.LogCaptureFixture) -> None:
    qidmap, policy = make("forbid")
    for st_dev in (OTHER, OTHER, OTHER + 1):
        with pytest.raises(OSError) as denied:
            path_of(qidmap, policy, st_dev, 5)
        assert denied.value.errno == errno.ENODEV
    assert path_of(qidmap, policy, ROOT, 5) == 5
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "0:77" in record.getMessage()


def test_remap_tells_devices_apart(caplog: pytest.LogCaptureFixture) -> None:
    qidmap, policy = make("remap")
    assert len({path_of(qidmap, policy, st_dev, 5) for st_dev in (ROOT, OTHER, OTHER + 1)}) == 3
    assert not caplog.records
    policy.close()


def test_what_was_handed_over_is_closed_on_failure(tmp_path: Path) -> None:
    qidmap = QidMap()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # the second finds the file unlocked
        with pytest.raises(ValueError, match="max_files is -1"):
            make_policy("remap", qidmap, ROOT, no_probe, open_state(tmp_path), max_files=-1)
    assert len(os.listdir("/proc/self/fd")) == before
