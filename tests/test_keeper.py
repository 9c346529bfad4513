"""The keeper alone: which ends of a worker it follows with another one, and what it leaves open.

A keeper runs in a process of its own, with a function of this test in the place of a worker's
work.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vhost9p.back_off import FIRST_S, LONGEST_S, SOON_S, BackOff
from vhost9p.ends import EXIT_FAULT
from vhost9p.keeper import EXIT_FAILURE

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, signal, sys, time
from vhost9p.stop_signals import STOP
from vhost9p.keeper import Task, become_keeper
from vhost9p.native.process import close_others
from vhost9p.output import start_log
from vhost9p.progress import Progress

progress = Progress(1)
progress.serves()
turns = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND)

def turn():
    "The number of this worker."
    os.write(turns, b"x")
    return os.fstat(turns).st_size

def opened():
    return sorted(os.listdir("/proc/self/fd"), key=int)

def work(kept, cause):
{body}

start_log("info")
signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
become_keeper("test", 2, [turns], lambda: Task(work{requests}), progress)
"""


def run(folder: Path, body: str, requests: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a keeper to its end. `body` is the worker's work, `requests` how the keeper counts what
    workers have served."""
    body = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return run_script(folder, SCRIPT.format(body=body, requests=requests and f", {requests}"))


def run_script(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(folder / "turns")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 1, 2])
def test_an_orderly_end_is_the_keepers(tmp_path: Path, code: int) -> None:
    body = f"    turn()\n    return {code}"
    script = SCRIPT.format(body=body, requests="").replace("progress.serves()", "")
    done = run_script(tmp_path, script)
    assert (done.returncode, "told to end" in done.stderr) == (code, code == 0)
    assert (tmp_path / "turns").read_bytes() == b"x"


@pytest.mark.parametrize("code", [1, 2])
def test_a_successor_that_lacks_something_is_followed(tmp_path: Path, code: int) -> None:
    done = run(tmp_path, f"return {code} if turn() < 3 else 0")
    assert done.returncode == 0
    assert done.stderr.count(f"the worker ended with status {code}, death ") == 2


def test_a_signal_is_followed_by_another_worker(tmp_path: Path) -> None:
    body = "number = turn()\nif number < 4: os.kill(os.getpid(), [0, 9, 11, 15][number])\n"
    done = run(tmp_path, f"{body}if number == 3: signal.pthread_sigmask(1, [15])\nreturn 0")
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert [("SIGKILL, death 1:" in lines[0]), ("SIGSEGV, death 2:" in lines[1])] == [True, True]
    assert lines[0].endswith(": the next one goes on at once")
    assert lines[1].endswith(f": the next one goes on in {FIRST_S} s")


def test_one_that_has_served_is_followed_at_once(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "if turn() < 5: os.kill(os.getpid(), 9)\nreturn 0",
        requests="lambda: os.fstat(turns).st_size",
    )
    assert done.stderr.count(": the next one goes on at once") == 4


def test_the_next_worker_hears_why_the_last_one_ended(tmp_path: Path) -> None:
    body = f"""
print(cause.name, file=sys.stderr, flush=True)
number = turn()
if number == 3: os._exit({EXIT_FAULT})
if number < 5: os.kill(os.getpid(), [0, 9, 11, 0, 6][number])
return 0
"""
    lines = run(tmp_path, body).stderr.splitlines()
    causes = [line for line in lines if line.isupper()]
    assert causes == ["OTHER", "OTHER", "FAULT", "FAULT", "FAULT"]


@pytest.mark.parametrize("how", ["frontends=lambda: [turns, -1]", "is_awaited=lambda: True"])
def test_a_frontend_that_waits_ends_a_pause(tmp_path: Path, how: str) -> None:
    """The pause is an hour, the test's patience a minute."""
    script = SCRIPT.format(
        body="    if turn() < 3: os.kill(os.getpid(), 11)\n    return 0",
        requests=f", {how}",
    ).replace("progress = ", "from vhost9p import back_off\nback_off.FIRST_S = 3600\n"
              "back_off.LONGEST_S = 3600\nprogress = ")  # fmt: skip
    done = run_script(tmp_path, script)
    assert done.returncode == 0
    assert "death 2: the next one goes on in 3600.0 s" in done.stderr


def test_one_that_somebody_kills_is_followed_soon(tmp_path: Path) -> None:
    done = run(tmp_path, "if turn() < 6: os.kill(os.getpid(), 9)\nreturn 0")
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()[:5]] == [
        "the next one goes on at once",
        *[f"the next one goes on in {FIRST_S} s"] * 4,
    ]


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 11)", "return 1"])
def test_one_that_has_served_is_not_if_it_faults_or_gives_up(tmp_path: Path, how: str) -> None:
    done = run(
        tmp_path,
        f"if turn() < 4: {how}\nreturn 0",
        requests="lambda: os.fstat(turns).st_size",
    )
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()[:3]] == [
        "the next one goes on at once",
        f"the next one goes on in {FIRST_S} s",
        f"the next one goes on in {2 * FIRST_S} s",
    ]


@pytest.mark.parametrize("how", [f"os._exit({EXIT_FAULT})", "raise ZeroDivisionError('a fault')"])
def test_so_is_an_error_that_nobody_expected(tmp_path: Path, how: str) -> None:
    done = run(tmp_path, f"if turn() == 1: {how}\nreturn 0")
    assert done.returncode == 0
    assert f"ended with status {EXIT_FAULT}, death 1" in done.stderr
    assert ("ZeroDivisionError: a fault" in done.stderr) == ("fault" in how)


