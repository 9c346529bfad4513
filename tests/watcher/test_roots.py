"""What a worker says of the directories that it has open, who may be an attacker's."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vhost9p.changes import roots
from vhost9p.changes.ring import Ring
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.watcher.roots import Roots


@pytest.fixture
def ring() -> Iterator[Ring]:
    with closing(Ring()) as ring:
        yield ring


def taken(ring: Ring, path: Path) -> str:
    """The directory to which the path of the export at `path` leads then."""
    device = DeviceConfig((ExportConfig(str(path)),), notify=True)
    own = os.pidfd_open(os.getpid())
    try:
        config, held = Roots(Config((device,)), [ring]).take(own)
    finally:
        os.close(own)
    export = config.devices[0].exports[0]
    found = os.path.realpath(export.place or export.path)
    for fd in held:
        os.close(fd)
    return found


def test_the_directory_is_the_workers(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    fd = os.open(tmp_path / "other", os.O_RDONLY)
    roots.write(ring, [fd])
    assert taken(ring, tmp_path) == str(tmp_path / "other")
    os.close(fd)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_whatever_the_memory_says_the_path_is_the_exports_then(
    ring: Ring, tmp_path: Path, byte: int
) -> None:
    ring.spare[:] = bytes([byte]) * len(ring.spare)
    assert taken(ring, tmp_path) == str(tmp_path)
