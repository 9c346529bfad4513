"""Guests end with the tests that started them, even where those are killed."""

from tests.children import ends_with_killed_tests
from tests.frontend import PATIENCE
from tests.guest.fetch import Kernel

TESTS = """
import sys
from tests.guest import fetch
from tests.guest.image import Image
from tests.guest.vm import VM

class Paused(VM):
    def wait_boot(self):
        self.pause()
        print(self.process.pid, flush=True)
        sys.stdin.read()

Paused(Image.build(fetch.kernel(sys.argv[1]))).start()
"""
"""Were the guest not paused, it would power off when it has booted and lost its agent's channel."""


def test_a_guest_ends_with_killed_tests(kernel: Kernel) -> None:
    assert ends_with_killed_tests(TESTS, kernel.name, timeout=PATIENCE)
