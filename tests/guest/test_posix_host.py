"""The POSIX conformance program on the host's own file system, where nothing may fail.

That shows that its expectations are those of Linux: what then fails in a guest is the fault of
what serves the guest. As root the whole program runs, as another user the part that needs no
privileges.
"""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.guest.posix.build import build_posix


@pytest.fixture(scope="module")
def program() -> Path:
    return build_posix()


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def counts(output: str) -> tuple[int, int, int]:
    """Passed, failed and skipped, as the summary has them."""
    words = output.splitlines()[-1].replace(",", "").split()
    return int(words[0]), int(words[2]), int(words[4])


def starting(lines: Iterable[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(word)]


def test_nothing_fails_on_the_host(program: Path, tmp_path: Path) -> None:
    result = run(program, tmp_path, "--mmap")
    lines = result.stdout.splitlines()
    assert not starting(lines, "not ok ")
    assert result.returncode == 0, result.stderr
    passed, failed, skipped = counts(result.stdout)
    assert passed == len(starting(lines, "ok "))
    assert failed == 0
    assert skipped == len(starting(lines, "skip "))
    assert passed > (4000 if os.geteuid() == 0 else 2000)
    assert not list(tmp_path.iterdir())


def test_only_runs_what_is_asked_for(program: Path, tmp_path: Path) -> None:
    listed = run(program, "--list").stdout.splitlines()
    assert len(listed) == len(set(listed))
    wanted = [name for name in listed if name.startswith("readdir/entry/f")]
    result = run(program, tmp_path, "--only", "readdir/entry/f")
    assert wanted == ["readdir/entry/file", "readdir/entry/fifo"]
    assert starting(result.stdout.splitlines(), "ok ") == [f"ok {name}" for name in wanted]
    assert counts(result.stdout) == (2, 0, 0)


def test_a_share_has_the_first_case_of_each_function_and_every_nth(program: Path) -> None:
    def listed(*words: object) -> list[str]:
        return run(program, "--list", *words).stdout.splitlines()

    every = listed()
    for share in (2, 13, 10**6):
        some = listed("--every", share)
        assert set(some) < set(every)
        assert len(every) // share < len(some)
        # The only case of its function, the first of many, and one of those that follow it.
        assert {"permission/access-ids", "permission/file/owner/0"} <= set(some)
    modes = [name for name in every if name.startswith("permission/file/")]
    assert listed("--every", 7, "--only", "permission/file/") == [
        name for name in modes if "root" not in name
    ][::7] + [name for name in modes if "root" in name]


def test_quiet_leaves_out_what_passed(program: Path, tmp_path: Path) -> None:
    result = run(program, tmp_path, "--quiet", "--only", "readdir/entry/f")
    assert result.stdout.splitlines() == ["2 passed, 0 failed, 0 skipped"]


def test_failures_are_reported(program: Path) -> None:
    """/proc/self/task takes no directory: the program says so and does not count it as success."""
    result = run(program, "/proc/self/task")
    assert result.returncode == 2
    assert result.stderr.startswith("posix: cannot make a directory in /proc/self/task: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_an_unmet_expectation_fails(program: Path, tmp_path: Path) -> None:
    """On a tmpfs with few inodes the large directories fail, and all else goes on."""
    script = 'mount -t tmpfs -o nr_inodes=100 tmpfs "$1" && exec "$2" "$1" --only readdir/complete'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = starting(result.stdout.splitlines(), "not ok ")
    assert [line.split()[2] for line in failed] == [
        "readdir/complete/100",
        "readdir/complete/500",
        "readdir/complete/2000",
    ]
    assert all("expected success got ENOSPC" in line for line in failed)
    assert result.returncode == 1
    assert counts(result.stdout) == (4, 3, 0)


def test_a_prefix_of_nothing_is_an_error(program: Path, tmp_path: Path) -> None:
    result = run(program, tmp_path, "--only", "nothing/")
    assert result.returncode == 2
    assert "no case begins with nothing/" in result.stderr


def test_wrong_arguments_print_the_usage(program: Path, tmp_path: Path) -> None:
    for words in ([], [tmp_path, "--unknown"], [tmp_path, "two"], [tmp_path, "--every", "0"]):
        result = run(program, *words)
        assert result.returncode == 2
        assert "usage: posix DIR" in result.stderr
