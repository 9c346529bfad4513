"""What is around each fork of main."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.stop_signals import STOP


@contextmanager
def without_stop_signals() -> Iterator[None]:
    """Blocks the signals to stop around a fork: until the child has its own way to take them, none
    may arrive there."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
