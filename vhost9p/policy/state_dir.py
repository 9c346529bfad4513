"""The directory in which the daemon keeps what must outlive it.

Every error here names the directory and the option that chooses another: nobody who uses the
default knows that there is one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.errors import UserError
from vhost9p.policy.locked_file import StateError


def _named(path: str) -> str:
    return f"the state directory {path} (--state-dir; in a file, state_dir)"


def state_problem(path: str) -> str | None:
    """Why nothing can be kept in a directory, which is made if it is missing."""
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
    """A descriptor of the directory, which is made if it is missing. Raises UserError where that
    fails: it is the user's choice. What fails in the block becomes a StateError."""
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
