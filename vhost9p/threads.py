"""Starting threads, of which the host may have too few left: that passes, and is no fault."""

import errno
import threading


def start(thread: threading.Thread) -> None:
    """Raises OSError where Python raises RuntimeError: there are too many threads."""
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error
