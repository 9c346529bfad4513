"""Maps of ids: there and back in all ranges, and nothing beside them."""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost9p.native.export import GID, UID, Export
from vhost9p.policy.idmap import GuestId, HostId, Ids, Range
from vhost9p.policy.idvalues import CAPABILITY, map_value

NOBODY = 65534
NO_ID = 0xFFFFFFFF
ACL = b"system.posix_acl_access"

# Where ranges begin and end, over the whole of 32 bits, and near each other.
_EDGES = st.one_of(st.integers(0, 40), st.integers(0, NO_ID - 1))


@st.composite
def _ranges(draw: st.DrawFn) -> list[Range]:
    """Ranges that overlap on no side: gaps and counts of both sides in one order each."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))

    def starts() -> list[int]:
        found, at = [], draw(_EDGES) % (NO_ID - 1000)
        for count in counts:
            found.append(at)
            at += count + draw(st.integers(0, 3))
        return found

    ranges = list(zip(starts(), starts(), counts, strict=True))
    shuffled = draw(st.permutations(ranges))
    return [Range(GuestId(guest), HostId(host), count) for guest, host, count in shuffled]


@contextmanager
def export_of(ids: Ids, kind: int = UID) -> Iterator[Export]:
    """An export with a map."""
    fd = os.open("/", os.O_PATH)
    export = Export(fd, readonly=True, stat_entries=False)
    os.close(fd)
    try:
        ids.install(export, kind)
        yield export
    finally:
        export.close()


def refused(export: Export, guest: int, kind: int = UID) -> bool:
    try:
        export.host_id(kind, guest)
    except PermissionError:
        return True
    return False


@given(_ranges(), st.lists(_EDGES), st.sampled_from([UID, GID]))
def test_ids_map_to_the_host_and_back(ranges: list[Range], more: list[int], kind: int) -> None:
    mapped = {each.guest + i: each.host + i for each in ranges for i in range(each.count)}
    tried = {*mapped, *mapped.values(), *(each + 1 for each in mapped), *more} - {NO_ID}
    back = {host: guest for guest, host in mapped.items()}
    with export_of(Ids(ranges), kind) as export:
        for number in tried:
            if number in mapped:
                assert export.host_id(kind, number) == mapped[number]
            else:
                assert refused(export, number, kind)
            assert export.guest_id(kind, number) == back.get(number, NOBODY)
            other = UID + GID - kind  # which is not set
            assert export.guest_id(other, number) == export.host_id(other, number) == number


@given(_ranges(), st.lists(_EDGES), st.tuples(_EDGES, st.integers(1, 10)))
def test_ids_are_squashed_or_forbidden(
    ranges: list[Range], guests: list[int], forbidden: tuple[int, int]
) -> None:
    first, count = forbidden
    tried = [*guests, first - 1, first, first + count - 1, first + count]
    with (
        export_of(Ids(ranges)) as plain,
        export_of(Ids(ranges, HostId(77), [forbidden])) as export,
    ):
        for guest in tried:
            if not 0 <= guest < NO_ID:
                continue
            if first <= guest < first + count:
                assert refused(export, guest)
            elif refused(plain, guest):
                assert export.host_id(UID, guest) == 77
            else:
                assert export.host_id(UID, guest) == plain.host_id(UID, guest)


def test_none_stays_none() -> None:
    ids = Ids([Range(GuestId(0), HostId(1000), 1)], HostId(5), [(0, NO_ID)])
    with export_of(ids) as export:
        assert export.host_id(UID, NO_ID) == NO_ID


def test_a_squash_alone_is_a_map() -> None:
    with export_of(Ids([], HostId(9))) as export:
        assert export.host_id(UID, 3) == 9
        assert {export.guest_id(UID, host) for host in (0, 9, NOBODY)} == {NOBODY}


def test_c_takes_no_ranges_that_overlap() -> None:
    ranges = [Range(GuestId(0), HostId(0), 2), Range(GuestId(5), HostId(1), 2)]
    with pytest.raises(OSError) as caught, export_of(Ids(ranges)):
        pass
    assert caught.value.errno == errno.EINVAL
    with export_of(Ids([])) as export, pytest.raises(OSError):
        export.set_ids(UID, [])  # once


# ---- values


def plus(number: int) -> int:
    """A map that shows where it was used, and refuses 13."""
    if number == 13:
        raise PermissionError(errno.EPERM, "13")
    return number + 100


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def test_named_entries_of_access_lists() -> None:
    before = access_list((1, 7, NO_ID), (2, 6, 5), (4, 5, NO_ID), (8, 4, 6), (0x10, 7, NO_ID))
    after = access_list((1, 7, NO_ID), (2, 6, 105), (4, 5, NO_ID), (8, 4, 7), (0x10, 7, NO_ID))
    for name in (ACL, b"system.posix_acl_default"):
        assert map_value(name, before, plus, lambda gid: gid + 1) == after
    assert map_value(b"user.acl", before, plus, plus) == before
    assert map_value(ACL, b"", plus, plus) == b""
    with pytest.raises(PermissionError):
        map_value(ACL, access_list((2, 7, 13)), plus, plus)


SETS = bytes(range(16))
V2, V3 = (struct.pack("<I", revision | 1) + SETS for revision in (0x02000000, 0x03000000))


@pytest.mark.parametrize(
    ("value", "mapped", "expected"),
    [
        (V2, 0, V2),
        (V2, 100000, V3 + struct.pack("<I", 100000)),
        (V3 + struct.pack("<I", 5), 0, V2),
        (V3 + struct.pack("<I", 5), 9, V3 + struct.pack("<I", 9)),
    ],
)
def test_root_of_capabilities(value: bytes, mapped: int, expected: bytes) -> None:
    asked: list[int] = []

    def root(uid: int) -> int:
        asked.append(uid)
        return mapped

    assert map_value(CAPABILITY, value, root, plus) == expected
    assert asked == [0 if value == V2 else 5]


@given(st.sampled_from([ACL, CAPABILITY]), st.binary(min_size=1, max_size=40))
def test_garbage_is_refused(name: bytes, value: bytes) -> None:
    try:
        map_value(name, value, lambda uid: uid, lambda gid: gid)
    except OSError as error:
        assert error.errno == errno.EINVAL
    else:
        assert value[:4] == bytes([2, 0, 0, 0]) if name == ACL else value[3] in (2, 3)
