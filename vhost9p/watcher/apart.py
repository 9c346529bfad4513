"""Steps that may hang in a file system, such as one whose server is gone: a child carries them out,
and is left behind if one takes too long. Another child goes on with the next step.

Nobody can end a system call that the kernel does not let go of, so the child has descriptors of its
own, and passes on what it opens: a step that comes to its end after all leaves nothing here.
"""

import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Self

from vhost9p.native.process import close_others, end_with

PATIENCE_S, LEAST_S = 2.0, 0.5
"""Seconds for a step, where none has hung; else the first is divided by one more than have hung, so
that many cost little more than a few, but not below the second."""
MESSAGE_MAX = 4096
FDS_MAX = 1

Outcome = tuple[Any, Sequence[int]]
"""What a step returns: something for JSON, and descriptors, FDS_MAX at most."""


class Hangs(OSError):
    """A step takes too long."""

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, "it hangs")


def try_each(
    steps: Sequence[Callable[[], Outcome]], needed: Collection[int]
) -> Iterator[Outcome | OSError]:
    """Yields what each step returns or raises, in their order; Hangs is one of these errors.
    `needed` are the descriptors that they use. This process must have no other thread. Raises
    OSError: there can be no child."""
    done = hung = 0
    while done < len(steps):
        with _Child(steps[done:], needed) as child:
            while done < len(steps):
                outcome = child.wait(max(PATIENCE_S / (1 + hung), LEAST_S))
                done += 1
                hung += child.hangs
                yield outcome
                if child.has_ended:
                    break


class _Child:
    """One of the processes."""

    def __init__(self, steps: Sequence[Callable[[], Outcome]], needed: Collection[int]) -> None:
        self.hangs = False
        self.has_ended = False
        """Whether it carries out no more."""
        self._channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with its:
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(steps, needed, its, parent)

    def __enter__(self) -> Self:
        return self

    def wait(self, seconds: float) -> Outcome | OSError:
        """Returns the outcome of its next step."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        if not poller.poll(seconds * 1000):
            self.hangs = self.has_ended = True
            return Hangs()
        data, fds, _, _ = socket.recv_fds(self._channel, MESSAGE_MAX, FDS_MAX)
        if not data:
            self.has_ended = True
            return OSError(errno.EIO, "the process that looks at it has died")
        found = json.loads(data)
        if code := found.get("error"):
            return OSError(code, os.strerror(code))
        return found["outcome"], fds

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, os.WNOHANG if self.hangs else 0)


def _be_child(
    steps: Sequence[Callable[[], Outcome]],
    needed: Collection[int],
    channel: socket.socket,
    parent: int,
) -> NoReturn:
    try:
        close_others((0, 1, 2, channel.fileno(), *needed))  # what hangs holds nothing else open
        end_with(parent)
        for step in steps:
            try:
                outcome, fds = step()
            except OSError as error:
                channel.send(json.dumps({"error": error.errno or errno.EIO}).encode())
                continue
            socket.send_fds(channel, [json.dumps({"outcome": outcome}).encode()], fds)
            for fd in fds:
                os.close(fd)
    finally:
        with suppress(OSError):
            channel.close()
        os._exit(0)
