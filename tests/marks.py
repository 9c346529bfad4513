"""What a test needs of the host, where more than one module asks for it."""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.guest import uml_kernel
from tests.guest.apt import FetchError

T = TypeVar("T")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves passthrough")
needs_uml = pytest.mark.skipif(
    not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
)


def fetched(get: Callable[[], T]) -> T:
    """What a function of tests/guest/fetch.py returns. Where it cannot be fetched the test is
    skipped and says why; under CI (CI=true in the environment) it fails."""
    try:
        return get()
    except FetchError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"cannot be fetched: {error}", pytrace=False)
        pytest.skip(f"cannot be fetched: {error}")
