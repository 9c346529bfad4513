"""remap: what counts as one device. Made-up mounts, so that every kernel's ways can be played."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.policy.guest import UnknownDevice, UnknownGroup, lookup, no_probe, open_state
from vhost9p.native.qidmap import DeviceFlag, QidMap
from vhost9p.policy.mounts import Mount, MountTable, MountWatch, Probe
from vhost9p.policy.remap import WASTE, RemapPolicy
from vhost9p.policy.state import RECORD_SIZE, StateFile

DEV = os.makedev(0, 50)
NO_ROOT = (0, 0)
ROOT, OTHER_ROOT = (1, 111), (2, 222)
NO_BIRTH = (1, 0)


class FakeWatch(MountWatch):
    """Tells of changes when the test says so."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def stop(self) -> None:
        """There is no thread."""


class FakeMounts(MountTable):
    """A namespace whose mounts the test decides on."""

    def __init__(self) -> None:
        self.present: list[Mount] = []
        self.watches: list[FakeWatch] = []

    def close(self) -> None:
        """Holds nothing."""

    def identify(self, mnt_id: int, fd: int, probe: Probe) -> Mount:
        """The mount with this id."""
        (found,) = (mount for mount in self.present if mount.mnt_id == mnt_id)
        return found

    def is_mounted(self, mount: Mount, probe: Probe) -> bool:
        """Whether the test has left it there."""
        return any(mount.is_same(here) for here in self.present)

    def watch(self, changed: Callable[[], None]) -> MountWatch:
        """Hands the callback to the test."""
        self.watches.append(FakeWatch(changed))
        return self.watches[-1]


class Host:
    """A running daemon on a host with made-up mounts, all of one file system id."""

    def __init__(self, directory: Path) -> None:
        self.mounts = FakeMounts()
        self.directory = directory
        self.fd = os.open(directory, os.O_PATH)
        self._start()

    def _start(self) -> None:
        self.qidmap = QidMap()
        self.state: StateFile = open_state(self.directory)
        self.policy = RemapPolicy(self.qidmap, self.mounts, no_probe, self.state)

    def restart(self) -> None:
        """The daemon is restarted."""
        self.policy.close()
        self._start()

    def close(self) -> None:
        """The daemon ends."""
        self.policy.close()
        os.close(self.fd)

    def mount(self, mnt_id: int, number: int, root: tuple[int, int]) -> Mount:
        """A mount appears."""
        mount = Mount(mnt_id, number, *root)
        self.mounts.present.append(mount)
        return mount

    def umount(self, *mounts: Mount) -> None:
        """Mounts go."""
        for mount in mounts:
            self.mounts.present.remove(mount)

    def device(self, mount: Mount, st_dev: int = DEV) -> int:
        """The device index of a file on this mount."""
        while True:
            try:
                return lookup(self.qidmap, st_dev, mount.mnt_id, 1)[0]
            except UnknownDevice:
                self.policy.device(st_dev, mount.mnt_id, self.fd)
            except UnknownGroup as unknown:
                return unknown.device


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def test_a_bind_mount_is_the_same_device(host: Host) -> None:
    one = host.mount(5000, 50, ROOT)
    first = host.device(one)
    bind = host.mount(5001, 51, OTHER_ROOT)
    assert host.device(bind) == first
    host.umount(one)
    third = host.mount(5002, 50, NO_ROOT)
    assert host.device(third) == first


def test_a_reused_number_is_another_device(host: Host) -> None:
    one = host.mount(5000, 50, NO_BIRTH)
    first = host.device(one)
    host.umount(one)
    two = host.mount(5001, 50, NO_BIRTH)
    second = host.device(two)
    assert second != first
    bind = host.mount(5002, 51, NO_ROOT)
    assert host.device(bind) == second


def test_the_same_root_mounted_again_is_the_same_device(host: Host) -> None:
    one = host.mount(5000, 50, ROOT)
    first = host.device(one)
    host.umount(one)
    assert host.device(host.mount(5001, 50, ROOT)) == first


UUID_ID = 0x12345678_9ABCDEF0


@pytest.mark.parametrize(
    ("st_dev", "fs_id", "same"),
    [
        (os.makedev(8, 1), UUID_ID, True),
        (os.makedev(8, 1), 0, False),
        (os.makedev(8, 1), 0x801, False),  # the number once more, as XFS or ISO 9660 say
        (os.makedev(0, 50), UUID_ID, False),  # overlayfs passes on its upper layer's
    ],
)
def test_a_block_device_and_a_uuid_name_a_file_system(
    host: Host, monkeypatch: pytest.MonkeyPatch, st_dev: int, fs_id: int, same: bool
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_fsid=fs_id))
    one = host.mount(5000, 50, NO_BIRTH)
    first = host.device(one, st_dev)
    host.umount(one)
    host.restart()
    assert (host.device(host.mount(5001, 51, NO_BIRTH), st_dev) == first) is same


