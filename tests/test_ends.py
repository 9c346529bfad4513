"""Which ends of a worker may be due to what it served, and what deaths at its start lead to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from vhost9p.attempts import DEATHS, Attempts
from vhost9p.ends import EXIT_FAULT, FAULTS, OOM_KILLS, Cause, cause_of, count_oom_kills


def end_by(number: int, *, oom_kills: int = 0) -> Cause:
    """Why a process has ended that gets this signal, or exits with -`number`."""
    pid = os.fork()
    if pid == 0:
        if number <= 0:
            os._exit(-number)
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
    end = os.waitid(os.P_PID, pid, os.WEXITED)
    assert end
    return cause_of(end, oom_kills=oom_kills)


@pytest.mark.parametrize("number", sorted(FAULTS))
def test_faults(number: int) -> None:
    assert end_by(number) is Cause.FAULT
    assert end_by(number, oom_kills=1) is Cause.FAULT


def test_an_error_that_nobody_expected_is_a_fault() -> None:
    assert end_by(-EXIT_FAULT) is Cause.FAULT
    assert end_by(-1) is Cause.OTHER


def test_sigkill_is_one_of_memory_if_the_kernel_says_so() -> None:
    assert end_by(signal.SIGKILL) is Cause.OTHER
    assert end_by(signal.SIGKILL, oom_kills=1) is Cause.MEMORY
    assert end_by(signal.SIGTERM, oom_kills=1) is Cause.OTHER


def test_the_kernels_count_is_read(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "vmstat")
    with open(path, "w", encoding="ascii") as file:
        file.write("nr_free_pages 1\noom_kill 42\nnuma_hit 7\n")
    fd = os.open(path, os.O_RDONLY)
    assert count_oom_kills(fd) == 42
    os.close(fd)
    assert count_oom_kills(-1) == 0
    with open(OOM_KILLS, encoding="ascii") as lines:
        assert any(line.startswith("oom_kill ") for line in lines)


# ---- attempts ------------------------------------------------------------------------------------


def die(
    attempts: Attempts, device: int | None, cause: Cause = Cause.FAULT
) -> list[tuple[int, bool]]:
    """A worker dies while it takes over a device, or elsewhere; what the next one gives up."""
    if device is not None:
        attempts.taking_over(device).__enter__()
    attempts.begin(cause)
    return list(attempts.due())


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    begun = Attempts(3)
    begun.succeeded()
    begun.begin(Cause.FAULT)  # it has served before
    assert not list(begun.due())
    yield begun


def test_the_third_death_gives_up_a_part_and_the_sixth_all(attempts: Attempts) -> None:
    given_up = [die(attempts, 1) for _ in range(3 * DEATHS)]
    expected: list[list[tuple[int, bool]]] = [[], [], [(1, False)], [], [], [(1, True)]]
    assert given_up == [*expected, [], [], [(1, True)]]


def test_a_death_elsewhere_counts_for_all(attempts: Attempts) -> None:
    assert [die(attempts, None) for _ in range(DEATHS)][-1] == [(n, False) for n in range(3)]
    assert die(attempts, None) == []


def test_what_is_no_fault_counts_for_nothing(attempts: Attempts) -> None:
    for cause in (Cause.OTHER, Cause.MEMORY):
        for _ in range(10 * DEATHS):
            assert die(attempts, 1, cause) == []


def test_success_forgets_deaths(attempts: Attempts) -> None:
    for _ in range(3):
        assert not [each for _ in range(DEATHS - 1) for each in die(attempts, 1)]
        attempts.succeeded()
        assert die(attempts, None) == []


def test_a_new_version_is_suspected_until_it_has_served() -> None:
    attempts = Attempts(3, is_upgrade=True)
    attempts.begin(Cause.OTHER)
    assert not [each for _ in range(10 * DEATHS) for each in die(attempts, 1)]
    attempts.succeeded()
    given_up = [die(attempts, 1) for _ in range(1 + DEATHS)]
    assert given_up == [[], [], [], [(1, False)]]


def test_giving_up_is_done_again_if_the_worker_dies_in_it(attempts: Attempts) -> None:
    for _ in range(DEATHS - 1):
        die(attempts, 1)
    attempts.taking_over(1).__enter__()
    attempts.begin(Cause.FAULT)
    assert next(attempts.due()) == (1, False)
    attempts.begin(Cause.OTHER)
    assert list(attempts.due()) == [(1, False)]
    attempts.begin(Cause.OTHER)
    assert list(attempts.due()) == []
