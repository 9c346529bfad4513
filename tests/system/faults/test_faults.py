"""The n-th call of each request fails, for all n: the errno, the files, the account, the next try.

A request either fails with the call's errno and has changed nothing, or succeeds as without the
fault. After a failure the same request works. Then all descriptors are closed.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.dialect_u import DialectUClient
from tests.system.faults.cases import CASES, CASES_U, Case
from tests.system.faults.injector import Fault, Lasts, lacks
from tests.system.faults.scene import Scene, Tree, a_scene, result_of
from tests.system.share import IS_ROOT, remount

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(lacks() is not None, reason=str(lacks())),
]

MODELS = ("passthrough", "none", "mapped-xattr", "mapped-file")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS)
MORE_ERRORS = (errno.ENOMEM, errno.ESTALE)
LASTS = {errno.ENOSPC: (Lasts.ALL,), errno.EMFILE: (Lasts.ONCE, Lasts.REPEATED)}
Look = tuple[Tree, bool]
USUAL = (
    *((model, False, False) for model in MODELS),
    *((model, False, True) for model in ("passthrough", "mapped-file")),
    ("mapped-file", True, False),
)
"""The scenes of every run, by model, quota and dialect u: each model, and a quota and the dialect
with that which has most to undo. The full matrix has all scenes."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every request in every scene; a scene is shared by all of its requests."""
    if "case" not in metafunc.fixturenames:
        return
    kinds = itertools.product(MODELS, (False, True), (CASES, CASES_U))
    pairs = [
        pytest.param(
            (model, quota, cases is CASES_U),
            case,
            id=f"{model}{'-quota' * quota}-{case.name}",
            marks=[] if (model, quota, cases is CASES_U) in USUAL else [pytest.mark.full],
        )
        for model, quota, cases in kinds
        for case in cases
    ]
    metafunc.parametrize(("scene", "case"), pairs, indirect=["scene"], scope="module")


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    model, quota, dialect_u = request.param
    if model == "passthrough" and not IS_ROOT:
        pytest.skip("passthrough needs root")
    folder = Path(tempfile.mkdtemp(prefix="v9-faults-"))
    try:
        speaks = DialectUClient if dialect_u else Client
        with a_scene(folder, model, quota=quota, speaks=speaks) as scene:
            yield scene
    finally:
        shutil.rmtree(folder)


class Expected:
    """What a case does without a fault."""

    def __init__(self, scene: Scene, case: Case, evicted: bool) -> None:
        self.scene = scene
        self.case = case
        self.evicted = evicted
        self._begin()
        self.before = self.look()
        self.answer = case.send(scene)
        self.after = self.look()
        wrong = scene.account()
        scene.clear()
        assert not wrong

    def _begin(self) -> None:
        self.scene.begin()
        self.case.prepare(self.scene)
        if self.evicted:
            self.scene.evict()

    def look(self) -> Look:
        """What the host sees."""
        scene, case = self.scene, self.case
        return scene.tree(times=case.times), case.locks and scene.is_locked(b"f")

    def meet(self, error: int, at: int, lasts: Lasts) -> tuple[Fault, str]:
        """Lets one call fail; what is wrong then."""
        scene, case = self.scene, self.case
        self._begin()
        with scene.injector.failing(error, at, lasts=lasts) as fault:
            failed, answer = result_of(case.send, scene)
        # Metadata of nothing cannot be removed where removing them fails.
        self.scene.tolerates_orphans = fault.call.startswith("unlinkat")
        wrong = self._check(error, failed, answer) if fault.failed or failed else ""
        scene.clear()
        return fault, wrong or scene.account()

    def _check(self, error: int, failed: int, answer: object) -> str:
        """The same of a request that met the fault."""
        scene, case, found = self.scene, self.case, self.look()
        if failed and failed != case.answers.get(error, error):
            return f"{errno.errorcode[failed]} is answered"
        if failed and found != self.before and not case.steps:
            return f"it fails and leaves {difference(found, self.before)}"
        if wrong := scene.account():
            return wrong
        if failed:
            failed, answer = result_of(case.again or case.send, scene)
            found = self.look()
        if failed:
            return f"{errno.errorcode[failed]} at the next try"
        if answer != self.answer:
            return f"the answer is {answer}"
        return "" if found == self.after else f"it leaves {difference(found, self.after)}"


def difference(found: Look, wanted: Look) -> str:
    """What the host sees instead of something else."""
    names = sorted(
        name for name in found[0] | wanted[0] if found[0].get(name) != wanted[0].get(name)
    )
    parts = [f"{name!r}: {found[0].get(name)} for {wanted[0].get(name)}" for name in names]
    return "; ".join(parts + (["locks"] if found[1] != wanted[1] else []))


def check_all(scene: Scene, case: Case, errors: Sequence[int], *, evicted: bool = False) -> None:
    """Lets each call of a request fail in turn."""
    daemon = scene.share.daemon
    remount(scene.share, n_uname=os.geteuid())
    expected = Expected(scene, case, evicted)
    descriptors = daemon.fd_count()
    wrong = []
    for error in errors:
        for lasts in LASTS.get(error, (Lasts.ONCE,)):
            for at in itertools.count(1):
                fault, complaint = expected.meet(error, at, lasts)
                wrong += [f"{fault}: {complaint}"] if complaint else []
                if not fault.failed:
                    break
    assert not wrong, "\n".join(wrong)
    remount(scene.share, n_uname=os.geteuid())
    daemon.wait_until(lambda: daemon.fd_count() <= descriptors, "descriptors are left open")


def test_a_failing_call_leaves_nothing_behind(scene: Scene, case: Case) -> None:
    check_all(scene, case, ERRORS)


@pytest.mark.full
def test_nor_where_all_descriptors_have_to_be_reopened(scene: Scene, case: Case) -> None:
    check_all(scene, case, (errno.EIO, errno.EMFILE), evicted=True)


@pytest.mark.full
def test_other_errors_leave_nothing_behind_either(scene: Scene, case: Case) -> None:
    check_all(scene, case, MORE_ERRORS)
