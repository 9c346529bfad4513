"""The injector fails the call that it is asked to fail, and no other one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.system.faults.injector import Lasts, lacks
from tests.system.faults.scene import DIR, OPEN, Scene, a_scene
from tests.system.share import fails

pytestmark = pytest.mark.skipif(lacks() is not None, reason=str(lacks()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("injector")
    with a_scene(folder, "none", quota=False, speaks=Client) as scene:
        yield scene


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    """With an open file of seven bytes."""
    shared.begin()
    shared.client.walk(DIR, OPEN)
    shared.client.lcreate(OPEN, b"f", os.O_RDWR)
    shared.client.write(OPEN, 0, b"content")
    yield shared
    shared.clear()


def test_a_known_call_fails_with_the_given_errno(scene: Scene) -> None:
    """A read is one preadv(2)."""
    for error in (errno.EIO, errno.ENOMEM, errno.ESTALE):
        with scene.injector.failing(error, 1) as fault, fails(error):
            scene.client.read(OPEN, 0, 7)
        assert fault.failed and fault.call.startswith("preadv")
        assert scene.client.read(OPEN, 0, 7) == b"content"


def test_only_the_call_of_that_number_fails(scene: Scene) -> None:
    with scene.injector.failing(errno.EIO, 2) as fault:
        assert scene.client.read(OPEN, 0, 7) == b"content"
    assert not fault.failed and fault.count == 1
    with scene.injector.failing(errno.EIO, 2) as fault:
        assert scene.client.read(OPEN, 0, 7) == b"content"
        with fails(errno.EIO):
            scene.client.read(OPEN, 0, 7)
        assert scene.client.read(OPEN, 0, 7) == b"content"
    assert fault.failed and fault.count == 3


def test_without_a_number_calls_are_counted(scene: Scene) -> None:
    with scene.injector.failing(errno.EIO) as fault:
        assert scene.client.read(OPEN, 0, 7) == b"content"
    assert fault.count == 1 and not fault.failed


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOSPC, errno.EROFS])
def test_a_read_cannot_fail_like_a_change(scene: Scene, error: int) -> None:
    with scene.injector.failing(error, 1) as fault:
        assert scene.client.read(OPEN, 0, 7) == b"content"
    assert not fault.count
    with scene.injector.failing(error, 1, anywhere=True) as fault, fails(error):
        scene.client.read(OPEN, 0, 7)
    assert fault.failed


def test_a_failed_write_has_written_nothing(scene: Scene) -> None:
    with scene.injector.failing(errno.ENOSPC, 1, lasts=Lasts.ALL), fails(errno.ENOSPC):
        scene.client.write(OPEN, 0, b"CONTENT")
    with open(scene.folder + b"/f", "rb") as file:
        assert file.read() == b"content"


def test_a_call_that_is_tried_again_fails_again(scene: Scene) -> None:
    """Where a descriptor lacks, others are closed, and the call is repeated."""
    path = Path(os.fsdecode(scene.folder)) / "unseen"
    path.touch()
    again = scene.injector.failing(errno.EMFILE, 1, lasts=Lasts.REPEATED)
    with again as fault, fails(errno.EMFILE):
        scene.client.walk_to(DIR, b"unseen")
    assert fault.failed
    scene.client.clunk(scene.client.walk_to(DIR, b"unseen"))
