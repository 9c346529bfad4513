"""Daemons end with the tests that started them, even where those are killed."""

import pytest

from tests.children import ends_with_killed_tests
from tests.frontend import PATIENCE
from tests.system.share import AS_USER, UNSHARE, skip_without_namespaces

TESTS = """
import os, sys
from tests.frontend.daemon import Daemon
from tests.system.share import USER, USER_GROUP

Daemon.warm = True
daemon = Daemon("--path", "/usr", "--readonly", "--force", wrapper=sys.argv[1:])
os.chown(daemon.directory, USER, USER_GROUP)
print(daemon.start().pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("wrapper", [[], AS_USER, UNSHARE], ids=["plain", "as a user", "unshared"])
def test_a_daemon_ends_with_killed_tests(wrapper: list[str]) -> None:
    if wrapper is UNSHARE:
        skip_without_namespaces()
    assert ends_with_killed_tests(TESTS, *wrapper, timeout=PATIENCE)
