"""The suffix code of multidevs=remap.

The code word ("suffix") of index n = 1, 2, 3, … is the mirrored Exponential-Golomb word of order k.
Exponential-Golomb words are prefix-free, so the mirrored words are suffix-free: none ends in
another. Numbers that end in different words therefore always differ, whatever precedes the words.
Words are short for small n: with k = 0 the first has 1 bit, the next two have 3, four have 5, eight
have 7, and so on.
"""

from typing import NamedTuple


class Suffix(NamedTuple):
    """A code word: its length in bits and its value."""

    bits: int
    value: int


def suffix(n: int, k: int = 0) -> Suffix:
    """Returns the n-th code word (n >= 1) of order k (k >= 0).

    The Exponential-Golomb word is v = n + 2**k - 1 with leading zeros, whose number determines the
    word's length.
    """
    if n < 1 or k < 0:
        raise ValueError(f"no code word of index {n}, order {k}: they start at 1 and 0")
    value = n + (1 << k) - 1
    length = value.bit_length()
    bits = length + max(length - 1 - k, 0)
    return Suffix(bits, int(f"{value:0{bits}b}"[::-1], 2))