def test_another_file_system_id_is_another_device(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A btrfs subvolume is gone and another has its number: all are on mounts of one root.
    for fs_id, expected in ((UUID_ID, 0), (UUID_ID + 1, 1), (UUID_ID, 0)):
        monkeypatch.setattr(os, "fstatvfs", lambda fd, fs_id=fs_id: SimpleNamespace(f_fsid=fs_id))
        one = host.mount(5000 + fs_id, 50, ROOT)
        assert host.device(one) == expected


def test_other_numbers_are_other_devices(host: Host) -> None:
    one = host.mount(5000, 50, ROOT)
    assert len({host.device(one, st_dev) for st_dev in (DEV, DEV + 1, DEV + 2)}) == 3


@pytest.mark.parametrize("root", [ROOT, NO_BIRTH, NO_ROOT])
def test_a_mount_is_recognised_after_a_restart(host: Host, root: tuple[int, int]) -> None:
    one = host.mount(5000, 50, root)
    first = host.device(one)
    host.restart()
    assert host.device(one) == first


def test_a_restart_in_a_copied_namespace(host: Host) -> None:
    one, bind = host.mount(5000, 50, ROOT), host.mount(5001, 51, OTHER_ROOT)
    first = host.device(one)
    assert host.device(bind) == first
    host.umount(one, bind)
    copies = [host.mount(6001, 61, OTHER_ROOT), host.mount(6000, 60, ROOT)]
    host.restart()
    assert [host.device(copy) for copy in copies] == [first, first]


def test_a_number_reused_during_a_restart(host: Host) -> None:
    one = host.mount(5000, 50, NO_BIRTH)
    first = host.device(one)
    host.umount(one)
    two = host.mount(5001, 50, NO_BIRTH)
    host.restart()
    second = host.device(two)
    assert second != first
    host.restart()
    assert host.device(two) == second


class TestReusedMountIds:
    """Before Linux 6.8: the id is the number."""

    def test_the_map_forgets_when_mounts_change(self, host: Host) -> None:
        one = host.mount(50, 50, ROOT)
        first = host.device(one)
        host.umount(one)
        again = host.mount(50, 50, OTHER_ROOT)
        (watch,) = host.mounts.watches
        watch.changed()
        second = host.device(again)
        assert second != first
        host.umount(again)
        host.mount(50, 50, ROOT)
        watch.changed()
        assert host.device(one) == first
        assert len(host.mounts.watches) == 1

    def test_what_stays_keeps_its_device(self, host: Host) -> None:
        kept = [host.mount(50, 50, ROOT), host.mount(51, 51, NO_BIRTH), host.mount(52, 52, NO_ROOT)]
        before = [host.device(mount, DEV + i) for i, mount in enumerate(kept)]
        host.mounts.watches[0].changed()
        assert [host.device(mount, DEV + i) for i, mount in enumerate(kept)] == before
        host.restart()
        assert [host.device(mount, DEV + i) for i, mount in enumerate(kept)] == before

    def test_ids_that_are_never_reused_need_no_watch(self, host: Host) -> None:
        host.device(host.mount(5000, 50, ROOT))
        assert not host.mounts.watches


def test_many_mounts_of_one_device(host: Host) -> None:
    base = host.mount(5000, 50, ROOT)
    first = host.device(base)
    for i in range(WASTE + 200):
        bind = host.mount(6000 + i, 60, OTHER_ROOT)
        assert host.device(bind) == first
        host.umount(bind)
    path = host.directory / host.state.name
    before = path.stat().st_size
    host.restart()
    assert path.stat().st_size < before - WASTE * RECORD_SIZE
    assert host.device(base) == first
    assert host.device(host.mount(9000, 90, NO_ROOT)) == first


def test_mount_ids_without_end_are_forgotten(host: Host) -> None:
    base = host.mount(5000, 50, ROOT)
    first = host.device(base)
    qidmap = host.qidmap
    for i in range(70_000):
        qidmap.set_device(DEV, 10_000 + i, first, DeviceFlag(0))
    with pytest.raises(UnknownDevice):
        lookup(qidmap, DEV, 10_000, 1)
    assert host.device(base) == first
