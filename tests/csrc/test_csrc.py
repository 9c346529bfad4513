"""Collects every case of the C tests as a test of its own, for each way of building it.

The programs are the test_*.c below this folder. Each begins with the csrc files
that it is made of, and its cases are its lines `TEST(name)` (see check.h); those of
`LONG_TEST(name)` run in the full matrix only. All are built with the address and
undefined-behaviour sanitizers and as they ship; those with threads with the thread sanitizer as
well. Those that kill a process at every point are built for that instead.

Outside of the full matrix a program runs with the sanitizers, which see what it does as it ships
and more. Only what depends on how fast the code is (threads), and what takes instructions one by
one, runs as it ships there.

What is built is shared by all processes of a test run: each object and each program is compiled
once per variant, by the first that needs it, and an object that is the same in two variants once.
"""

import fcntl
import functools
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests import huge_pages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INCLUDED = (ROOT / "csrc", HERE, ROOT / "tests")
WARNINGS = (
    *("-std=c11", "-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror"),
    *("-Wno-unused-parameter", "-Wno-missing-field-initializers"),  # as csrc/build.py
)
# Reports name lines (-g1) but no variables, which would take a fifth of the compiler's time.
VARIANTS = {
    "sanitized": ("-g1", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "optimised": ("-O2",),
    # -Wno-tsan: it warns of fences, but around them all is atomic.
    "races": ("-g", "-O1", "-fsanitize=thread", "-Wno-tsan"),
}
TESTED = tuple(VARIANTS)
# For programs that kill processes (POINTS), and for tests/fuzz.
VARIANTS["points"] = (*VARIANTS["optimised"], "-DV9_POINTS")  # csrc/base/commit.h
VARIANTS["fuzzed"] = (*VARIANTS["sanitized"], "-fsanitize-coverage=trace-pc,trace-cmp")
PROGRAMS = sorted(HERE.rglob("test_*.c"))
SKIPPED = 77  # check.h's
HUGE_PAGES = {"half_a_huge_page_is_mapped": 2}
"""Cases that need some, and how many."""
STEPPED = ("test_recover", "test_lost")  # instruction by instruction, which takes long

POINTS = ("server/restart.h", "server/kinds_of_")  # what kills at them
THREADS = ("pthread_create", "server/served.h")  # what starts some
NOT_FOR_RACES = (
    "test_virtqueue_threads",  # two threads that spin, and
    "test_racing_guest",  # one that changes all memory: by far too slow
    "test_guest_memory",  # takes memory away under one that writes there, on purpose
)


@functools.cache
def cases_of(program: Path, *, kind: str = "(?:LONG_)?TEST") -> list[str]:
    return re.findall(rf"^{kind}\((\w+)\)$", program.read_text(), re.MULTILINE)


def is_threaded(program: Path) -> bool:
    return any(word in program.read_text() for word in THREADS)


@functools.cache
def variants_of(program: Path) -> list[str]:
    if any(word in program.read_text() for word in POINTS):
        return ["points"]
    races = is_threaded(program) and program.stem not in NOT_FOR_RACES
    return [variant for variant in TESTED if variant != "races" or races]


@functools.cache
def quick_variants_of(program: Path) -> list[str]:
    """Those outside of the full matrix."""
    if program.stem in STEPPED:
        return ["optimised"]
    left_out = ("races",) if is_threaded(program) else ("races", "optimised")
    return [variant for variant in variants_of(program) if variant not in left_out]


def builds() -> list[tuple[Path, str]]:
    return [(program, variant) for program in PROGRAMS for variant in variants_of(program)]


def as_test(program: Path, variant: str, *case: str) -> object:
    """The parameters of one test, with a name that -k finds by its room, program and case."""
    long = any(name in cases_of(program, kind="LONG_TEST") for name in case)
    quick = variant in quick_variants_of(program) and not long
    marks = [] if quick else [pytest.mark.full]
    name = "-".join((program.parent.name, program.stem, *case, variant))
    return pytest.param(program, variant, *case, id=name, marks=marks)


# ---- building ------------------------------------------------------------------------------------


@contextmanager
def made_once(target: Path) -> Iterator[bool]:
    """Whether the caller has to make the file; others wait until it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not target.exists()


def compile_into(target: Path, *arguments: str) -> None:
    unfinished = target.with_suffix(".unfinished")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *WARNINGS, *arguments, "-o", str(unfinished)], check=True)
    unfinished.rename(target)


@functools.cache
def mentions(source: Path, word: str) -> bool:
    """Whether a file, or one that it includes, has a word."""
    text = source.read_text()
    included = (
        path
        for name in re.findall(r'^#include "(.+)"', text, re.MULTILINE)
        for path in (source.parent / name, *(top / name for top in INCLUDED))
        if path.is_file()
    )
    return word in text or any(mentions(path, word) for path in included)


def object_of(source: Path, variant: str, folder: Path) -> Path:
    if variant == "points" and not mentions(source, "V9_POINTS"):
        variant = "optimised"
    target = (folder / variant / source.relative_to(ROOT)).with_suffix(".o")
    with made_once(target) as missing:
        if missing:
            includes = (f"-I{top}" for top in INCLUDED)
            compile_into(target, *VARIANTS[variant], *includes, "-pthread", "-c", str(source))
    return target


def sources_of(program: Path, *, rooms: bool = True) -> list[Path]:
    """A program begins with `// sources: a.c room/`, over as many lines of comments as it takes; a
    room stands for all of its files."""
    lines = itertools.takewhile(lambda line: line.startswith("//"), program.open())
    match = re.fullmatch(r"sources: (.+)", " ".join(line[2:].strip() for line in lines))
    assert match, f"{program.name} does not begin with its sources"
    named = (ROOT / "csrc" / name for name in match[1].split())
    files = (
        [path] if path.is_file() else sorted(path.glob("*.c")) if rooms else [] for path in named
    )
    return [program, *dict.fromkeys(itertools.chain(*files))]


def build(program: Path, variant: str, folder: Path) -> Path:
    target = (folder / variant / program.relative_to(ROOT)).with_suffix("")
    with made_once(target) as missing:
        if missing:
            objects = [str(object_of(source, variant, folder)) for source in sources_of(program)]
            # Bound at once: most programs go on in many children, each of which would do it again.
            compile_into(target, *VARIANTS[variant], "-pthread", "-Wl,-z,now", *objects)
    return target


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all processes of this run: pytest-xdist gives each a folder below the run's own."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "csrc"


# ---- tests ---------------------------------------------------------------------------------------


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The programs catch SIGBUS themselves, which is the point of some; others end by SIGSEGV.
    options = "handle_sigbus=0:handle_segv=0:detect_leaks=1"
    return subprocess.run(
        [str(target), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": options},
    )


@pytest.mark.parametrize(
    ("program", "variant", "case"),
    [as_test(*pair, case) for pair in builds() for case in cases_of(pair[0])],
)
def test_case(program: Path, variant: str, case: str, build_folder: Path) -> None:
    target = build(program, variant, build_folder)
    with ExitStack() as stack:
        with suppress(OSError):  # the case says so itself
            stack.enter_context(huge_pages.available(HUGE_PAGES.get(case, 0)))
        result = run(target, case)
    if result.returncode == SKIPPED:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_case_of_a_program_is_collected(program: Path, build_folder: Path) -> None:
    target = build(program, quick_variants_of(program)[0], build_folder)
    listed = run(target, "--list").stdout.split()
    assert listed and listed == cases_of(program)
