"""Processes of vhost9p that begin with its modules loaded: most of a start is to load them.

A process of its own, a child of the tests, has loaded what a daemon loads, and forks for each
command line. What it forks is as a new interpreter is in all that vhost9p looks at: arguments,
command line in /proc, environment, directory, standard streams; no other descriptor is open. What
an interpreter reads before it runs a program (PYTHON…, LD_PRELOAD, the locale) takes one that is
executed.

The tests ask by a message with the streams and a pipe, in which the forking process writes the
status of what it has forked; the answer has a pidfd.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from tests.children import ROOT

MESSAGE_MAX = 1 << 18
BEFORE_PYTHON = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
"""Beginnings of names in the environment that matter before there is a program."""
ROOM = "-" * 1000
"""In the command line, where processes write theirs, and those of a daemon their titles."""


class Warm:
    """A process that was forked so, which writes to two descriptors of the caller: what the tests
    need of a subprocess.Popen."""

    stdout: IO[str] | None = None
    """Belongs to whoever reads what it prints."""

    def __init__(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        out: int,
        err: int,
    ) -> None:
        self.args = ["vhost9p", *words]
        self.returncode: int | None = None
        self._status, status = os.pipe()
        request = {"words": [*words], "env": dict(env), "cwd": os.fspath(cwd or os.getcwd())}
        try:
            self.pid, self._pidfd = _forking().ask(request, [out, err, status])
        finally:
            os.close(status)

    def poll(self) -> int | None:
        """As that of Popen."""
        return self._take(0)

    def wait(self, timeout: float | None = None) -> int:
        """As that of Popen."""
        code = self._take(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _take(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 100) or -signal.SIGKILL)
            os.close(self._status)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As that of Popen."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                self.wait()

    def kill(self) -> None:
        """As that of Popen."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """As that of Popen."""
        self.send_signal(signal.SIGTERM)


class _Forking:
    """The process that forks, for those of the tests. It ends when its socket is closed, by
    whatever end of the tests, and what it has forked ends with it."""

    def __init__(self) -> None:
        self.tests = os.getpid()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()  # of a request and its answer
        words = [sys.executable, "-m", "tests.frontend.warm", str(theirs.fileno()), ROOM]
        self._process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
        theirs.close()

    def ask(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[int, int]:
        """Returns the pid, and a pidfd."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
            answer, (pidfd,), _, _ = socket.recv_fds(self._socket, 100, 1)
        return int(answer), pidfd


_started: list[_Forking] = []


def _forking() -> _Forking:
    if not _started or _started[0].tests != os.getpid():
        _started[:] = [_Forking()]
    return _started[0]


def can_be_warm(env: Mapping[str, str]) -> bool:
    """Whether an interpreter with this environment begins as that of the tests has."""

    def early(names: Mapping[str, str]) -> dict[str, str]:
        return {name: names[name] for name in names if name.startswith(BEFORE_PYTHON)}

    return {**early(env), "PYTHONPATH": ""} == {**early(os.environ), "PYTHONPATH": ""}


# ---- in the process that forks -------------------------------------------------------------------


def _become(request: dict[str, Any], fds: Sequence[int], parent: int) -> None:
    from vhost9p.native.process import end_with

    end_with(parent)
    for number, fd in enumerate(fds, start=1):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.orig_argv[:] = [sys.executable, "-m", "vhost9p", *request["words"]]
    sys.argv[:] = ["vhost9p", *request["words"]]
    _show(sys.orig_argv)


def _show(words: Sequence[str]) -> None:
    """Has /proc/PID/cmdline show a command line, up to its room (proc_pid_stat(5): fields 48 and
    49)."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
        start, end = map(int, stat.read().rpartition(")")[2].split()[45:47])
    text = b"\0".join(map(os.fsencode, words))[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def _serve(tests: socket.socket) -> bool:
    """Forks for each request, and returns True in each child; False when the tests have ended."""
    parent = os.getpid()
    ready = selectors.DefaultSelector()
    ready.register(tests, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.data is not None:
                pid, status = key.data
                ready.unregister(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(status, str(code).encode())
                os.close(status)
                os.close(key.fd)
                continue
            text, fds, _, _ = socket.recv_fds(tests, MESSAGE_MAX, 3)
            if not text:
                return False
            *streams, status = fds
            pid = os.fork()
            if pid == 0:
                for each in [*ready.get_map().values()]:
                    if each.data is not None:
                        os.close(each.fd)
                        os.close(each.data[1])
                ready.close()
                tests.close()
                os.close(status)
                _become(json.loads(text), streams, parent)
                return True
            for fd in streams:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            ready.register(pidfd, selectors.EVENT_READ, (pid, status))
            socket.send_fds(tests, [str(pid).encode()], [pidfd])


def _main() -> int:
    from vhost9p import __main__, preflight, single_vm, vm_folder  # noqa: F401

    return __main__.main() if _serve(socket.socket(fileno=int(sys.argv[1]))) else 0


if __name__ == "__main__":
    sys.exit(_main())
