"""The suffix code: the vectors, and that no word ends in another."""

import json
from pathlib import Path

import pytest

from vhost9p.policy.suffix import suffix

VECTORS = json.loads((Path(__file__).parent / "vectors" / "multidevs.json").read_text())


@pytest.mark.parametrize("case", VECTORS["affix"], ids=lambda case: f"k{case['k']}-n{case['n']}")
def test_suffixes_follow_the_vectors(case: dict[str, int | str]) -> None:
    got = suffix(int(case["n"]), int(case["k"]))
    assert (got.bits, hex(got.value)) == (case["bits"], case["suffix"])


@pytest.mark.parametrize("k", [0, 1, 5])
def test_no_word_ends_in_another(k: int) -> None:
    words = [suffix(n, k) for n in range(1, 5000)]
    known = set(words)
    assert len(known) == len(words)
    lengths = sorted({bits for bits, _ in words})
    for bits, value in words:
        shorter = [length for length in lengths if length < bits]
        assert not any((length, value & ((1 << length) - 1)) in known for length in shorter)


@pytest.mark.parametrize(("n", "k"), [(0, 0), (-1, 0), (1, -1)])
def test_refuses_indices_below_the_first(n: int, k: int) -> None:
    with pytest.raises(ValueError, match="no code word"):
        suffix(n, k)
