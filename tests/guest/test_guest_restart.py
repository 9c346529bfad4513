"""A guest at work while the workers of its file server die: it notices nothing but a pause."""

import os
from collections.abc import Iterator

import pytest

from tests.guest.conftest import Boot
from tests.guest.killed_workers import work
from tests.guest.mounted import Mounted, mounted
from tests.system.counting_daemon import WRAPPER

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


@pytest.fixture
def share(boot: Boot) -> Iterator[Mounted]:
    with mounted(boot, "--multidevs", "remap", wrapper=WRAPPER) as share:
        yield share


@pytest.mark.parametrize("deaths", [8, pytest.param(200, marks=pytest.mark.full)])
def test_a_guest_works_on_while_workers_die(share: Mounted, deaths: int) -> None:
    report = work(share.vm, share.daemon, share.export, deaths)
    assert report.deaths >= deaths, report
    assert report.inside >= deaths / 2, report
    assert all(report.rounds.values()), report
