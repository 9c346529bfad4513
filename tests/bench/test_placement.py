"""Which CPUs the driver and the servers get, by the CPUs that there are."""

from __future__ import annotations

import pytest

from tests.bench.placement import ANYWHERE, Placement, choose


@pytest.mark.parametrize(
    ("allowed", "cores", "expected"),
    [
        ({0}, [{0}], ANYWHERE),
        ({0, 1}, [{0}, {1}], Placement(0, 1)),
        ({0, 1}, [{0, 1}], Placement(0, 1)),
        ({2, 5, 7}, [{2}, {5}, {7}], Placement(2, 5, spare=True)),
        ({0, 1, 2, 3}, [{0, 1}, {2, 3}], Placement(0, 2, spare=True)),
    ],
)
def test_two_cpus_are_chosen(allowed: set[int], cores: list[set[int]], expected: Placement) -> None:
    """Of different cores, where there are such; with one CPU none."""

    def of_core(cpu: int) -> set[int]:
        return next(core for core in cores if cpu in core)

    assert choose(allowed, of_core) == expected


def test_the_report_says_what_is_pinned() -> None:
    assert "nothing is pinned" in str(ANYWHERE)
    assert str(Placement(0, 2)) == "pinned: the driver to CPU 0, each server to CPU 2"
