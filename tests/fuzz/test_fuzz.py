"""Every fuzz target runs its corpus, and goes on from there for some seconds; and the engine finds
what random inputs would not.

The seed is fixed, since a test should not fail by luck; `make fuzz` takes a new one. Runs are alike
all the same rather than equal: coverage depends on inode numbers, times and threads as well.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.csrc.test_csrc import build_folder, compile_into  # noqa: F401 (a fixture)
from tests.fuzz import run

SECONDS = 60 // len(run.TARGETS)
SEED = "-seed=1"
CORPORA_MAX = 300_000
"""Bytes of all inputs in the repository."""
PUZZLE = """
#include "fuzz.h"
void fuzz_begins(void) {}
void fuzz_once(struct fuzz_input *in)
{
    const uint32_t word = (uint32_t)fuzz_take(in, 4);
    if (fuzz_byte(in) == 'f' && fuzz_byte(in) == 'u' && fuzz_byte(in) == 'z')
        CHECK(word != 0x7a7a7566);
}
"""
"""A check that one of 2**56 inputs fails."""

pytestmark = [pytest.mark.skipif(not run.library(), reason=run.MISSING), pytest.mark.long]


@pytest.mark.parametrize("name", run.TARGETS)
def test_no_input_fails(name: str, build_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    target = run.TARGETS[name]
    command = target.command(build_folder)
    options = (SEED, f"-max_total_time={SECONDS}", target.failing)
    kept = len(list(target.corpus.iterdir()))
    run.FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        output = run.run(command, *options, tmp_path, target.corpus)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.output[-8000:]}\nCONTRIBUTING.md, Fuzz, says how to go on")
    assert run.executions(output) > kept > 0


def test_coverage_and_comparisons_lead_to_a_failing_input(tmp_path: Path) -> None:
    source = tmp_path / "fuzz_puzzle.c"
    source.write_text(PUZZLE)
    program = tmp_path / "puzzle"
    points = ("-fsanitize-coverage=trace-pc,trace-cmp", f"-I{run.HERE}", str(source))
    engine = (str(run.HERE / "engine.c"), "-fsanitize=address")
    objects = [tmp_path / "puzzle.o", tmp_path / "engine.o"]
    compile_into(objects[0], *points, "-fsanitize=address", "-c")
    compile_into(objects[1], *engine, "-c")
    parts = (*map(str, objects), str(run.library()), *run.LINK)
    compile_into(program, "-fsanitize=address", *parts)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run.run([str(program)], SEED, "-runs=2000000", f"-artifact_prefix={tmp_path}/")
    assert "word != 0x7a7a7566" in failed.value.output


def test_the_corpora_are_small() -> None:
    sizes = [file.stat().st_size for file in (run.HERE / "corpus").rglob("*") if file.is_file()]
    assert 0 < sum(sizes) < CORPORA_MAX
