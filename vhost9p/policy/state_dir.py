"""The directory for state that must outlive the daemon.

Every error here names the directory and the option that chooses another, since users of the default
may not know of either.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.errors import UserError
from vhost9p.policy.locked_file import StateError


def _named(path: str) -> str:
    return f"the state directory {path} (--state-dir; in a file, state_dir)"


def state_problem(path: str) -> str | None:
    """Returns why a directory cannot hold state; None if it can. A missing one will be created."""
    nearest = path
    while not os.path.lexists(nearest) and nearest != "/":
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        return f"{_named(path)} cannot be used: {nearest} is not a directory"
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        what = "be made" if nearest != path else "be used"
        return f"{_named(path)} cannot {what}: the daemon may not write in {nearest}"
    return None


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Yields a descriptor of the directory, created if missing. Raises UserError if that
    fails: the user chose it. Turns errors in the block into StateError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{_named(path)} cannot be used: {error.strerror or error}") from error
    try:
        yield folder
    except StateError as error:
        raise StateError(f"{_named(path)}: {error}") from error
    except OSError as error:
        raise StateError(f"{_named(path)} cannot be used: {error.strerror or error}") from error
    finally:
        os.close(folder)
