"""One device: where the vhost-user session, the C layer, the 9P server and the policy meet.

Two kinds of input arrive here. The frontend's wishes come from the session, on the event loop; what
may wait for requests in flight (the ring's stop, a change of memory) runs in a thread of the loop's
pool, because QEMU waits for the answer while other devices go on. The guest's requests that C does
not answer come as upcalls on the hub's thread and go to the server; so do the questions that only
the policy can answer, after which C runs the request again.
"""

import asyncio
import errno
import logging
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from vhost9p.config import DeviceConfig
from vhost9p.exports import Exports
from vhost9p.native import descriptors, sys
from vhost9p.native.device import Device as NativeDevice
from vhost9p.native.device import Hub, Stats, Upcall
from vhost9p.p9.constants import Dialect
from vhost9p.p9.server import Server
from vhost9p.vhost_user.messages import MAX_CONFIG, RING_PACKED_BIT, MemoryRegion

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_MS = 2000
"""How long the frontend is kept waiting for requests that hang."""


def config_space(tag: bytes) -> bytes:
    """virtio 1.3, section 5.14.4: tag_len[2] and the tag; padded with zeros."""
    return (struct.pack("<H", len(tag)) + tag).ljust(MAX_CONFIG, b"\0")


class Device:
    """Serves exports to one guest. It is the session's Backend."""

    def __init__(self, hub: Hub, config: DeviceConfig) -> None:
        """Raises OSError, StateError."""
        self.name = config.tag
        self.withheld = 0 if config.ring == "packed" else 1 << RING_PACKED_BIT
        self._config_space = config_space(os.fsencode(config.tag))
        with ExitStack() as undo:
            self.exports = Exports(config)
            undo.callback(self.exports.close)
            self._native = NativeDevice(
                hub,
                self._upcall,
                threads=config.threads,
                msize_max=config.msize_max,
                max_fids=config.max_fids,
                cpus=config.cpus,
                poll_us=config.poll_us,
            )
            undo.callback(self._native.close)
            self._server = Server(
                self._native.fids,
                self.exports.tree,
                msize_max=config.msize_max,
                max_xattr=config.max_xattr,
                set_msize=self._native.set_msize,
                set_dialect=lambda dialect: self._native.set_dialect(unix=dialect is Dialect.U),
                wake_signal=sys.wake_signal(),
            )
            undo.callback(self._server.close)
            self._native.set_exports(self.exports.natives)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Stops serving and frees everything. Call after the hub's thread has ended, or is idle."""
        self._undo.close()

    def stats(self) -> Stats:
        """Live counts."""
        return self._native.stats()

    # ---- upcalls, on the hub's thread -------------------------------------------------------

    def _upcall(self, upcall: Upcall) -> None:
        if upcall.kind == Upcall.REQUEST:
            self._server.handle(upcall.data, upcall)
        elif upcall.kind == Upcall.FLUSH:
            self._server.flush((upcall.a, upcall.b))
        elif upcall.kind == Upcall.BROKEN:
            reason = upcall.data.decode(errors="replace")
            log.error(
                "%s: the ring is broken: %s. It serves again once the guest's driver has set it "
                "up anew",
                self.name,
                reason,
            )
        else:
            self._decide(upcall)

    def _decide(self, upcall: Upcall) -> None:
        """A question of the qid map or of a listing; C runs the request again, or it fails."""
        try:
            if upcall.kind == Upcall.DEVICE:
                self.exports.policy.device(upcall.a, upcall.b, upcall.fd)
            elif upcall.kind == Upcall.MOUNT and self.exports.listing:
                self.exports.listing.mount(upcall.a, upcall.b, upcall.fd)
            else:
                self.exports.policy.group(upcall.a, upcall.b)
        except OSError as error:
            upcall.fail(error.errno or errno.EIO)
        else:
            upcall.resume()
        finally:
            if upcall.fd >= 0:
                descriptors.close(upcall.fd)

    # ---- Backend, on the event loop ---------------------------------------------------------

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def config_read(self) -> bytes:
        """See Backend."""
        return self._config_space

    async def reset(self) -> None:
        """See Backend. With the guest go its fids, its locks and what it had written halfway."""

        await self._reset(keep_memory=False)

    async def reset_device(self) -> None:
        """See Backend."""
        await self._reset(keep_memory=True)

    async def _reset(self, *, keep_memory: bool) -> None:
        def reset() -> None:
            self._native.ring_pause()
            self._server.reset()
            self._native.reset(keep_memory=keep_memory)

        await self._in_thread(reset)

    def set_features(self, features: int) -> None:
        """See Backend."""
        self._native.set_features(features)

    async def mem_set_table(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        """See Backend."""

        rows = [(*_place(region), fd) for region, fd in regions]
        await self._in_thread(lambda: self._native.mem_set(rows))

    async def mem_add(self, region: MemoryRegion, fd: int) -> None:
        """See Backend."""
        await self._in_thread(lambda: self._native.mem_add(*_place(region), fd))

    async def mem_remove(self, region: MemoryRegion) -> None:
        """See Backend."""
        await self._in_thread(lambda: self._native.mem_remove(region.gpa, region.size, region.uva))

    def ring_set_num(self, num: int) -> None:
        """See Backend."""
        self._native.ring_set_num(num)
        self._server.set_ring_size(num)

    def ring_set_base(self, base: int) -> None:
        """See Backend."""
        self._native.ring_set_base(base)

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """See Backend."""
        self._native.ring_set_addr(desc, used, avail)

    def ring_set_kick(self, fd: int | None) -> None:
        """See Backend."""
        self._server.resume_waits()
        self._native.ring_set_kick(fd)

    def ring_set_call(self, fd: int | None) -> None:
        """See Backend."""
        self._native.ring_set_call(fd)

    def ring_set_err(self, fd: int | None) -> None:
        """See Backend."""
        self._native.ring_set_err(fd)

    def ring_enable(self, enable: bool) -> None:
        """See Backend."""
        self._native.ring_enable(enable)

    async def ring_stop(self) -> int:
        """See Backend. What waits for a lock is told to ask again."""

        def stop() -> int:
            self._native.ring_pause()
            self._server.cancel_waits()
            return self._native.ring_drain(DRAIN_MS)

        return await self._in_thread(stop)


def _place(region: MemoryRegion) -> tuple[int, int, int, int]:
    return region.gpa, region.size, region.uva, region.mmap_offset
