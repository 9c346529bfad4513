"""Builds the fuzz targets, runs them, and keeps what they find.

    python -m tests.fuzz.run [--seconds N] [TARGET…]
    python -m tests.fuzz.run --input FILE TARGET

The first fuzzes each target for so long, prints executions and coverage, and leaves the smallest
set of inputs that covers the same in corpus/TARGET; an input that fails is left in build/fuzz. The
second runs one input.

Targets are the fuzz_*.c and fuzz_*.py beside this file. libFuzzer drives both: for Python atheris
has it built in, and atheris's wheel brings the library that targets in C are linked with. So gcc
compiles them, as it compiles everything else here, with its sanitizers (engine.c).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.csrc.test_csrc import VARIANTS, compile_into, made_once, object_of, sources_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "fuzz"
LIBRARY = "libclang_rt.fuzzer_no_main.a"
MISSING = "no fuzzing here: there is no wheel of atheris for this machine and Python"
LINK = ("-Wl,--wrap=__sanitizer_cov_trace_pc", "-l:libstdc++.so.6", "-lm", "-pthread")
OPTIONS = (
    *("-len_control=0", "-max_len=400", "-timeout=300", "-rss_limit_mb=2048"),
    *("-print_final_stats=1", "-handle_bus=0", "-verbosity=1"),
)
"""The targets in C handle SIGBUS themselves."""
ENVIRONMENT = {"ASAN_OPTIONS": "handle_sigbus=0:detect_leaks=1", "PYTHONHASHSEED": "0"}
POINT = re.compile(rb"^ *([0-9a-f]+):.*call.*<__wrap___sanitizer_cov_trace_pc>", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A fuzz target: its file, and the inputs that are kept of it."""

    file: Path

    @property
    def name(self) -> str:
        """What it fuzzes."""
        return self.file.stem.removeprefix("fuzz_")

    @property
    def corpus(self) -> Path:
        """The inputs in the repository."""
        return HERE / "corpus" / self.name

    @property
    def failing(self) -> str:
        """The option that says where an input goes that fails; libFuzzer prints its path."""
        return f"-artifact_prefix={FOLDER / self.name}-"

    def command(self, folder: Path) -> list[str]:
        """The words that start it; a program in C is built in `folder` first."""
        if self.file.suffix == ".py":
            return [sys.executable, "-m", f"tests.fuzz.{self.file.stem}"]
        return [str(build(self.file, folder))]


TARGETS = {
    target.name: target
    for target in map(Target, sorted([*HERE.glob("fuzz_*.c"), *HERE.glob("fuzz_*.py")]))
}


def library() -> Path | None:
    """libFuzzer's archive; None if atheris is not installed."""
    found = find_spec("atheris")
    path = Path(str(found.origin)).parents[1] / LIBRARY if found else None
    return path if path and path.exists() else None


def build(program: Path, folder: Path) -> Path:
    """A target in C."""
    target = folder / "fuzzed" / program.stem
    with made_once(target) as missing:
        if missing:
            objects = [object_of(source, "fuzzed", folder) for source in sources_of(program)]
            objects.append(object_of(HERE / "engine.c", "optimised", folder))
            compile_into(target, *VARIANTS["fuzzed"], *map(str, objects), str(library()), *LINK)
    return target


@contextmanager
def surroundings() -> Iterator[dict[str, str]]:
    """The environment of a target, with a directory of its own for files, in memory if possible."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="v9-fuzz-", dir=where) as scratch:
        yield {**os.environ, **ENVIRONMENT, "TMPDIR": scratch}


def run(command: Sequence[str], *arguments: str | Path, **environment: str) -> str:
    """Runs a target; returns what it printed. Raises CalledProcessError, with the same as output,
    if an input fails."""
    with surroundings() as usual:
        done = subprocess.run(
            [*command, *OPTIONS, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**usual, **environment},
            check=True,
        )
    return done.stdout


def executions(output: str) -> int:
    """How many inputs were run."""
    found = re.search(r"stat::number_of_executed_units: (\d+)", output)
    return int(found[1]) if found else 0


# ---- coverage ------------------------------------------------------------------------------------


def rooms(program: str, points: Sequence[str]) -> Counter[str]:
    """How many of these addresses lie in each folder of csrc."""
    command = ("addr2line", "-e", program)
    lines = subprocess.check_output(command, input="\n".join(points), text=True)
    return Counter(re.findall(r"/csrc/(\w+)/\w+\.[ch]:", lines))


def coverage(target: Target, command: Sequence[str]) -> str:
    """What the corpus passes: of the points of each room for C, else as libFuzzer counts them."""
    with tempfile.NamedTemporaryFile("r") as file:
        output = run(command, "-runs=0", target.corpus, VHOST9P_FUZZ_POINTS=file.name)
        points = file.read().split()
    if target.file.suffix == ".py":
        return f"{re.findall('cov: ([0-9]+)', output)[-1]} points"
    text = subprocess.check_output(["objdump", "-d", command[0]])
    every = rooms(command[0], [f"0x{each.decode()}" for each in POINT.findall(text)])
    passed = rooms(command[0], points)
    parts = [f"{room} {passed[room]} of {every[room]}" for room in sorted(every)]
    return f"{passed.total()} of {every.total()} points ({', '.join(parts)})"


def forget_old_builds() -> None:
    """Removes what was built from sources that have changed since."""
    sources = [*(ROOT / "csrc").rglob("*.[ch]"), *HERE.glob("*.[ch]")]
    newest = max(source.stat().st_mtime for source in sources)
    for folder in (FOLDER / "fuzzed", FOLDER / "optimised"):
        if folder.exists() and folder.stat().st_mtime < newest:
            shutil.rmtree(folder)


# ---- the command ---------------------------------------------------------------------------------


def keep_smallest(target: Target, command: Sequence[str], found: Path) -> None:
    """Replaces the corpus by the smallest set of inputs that covers what it and `found` do. How
    often a point is passed does not count: the set would be many times larger."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        run(command, "-merge=1", "-use_counters=0", folder, target.corpus, found)
        shutil.rmtree(target.corpus)
        shutil.copytree(folder, target.corpus)


def fuzz(target: Target, seconds: int) -> bool:
    """Fuzzes one target, and prints what came of it; whether no input failed."""
    found = FOLDER / "found" / target.name
    for folder in (found, target.corpus):
        folder.mkdir(parents=True, exist_ok=True)
    command = target.command(FOLDER)
    try:
        output = run(command, f"-max_total_time={seconds}", target.failing, found, target.corpus)
        keep_smallest(target, command, found)
        where = coverage(target, command)
    except subprocess.CalledProcessError as error:
        print(f"{error.output}\n{target.name}: an input fails; see CONTRIBUTING.md, Fuzz")
        return False
    kept = [path.stat().st_size for path in target.corpus.iterdir()]
    print(f"{target.name}: {executions(output)} executions in {seconds} s without a finding")
    print(f"  passed: {where}")
    print(f"  corpus: {len(kept)} inputs, {sum(kept)} bytes", flush=True)
    return True


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="Fuzzes the ring, the set-up and the decoders.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="run this one input")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if options.input and len(options.targets) != 1:
        parser.error("--input needs one target")
    if not library():
        sys.exit(MISSING)
    forget_old_builds()
    targets = [TARGETS[name] for name in options.targets] or list(TARGETS.values())
    if options.input:
        command = [*targets[0].command(FOLDER), *OPTIONS, str(options.input)]
        with surroundings() as usual:
            return subprocess.call(command, cwd=ROOT, env=usual)
    failed = [target.name for target in targets if not fuzz(target, options.seconds)]
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
