"""A guest at work while its workers are killed (run.py): all is as in a run without deaths."""

import re
import subprocess
import sys

import pytest

TIMEOUT = 3600


@pytest.mark.long
@pytest.mark.parametrize("deaths", [60, pytest.param(5000, marks=pytest.mark.full)])
def test_a_load_goes_on_as_without_deaths(deaths: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.deaths_under_load.run", "--deaths", str(deaths)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    inside = re.search(r"(\d+) of them inside", done.stdout)
    assert inside and int(inside[1]) > 0, done.stdout
