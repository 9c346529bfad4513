"""What of a device outlives the worker that serves it.

It lies in memory that the keeper has mapped before it clones its workers: the connection, the
device (ring, guest memory, requests, fids) and the records of the guest's locks. Descriptors stay
open with their numbers in the table that keeper and workers share. So the next worker goes on, and
neither frontend nor guest notices.

The next worker takes over before it opens anything: it makes the state good again, wherever the one
before was killed, and closes all descriptors that nobody owns (the *sweep*): they were about to be
recorded or to be closed.
"""

import logging
import mmap
from collections.abc import Collection, Iterable
from typing import NamedTuple, Self

from vhost9p.config import DeviceConfig
from vhost9p.fs.locks import MEMORY_SIZE, LockTable
from vhost9p.native.connection import Connection
from vhost9p.native.device import Area
from vhost9p.native.process import close_others
from vhost9p.vhost_user.listener import Listener

log = logging.getLogger(__name__)


class SharedState(NamedTuple):
    """The state of one device, and where its frontends come from."""

    listener: Listener
    connection: Connection
    area: Area
    locks: mmap.mmap

    @classmethod
    def new(cls, config: DeviceConfig, listener: Listener) -> Self:
        """Maps the memory for a device that nobody has served yet. Raises OSError, MemoryError."""
        locks = mmap.mmap(-1, MEMORY_SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        return cls(listener, Connection(), Area(config.max_fids), locks)

    def recover(self) -> list[int]:
        """Makes the state good again. Returns the descriptors that it owns. Raises OSError."""
        if not self.area.recover():
            self.connection.forget()
            return []
        if not self.connection.recover():
            log.error("%s: the state of the connection is damaged: it ends", self.listener.name)
        self.listener.adopt(self.connection)
        return [
            *self.connection.descriptors(),
            *self.area.descriptors(),
            *LockTable.descriptors_in(self.locks),
        ]


def take_over(states: Iterable[SharedState], kept: Collection[int]) -> None:
    """Called by a worker before it opens anything. `kept` are the descriptors of the keeper. Raises
    OSError."""
    owned = {fd for state in states for fd in state.recover()}
    close_others({*kept, *owned})
