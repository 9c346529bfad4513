"""Maps of ids: there and back in all ranges, and nothing beside them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost9p.native.export import GID, UID, Export
from vhost9p.policy.idmap import GuestId, HostId, Ids, Range

NOBODY = 65534
NO_ID = 0xFFFFFFFF

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
