"""remap and forbid on real mounts: each case runs in a mount namespace of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy import namespace_cases
from tests.policy.namespace_cases import UNSUPPORTED

ROOT = Path(__file__).parents[2]
# Not root: a user namespace, in which the user is.
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


@pytest.mark.parametrize(
    "case",
    [
        namespace_cases.bind_mounts_share,
        namespace_cases.reused_number_is_new,
        namespace_cases.reused_number_is_new_on_ramfs,
        namespace_cases.identities_survive_a_copied_namespace,
        namespace_cases.reusable_ids_are_watched,
        namespace_cases.odd_names_and_covered_mounts,
        namespace_cases.mounts_are_found_after_every_change,
        namespace_cases.forbid_is_refused_on_overlayfs,
    ],
    ids=lambda case: case.__name__,
)
def test_case(case: object, tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(UNSHARE)} is not permitted here")
    name = getattr(case, "__name__", "")
    command = [sys.executable, "-m", namespace_cases.__name__, name, str(tmp_path)]
    done = subprocess.run(
        [*UNSHARE, *command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode == UNSUPPORTED:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
