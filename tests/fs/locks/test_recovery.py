"""A process with a lock table is killed at every point of a request, and its successor at every
point of taking over: each finds what was granted, and the request, run again, has its effect once.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fs.locks.deaths import Points
from tests.fs.locks.processes import Table
from tests.fs.locks.scenarios import SCENARIOS, Scenario, World, is_between, view, view_of
from vhost9p.fs import lock_file
from vhost9p.fs.lock_file import LockFile
from vhost9p.fs.lock_records import Record

POINTS_MAX = 500


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    points = Points()
    points.install(monkeypatch)
    monkeypatch.setattr(lock_file, "POLL", 0)
    return points


def begin(scenario: Scenario, folder: Path, points: Points) -> World:
    """What comes before the request."""
    world = World(folder)
    world.waits = [*scenario.waits]
    points.at_wait = world.wait
    for step in scenario.before:
        step(world)
    return world


class Course:
    """What a scenario comes to if nobody is killed."""

    def __init__(self, scenario: Scenario, folder: Path, points: Points) -> None:
        world = begin(scenario, folder, points)
        self.before = world.state()
        self.result = scenario.request(world)
        self.after = world.state()
        self.rest = [(step(world), world.state()) for step in scenario.after]
        world.close()


def die(
    scenario: Scenario, course: Course, folder: Path, points: Points, at: int, again: int
) -> tuple[bool, bool]:
    """Runs a scenario in which the request is killed at one point, and its successor at another.
    Returns whether each was."""
    world = begin(scenario, folder, points)
    killed = points.dies(at, lambda: scenario.request(world))
    killed_again = points.dies(again, world.restart)
    world.sweep()
    world.restart()
    world.sweep()
    assert is_between(world.state(), course.before, course.after), (at, again, world.state())
    assert scenario.request(world) == course.result
    assert world.state() == course.after
    for step, (result, state) in zip(scenario.after, course.rest, strict=True):
        assert step(world) == result
        assert world.state() == state
    world.close()
    return killed, killed_again


def watch(scenario: Scenario, course: Course, folder: Path, points: Points, at: int) -> bool:
    """Kills the request at one point. Whatever is locked before and after it must be locked all the
    time. Returns whether it was killed."""
    world = begin(scenario, folder, points)
    before, after = (view(each.kernel for each in state) for state in (course.before, course.after))
    least = tuple(map(min, before, after))[scenario.has_gap :]

    def check() -> None:
        seen = view_of(world.table)[scenario.has_gap :]
        assert all(map(int.__ge__, seen, least)), (at, seen, least)

    points.at_each = check
    killed = points.dies(at, lambda: scenario.request(world))
    points.dies(-1, world.restart)
    points.dies(-1, lambda: scenario.request(world))
    points.at_each = lambda: None
    world.close()
    return killed


def kill_everywhere(scenario: Scenario, folder: Path, points: Points, stride: int) -> None:
    """Kills the request at each point, and the successor at each of so many (`stride`)."""
    course = Course(scenario, folder, points)
    for at in range(POINTS_MAX):
        for again in range(at % stride, POINTS_MAX, stride):
            killed, killed_again = die(scenario, course, folder, points, at, again)
            if not killed_again:
                break
        if not killed:
            break
    assert not killed


def each_name(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SCENARIOS, ids=each_name)
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.full)])
def test_a_death_at_any_point_changes_nothing(
    scenario: Scenario, stride: int, tmp_path: Path, points: Points
) -> None:
    kill_everywhere(scenario, tmp_path, points, stride)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=each_name)
def test_nobody_gets_meanwhile_what_stays_locked(
    scenario: Scenario, tmp_path: Path, points: Points
) -> None:
    course = Course(scenario, tmp_path, points)
    assert any(not watch(scenario, course, tmp_path, points, at) for at in range(POINTS_MAX))


def nothing(*args: object) -> None:
    """Does nothing."""


CONTROLS = (
    ("what is tried is not recorded", Record, "try_whole", nothing, "read lock over ranges"),
    ("nor what is granted", LockFile, "store", nothing, "read to write"),
    (
        "a process that has left is forgotten",
        Record,
        "_release",
        lambda record, at, process, request: record._remove(at),
        "unlock what was taken over",
    ),
    ("so is one with a file of its own", Record, "add_released", nothing, "a parent has a share"),
    ("fids that are gone are kept", Table, "_check", nothing, "clear"),
)


@pytest.mark.parametrize(
    ("owner", "name", "instead", "scenario"),
    [each[1:] for each in CONTROLS],
    ids=[each[0] for each in CONTROLS],
)
def test_the_test_notices(
    owner: type,
    name: str,
    instead: Callable[..., object],
    scenario: str,
    tmp_path: Path,
    points: Points,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of the parts is needed."""
    monkeypatch.setattr(owner, name, instead)
    (wanted,) = (each for each in SCENARIOS if each.name == scenario)
    with pytest.raises(AssertionError):
        kill_everywhere(wanted, tmp_path, points, 1)
