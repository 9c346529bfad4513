"""Which entries are looked at, by the mount table; real mounts are in tests/system."""

import os
from collections.abc import Iterator

import pytest

from vhost9p.native.mounts import Look
from vhost9p.policy.listing import ListingPolicy, MountTree
from vhost9p.policy.mounts import parse_mountinfo

TABLE = rb"""27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:25 / /srv/a\040b rw - tmpfs tmpfs rw
31 27 0:26 /x /srv/deep/leaf rw shared:1 - ext4 /dev/vdb rw
32 30 0:27 / /srv/a\040b rw - btrfs /dev/vdc rw
33 27 0:28 / /srv/\134040 rw - fuse.sshfs host: rw
34 33 0:29 / /srv/\134040/m rw - overlay overlay rw
35 34 0:30 / /srv/\134040/m/leaf rw - xfs /dev/vdd rw
"""


@pytest.fixture
def tree() -> MountTree:
    return MountTree(parse_mountinfo(TABLE).values())


def test_names_belong_to_the_parent(tree: MountTree) -> None:
    assert tree.names(27) == {b"a b", b"leaf", b"\\040"}
    assert tree.names(30) == {b"a b"}  # what covers it
    assert tree.names(33) == {b"m"}
    assert tree.names(34) == {b"leaf"}
    assert tree.names(35) == tree.names(99) == set()
    assert tree.names(1) == set()  # the root has no name


def test_types_that_tell_the_truth(tree: MountTree) -> None:
    looks = [tree.look(number) for number in range(30, 36)]
    assert looks == [Look.NAMED, Look.NAMED, Look.DIRS, Look.ALL, Look.ALL, Look.NAMED]
    assert tree.look(27) is Look.NAMED
    assert tree.look(99) is Look.ALL, "a mount that is not in the table"


class Scripted(ListingPolicy):
    """Keeps what C is told."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[tuple[object, ...]] = []
        self.reads = 0
        self.views.set = self._set  # type: ignore[method-assign]
        read = self._mounts.read

        def counted() -> object:
            self.reads += 1
            return read()

        self._mounts.read = counted  # type: ignore[assignment, method-assign]

    def _set(self, mnt_id: int, generation: int, look: Look, names: object = ()) -> None:
        self.reported.append((mnt_id, generation, look, names))


@pytest.fixture
def policy() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


def test_the_table_is_read_once_for_a_generation(policy: Scripted) -> None:
    fd = os.open("/proc/self", os.O_PATH)
    asked = [(70, 0), (71, 0), (70, 1), (70, 1), (70, 2)]
    for mnt_id, generation in asked:
        policy.mount(mnt_id, generation, fd)
    os.close(fd)
    assert policy.reads == 3
    assert policy.reported == [(*question, Look.ALL, ()) for question in asked]


def test_what_cannot_be_found_out_is_left_to_c(policy: Scripted) -> None:
    policy.mount(70, 0, 1 << 20)
    assert policy.reported == []


def test_the_mount_of_this_directory(policy: Scripted) -> None:
    fd = os.open("/", os.O_PATH)
    policy.mount(4711, 5, fd)
    os.close(fd)
    ((mnt_id, generation, look, names),) = policy.reported
    assert (mnt_id, generation) == (4711, 5)
    assert isinstance(names, (set, tuple))
    if look is not Look.ALL:
        assert b"proc" in names
