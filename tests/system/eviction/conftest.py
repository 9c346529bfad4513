"""Fixtures: as root, where files are opened by handle, and as an ordinary user, where their path
has to lead to them; on a disk's file system and in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.eviction.crowd import (
    LIMIT,
    PLACES,
    Place,
    serving,
)
from tests.system.share import Share


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    place = request.param
    assert isinstance(place, Place)
    return place


@pytest.fixture
def tight(place: Place) -> Iterator[Share]:
    """A share whose daemon has few descriptors."""
    with serving(place, LIMIT) as share:
        yield share
