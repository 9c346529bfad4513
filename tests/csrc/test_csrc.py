"""Builds every test_*.c beside this file, and the fuzzers, with the csrc files that its first
lines name, and runs it: with the address and undefined-behaviour sanitizers, and as it ships. Those
with threads are run with the thread sanitizer as well."""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
BUILDS = {
    "sanitized": ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "optimised": ("-O2",),
}
RACES = ("-g", "-O1", "-fsanitize=thread", "-Wno-tsan")  # of fences: around them all is atomic
PROGRAMS = sorted([*HERE.glob("test_*.c"), *(ROOT / "tests" / "fuzz").glob("fuzz_*.c")])

NOT_FOR_RACES = (
    "test_vring_threads",  # two threads that spin, and
    "fuzz_vring",  # one that changes all memory: by far too slow
    "test_guest_mem",  # takes memory away under one that writes there, on purpose
)
THREADED = [
    program
    for program in PROGRAMS
    if "pthread_create" in program.read_text() and program.stem not in NOT_FOR_RACES
]


def build(program: Path, flags: tuple[str, ...], folder: Path) -> Path:
    """Compiles a test program; it begins with `// sources: a.c b.c`, over as many lines of such
    comments as it takes."""
    lines = itertools.takewhile(lambda line: line.startswith("//"), program.open())
    match = re.fullmatch(r"sources: (.+)", " ".join(line[2:].strip() for line in lines))
    assert match, f"{program.name} does not begin with its sources"
    sources = [str(ROOT / "csrc" / name) for name in match[1].split()]
    target = folder / program.stem
    compiler = os.environ.get("CC", "cc")
    includes = (f"-I{ROOT / 'csrc'}", f"-I{HERE}")
    command = [compiler, *WARNINGS, *flags, *includes, "-o", str(target), str(program), *sources]
    subprocess.run([*command, "-pthread"], check=True)
    return target


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_program(program: Path, kind: str, tmp_path: Path) -> None:
    run(build(program, BUILDS[kind], tmp_path))


@pytest.mark.full
@pytest.mark.parametrize("program", THREADED, ids=lambda path: path.stem)
def test_races(program: Path, tmp_path: Path) -> None:
    run(build(program, RACES, tmp_path))


def run(target: Path) -> None:
    """Runs a program to its end, which has to be good."""
    # The programs catch SIGBUS themselves, which is the point of some; others end by SIGSEGV.
    options = "handle_sigbus=0:handle_segv=0:detect_leaks=1"
    environment = {**os.environ, "ASAN_OPTIONS": options}
    result = subprocess.run(
        [str(target)], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