def test_what_a_dead_worker_had_stays_open(tmp_path: Path) -> None:
    """With its number and position, until the next one closes what it does not go on with."""
    body = """
if turn() == 1:
    for _ in range(50): os.dup(turns)
    os.dup2(os.open(sys.argv[1], os.O_RDWR), 100)
    os.lseek(100, 7, os.SEEK_SET)
    os.kill(os.getpid(), 9)
left = len(opened())
close_others({*kept, 100})
print(left, len(opened()), os.lseek(100, 0, os.SEEK_CUR), file=sys.stderr)
sys.stderr.flush()
return 0
"""
    # Streams, score, kills, turns, signals, the worker's pidfd, and what lists them.
    assert run(tmp_path, body).stderr.splitlines()[-2] == f"{9 + 52} {9 + 1} 7"


def test_nothing_of_main_stays_open(tmp_path: Path) -> None:
    body = "print(opened(), file=sys.stderr)\nreturn 0"
    script = SCRIPT.format(body="    " + body.replace("\n", "\n    "), requests="")
    script = script.replace('start_log("info")', "[os.dup(0) for _ in range(20)]")
    assert len(run_script(tmp_path, script).stderr.splitlines()[0].split(",")) == 9


def test_a_vm_that_was_never_served_ends(tmp_path: Path) -> None:
    """The host lacks something, and would lack it the next time."""
    body = "    turn()\n    raise RuntimeError('no thread can be started')"
    script = SCRIPT.format(body=body, requests="").replace("progress.serves()", "")
    done = run_script(tmp_path, script)
    assert done.returncode == EXIT_FAILURE
    assert done.stderr.endswith("death 1: it has not served yet, so the VM ends\n")
    assert (tmp_path / "turns").read_bytes() == b"x"


def test_the_end_of_a_worker_is_explained_if_nobody_asked_for_it(tmp_path: Path) -> None:
    done = run(tmp_path, "return 0")
    assert done.stderr == (
        "vhost9p: WARNING: the worker was told to end, but not by the daemon: its VM ends\n"
    )
    assert run(tmp_path, "progress.finish(0)\nreturn 0").stderr == ""


def test_a_worker_that_closes_its_keepers_descriptors_ends_both(tmp_path: Path) -> None:
    body = """
turn()
os.closerange(3, 1000)
os.kill(os.getppid(), 15)
time.sleep(1000)
"""
    done = run(tmp_path, body)
    assert done.returncode == EXIT_FAILURE
    assert "the worker closed a descriptor of its keeper: both end" in done.stderr


def test_the_signal_to_stop_reaches_the_worker(tmp_path: Path) -> None:
    body = """
turn()
os.kill(os.getppid(), signal.SIGINT)
assert signal.sigwait(STOP) == signal.SIGINT
os.kill(os.getpid(), 9)
"""
    done = run(tmp_path, body)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "turns").read_bytes() == b"x"


def test_a_signal_to_stop_ends_a_pause(tmp_path: Path) -> None:
    """When deaths come so soon that pauses are most of the time."""
    script = SCRIPT.format(body="    os.kill(os.getpid(), 9)", requests="")
    command = [sys.executable, "-c", script, str(tmp_path / "turns")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as keeper:
        assert keeper.stderr
        for line in keeper.stderr:
            if "death 6" in line:
                keeper.terminate()
        assert keeper.wait() == 0


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_while_deaths_come_soon() -> None:
    back_off = BackOff(Clock())
    pauses = [back_off.died() for _ in range(12)]
    assert pauses[:4] == [0, FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert pauses[-1] == LONGEST_S
    assert back_off.deaths == 12


def test_what_has_served_begins_the_pauses_anew() -> None:
    back_off = BackOff(Clock())
    assert [back_off.died() for _ in range(3)][-1] > 0
    assert back_off.died(served=True) == 0
    assert back_off.died() == FIRST_S


def test_a_long_life_ends_the_pauses() -> None:
    clock = Clock()
    back_off = BackOff(clock)
    for _ in range(5):
        back_off.died()
    back_off.started()
    clock.now += SOON_S
    assert back_off.died() == 0
    back_off.started()
    assert back_off.died() == FIRST_S


LINES_MAX = 500
"""Lines of Python, without empty ones and what a module begins with, that somebody has to read who
wants to know what a keeper does once it is confined."""


def test_the_keeper_can_be_read_in_one_sitting() -> None:
    read: dict[str, int] = {}
    wanted = ["vhost9p.keeper"]
    while wanted:
        name = wanted.pop()
        text = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        lines = text.splitlines()[ast.parse(text).body[0].end_lineno :]
        read[name] = len([line for line in lines if line.strip()])
        for line in lines:
            if found := re.match(r"from (vhost9p[.\w]*) import ([\w, ]+)", line):
                package, names = found[1], found[2].split(", ")
                modules = (
                    [f"vhost9p.{each}" for each in names] if package == "vhost9p" else [package]
                )
                wanted += [each for each in modules if each not in {*read, "vhost9p._native"}]
    assert "vhost9p.native.process" in read and "vhost9p.stop_signals" in read
    assert sum(read.values()) <= LINES_MAX, read
