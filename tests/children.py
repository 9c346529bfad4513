"""Child processes that end with the tests that started them.

An interrupted test run, or a worker of pytest-xdist that is killed, does no clean-up. The kernel
kills such children instead: setpriv(1) sets a parent-death signal (PR_SET_PDEATHSIG of prctl(2)).
It comes when the *thread* ends that started the child, so start a child from a thread that lives as
long as the child may: tests run in the main thread, also those of pytest-xdist.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WITH_ITS_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
ROOT = Path(__file__).resolve().parents[1]


def ending_with_tests(command: Sequence[str], wrapper: Sequence[str] = ()) -> list[str]:
    """Returns the words that run `command`, behind a `wrapper` that may execute it, so that it is
    killed when the thread ends that starts them.

    The signal is set twice: a wrapper that changes credentials clears it, and one that runs the
    command's program itself does not execute what follows it.
    """
    return [*WITH_ITS_PARENT, *wrapper, *(WITH_ITS_PARENT if wrapper else ()), *command]


def ends_with_killed_tests(tests: str, *args: str, timeout: float) -> bool:
    """Returns whether a child of a Python script ends within `timeout` seconds after the script was
    killed. The script prints the child's pid, then reads its input."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryDirectory(prefix="v9-") as folder:
        os.chmod(folder, 0o755)
        command = [sys.executable, "-c", tests, *args]
        env = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe) as parent:
            assert parent.stdout
            child = os.pidfd_open(int(parent.stdout.readline()))
            try:
                parent.kill()
                return bool(select.select([child], [], [], timeout)[0])
            finally:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child, signal.SIGKILL)
                os.close(child)
