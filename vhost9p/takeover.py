"""How the keeper of another version of the code is replaced, while its VM runs.

To the VM it is one more death of its worker, which may die at any instant anyway; but the successor
belongs to a new keeper, which main forks. The old keeper takes no part in it, so it may be of any
version:

1. It is stopped (SIGSTOP), so that it starts no worker. So is its worker, and then killed, unless
   a thread hangs in the kernel, which would not die either (old_keeper.py).
2. A new keeper is born where the old one is: in its user, mount, network and IPC namespaces, since
   the guest's directories cannot be mixed with those of other mounts in a rename. Its pid
   namespace is a new one, since the old one ends with its init.
3. The new keeper copies the old one's descriptors to the same numbers (pidfd_getfd(2)); files,
   positions and locks are the same. It maps the saved states at their addresses.
4. When it is ready to start a worker, the old keeper is killed.

Until the last step nothing has changed for the old keeper. Whatever fails, it is continued
(SIGCONT): it finds that its worker was killed, and starts the next one.

Main waits for nobody without end. A killed process runs no code of its own any more, so nothing
has to wait until the kernel has closed its files, which hangs where a file system does: main reaps
it later, like any child that it does not know. A signal to stop ends each wait.
"""

import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import count

from vhost9p.birth import Failed, Newborn, Waits, give_birth
from vhost9p.native import sandbox
from vhost9p.native.process import close_others, take_descriptor
from vhost9p.old_keeper import OldKeeper

LEAVE_PATIENCE_S = 0.5
"""How long the end of the old keeper is waited for, so that mostly the upgrade is over when it is
reported."""


def replace(
    pid: int,
    pidfd: int,
    stop_fd: int,
    may: Callable[[], None],
    succeed: Callable[["Successor"], None],
) -> tuple[int, int]:
    """Replaces a keeper, a child of this process. `may` is called when it has no worker any more,
    and raises Failed if it is not to be replaced after all. `succeed` runs in the new one, whose
    pid and pidfd are returned. Raises Failed, OSError: nothing has changed. It fails as soon as
    `stop_fd` is readable."""
    waits = Waits(stop_fd)
    old = OldKeeper(pid, pidfd, waits)
    try:
        old.freeze()
        old.end_worker()
        may()
        return _fork(old, waits, succeed)
    except BaseException:
        old.thaw()
        raise


def _fork(old: OldKeeper, waits: Waits, succeed: Callable[["Successor"], None]) -> tuple[int, int]:
    """Creates the new keeper, and ends the old one when it is ready. Raises Failed, OSError."""
    successor = Successor(old.pidfd)

    def enter() -> int:
        successor.numbers = [int(each) for each in os.listdir(f"/proc/{old.pid}/fd")]
        return sandbox.fork_beside(old.pid, old.pidfd)

    def live(out: socket.socket) -> None:
        successor.begin(out)
        succeed(successor)

    created = give_birth(waits, enter, live, old.end)
    with suppress(Failed):
        waits.readable(LEAVE_PATIENCE_S, old.pidfd)
    return created


class Successor(Newborn):
    """In the new keeper: what the old one leaves to it."""

    def __init__(self, old: int) -> None:
        """`old` is a pidfd of the old keeper."""
        super().__init__()
        self._old = old
        self.numbers: Collection[int] = ()
        """Of the old keeper's descriptors."""
        self.left: list[int] = []
        """The copies."""

    def copy(self, own: Sequence[int]) -> list[int]:
        """Copies all of the old keeper's descriptors to the same numbers. All others of this
        process are closed, save `own`, which get new numbers that are returned. Raises OSError."""
        kept = {0, 1, 2}
        self.left = sorted(set(self.numbers) - kept)
        mine = (self._out.detach(), self._old, *self.own, *own)
        close_others({*kept, *mine})
        free = _numbers_but({*kept, *self.left, *mine})
        moved = [os.dup2(fd, next(free), inheritable=False) for fd in mine]
        close_others({*kept, *moved})
        self._out = socket.socket(fileno=moved[0])
        self._old = moved[1]
        self.own = moved[2], moved[3], moved[4]
        for number in self.left:
            # The lowest free number is this one, or below all that are yet to come.
            fd = take_descriptor(self._old, number)
            if fd != number:
                os.dup2(fd, number, inheritable=False)
                os.close(fd)
        os.close(self._old)
        return moved[5:]


def _numbers_but(taken: Collection[int]) -> Iterator[int]:
    return (number for number in count(3) if number not in taken)
