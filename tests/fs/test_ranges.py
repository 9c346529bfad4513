"""RangeMap against the plainest model: one kind for each byte."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vhost9p.fs.ranges import OFFSET_END, RDLCK, UNLCK, WHOLE, WRLCK, Piece, Range, RangeMap

SIZE = 24
SPANS = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE)).map(lambda pair: Range(*pair))
KINDS = st.sampled_from([RDLCK, WRLCK, UNLCK])


@given(st.lists(st.tuples(SPANS, KINDS), max_size=12), SPANS)
def test_as_the_kernel_does(steps: list[tuple[Range, int]], asked: Range) -> None:
    model = [UNLCK] * (2 * SIZE + 1)
    ranges, pieces = RangeMap(), set[Piece]()
    for span, how in steps:
        gone, come = ranges.set(span, how)
        assert pieces.issuperset(gone)
        pieces = pieces.difference(gone).union(come)
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
    whole = ranges.within(WHOLE)
    assert pieces == {(span.start, span.end, how) for span, how in whole if how != UNLCK}


def test_a_range_may_end_at_the_largest_offset() -> None:
    ranges = RangeMap()
    last = Range(OFFSET_END - 1, 1)
    ranges.set(last, WRLCK)
    assert ranges.within(Range(OFFSET_END - 2, 0)) == [
        (Range(OFFSET_END - 2, 1), UNLCK),
        (Range(OFFSET_END - 1, 0), WRLCK),
    ]
    ranges.set(Range(5, 0), UNLCK)
    assert len(ranges) == 0
