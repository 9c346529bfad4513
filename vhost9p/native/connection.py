"""The state of a vhost-user connection, in memory that the process shares with its children
(csrc/server/connection.c)."""

from collections.abc import Sequence
from typing import Any

from vhost9p.native.library import check, ffi, lib


class Connection:
    """See vhost9p/vhost_user/connection.py."""

    def __init__(self, memory: Any = None) -> None:
        """In memory that outlives it (native/shared_memory.py), or in some of its own. Raises
        MemoryError."""
        if memory:
            self._native = lib.v9_connection_at(memory)
            return
        native = lib.v9_connection_new()
        if not native:
            raise MemoryError
        self._native = ffi.gc(native, lib.v9_connection_free)

    # ---- life

    @property
    def fd(self) -> int:
        return int(self._native.fd)

    @property
    def is_live(self) -> bool:
        return self._native.stage in (lib.V9_CONNECTION_OPEN, lib.V9_CONNECTION_ENDING)

    @property
    def is_ending(self) -> bool:
        return bool(self._native.stage == lib.V9_CONNECTION_ENDING)

    @property
    def has_ended(self) -> bool:
        return bool(self._native.stage == lib.V9_CONNECTION_ENDED)

    @property
    def messages(self) -> int:
        return int(self._native.steps + 1) // 3

    def begin(self, fd: int) -> None:
        lib.v9_connection_begin(self._native, fd)

    def end(self) -> None:
        lib.v9_connection_end(self._native)

    def ended(self) -> None:
        lib.v9_connection_ended(self._native)

    def take_fd(self) -> int:
        return int(lib.v9_connection_take_fd(self._native))

    def take_fds(self) -> list[int]:
        fds = ffi.new("int32_t[]", lib.V9_MESSAGE_FDS)
        return ffi.unpack(fds, lib.v9_connection_take_fds(self._native, fds))  # type: ignore[no-any-return]

    # ---- what the session keeps

    @property
    def protocol_features(self) -> int:
        return int(self._native.protocol_features)

    @protocol_features.setter
    def protocol_features(self, features: int) -> None:
        self._native.protocol_features = features

    @property
    def backend_req_fd(self) -> int:
        return int(self._native.backend_req_fd)

    @backend_req_fd.setter
    def backend_req_fd(self, fd: int) -> None:
        self._native.backend_req_fd = fd

    # ---- a message

    @property
    def data(self) -> bytes:
        return bytes(ffi.buffer(self._native.message, self._native.received))

    @property
    def fds(self) -> list[int]:
        return list(self._native.fds[0 : self._native.fd_count])

    @property
    def fds_lost(self) -> bool:
        return bool(self._native.fds_lost)

    @property
    def noted_features(self) -> int:
        return int(self._native.noted_protocol_features)

    @property
    def noted_regions(self) -> int:
        return int(self._native.noted_regions)

    @property
    def is_handled(self) -> bool:
        return bool(self._native.steps % 3 == 2)

    @property
    def deaths(self) -> int:
        return int(self._native.deaths)

    def receive(self, size: int) -> int:
        return check(lib.v9_connection_receive(self._native, size))

    def received(self, regions: int) -> None:
        lib.v9_connection_received(self._native, regions)

    def handled(self, reply: bytes) -> None:
        check(lib.v9_connection_handled(self._native, reply, len(reply)))

    def send(self) -> None:
        check(lib.v9_connection_send(self._native))

    # ---- after a death

    @property
    def is_awaited(self) -> bool:
        """Whether the frontend may wait for the answer to a message that was received."""
        return bool(self._native.stage == lib.V9_CONNECTION_OPEN and self._native.steps % 3)

    def blame(self, *, blamed: bool) -> bool:
        """Before all else, once: whether a message was being handled, or the connection ended. If
        it is `blamed`, that is one of its `deaths`."""
        return bool(lib.v9_connection_blame(self._native, blamed))

    def recover(self) -> bool:
        """Enters what the process that has died had not entered. Returns False if the state makes
        no sense: then the connection is ending."""
        return bool(lib.v9_connection_recover(self._native))

    def session_descriptors(self) -> list[int]:
        """Returns the socket and the descriptor of SET_BACKEND_REQ_FD; -1: none."""
        return [self.fd, self.backend_req_fd] if self.is_live else [-1, -1]

    def lose_descriptors(self, known: Sequence[int], instead: Sequence[int]) -> None:
        """Before `recover`, if all descriptors are lost: those of `session_descriptors` have other
        numbers now. Raises OSError ESTALE if the connection has others."""
        check(lib.v9_connection_lose_descriptors(self._native, known, instead))

    def descriptors(self) -> list[int]:
        """Returns the descriptors that the connection owns."""
        fds = ffi.new("int32_t[]", lib.V9_CONNECTION_FDS)
        return ffi.unpack(fds, lib.v9_connection_list(self._native, fds))  # type: ignore[no-any-return]

    def forget(self) -> None:
        """From now on there is no connection. Its descriptors are closed by the caller."""
        lib.v9_connection_forget(self._native)
