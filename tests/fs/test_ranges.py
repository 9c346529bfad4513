"""RangeMap against the plainest model: one kind for each byte."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vhost9p.fs.ranges import OFFSET_END, RDLCK, UNLCK, WHOLE, WRLCK, Range, RangeMap

SIZE = 24
SPANS = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE)).map(lambda pair: Range(*pair))
KINDS = st.sampled_from([RDLCK, WRLCK, UNLCK])


@given(st.lists(st.tuples(SPANS, KINDS), max_size=12), SPANS, KINDS)
def test_as_the_kernel_does(steps: list[tuple[Range, int]], asked: Range, kind: int) -> None:
    model = [UNLCK] * (2 * SIZE + 1)
    ranges = RangeMap()
    for span, how in steps:
        ranges.set(span, how)
        for at in range(span.start, span.end if span.length else len(model)):
            model[at] = how
    # The pieces of a range cover it without gaps, and are as long as can be.
    at = asked.start
    for piece, how in ranges.within(asked):
        assert piece.start == at
        at = piece.end
        assert set(model[piece.start : piece.end]) == {how}
    assert at == asked.end
    kinds = [how for _, how in ranges.within(WHOLE)]
    assert all(one != other for one, other in itertools.pairwise(kinds))
    assert len(ranges) == sum(how != UNLCK for how in kinds)
    if kind == UNLCK:
        return
    in_the_way = [
        i
        for i, how in enumerate(model)
        if asked.start <= i < asked.end and how != UNLCK and WRLCK in (how, kind)
    ]
    found = ranges.conflict(asked, kind)
    assert (found is None) == (not in_the_way)
    if found:
        held, span = found
        assert in_the_way[0] in range(span.start, span.end if span.length else len(model))
        assert held == model[in_the_way[0]]


def test_the_largest_offset() -> None:
    ranges = RangeMap()
    last = Range(OFFSET_END - 1, 1)
    ranges.set(last, WRLCK)
    assert ranges.within(Range(OFFSET_END - 2, 0)) == [
        (Range(OFFSET_END - 2, 1), UNLCK),
        (Range(OFFSET_END - 1, 0), WRLCK),
    ]
    ranges.set(Range(5, 0), UNLCK)
    assert len(ranges) == 0


def test_only_the_whole_is_whole() -> None:
    assert WHOLE.is_whole()
    assert not Range(0, 1).is_whole()
    assert not Range(1, 0).is_whole()
