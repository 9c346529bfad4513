"""One device: where the vhost-user session, the C layer, the 9P server and the policy meet.

Two kinds of input arrive here. The frontend's requests come from the session, on the connection's
own thread; some wait for requests in flight, and all may wait for the device's lock. The guest's
requests that C does not answer come as upcalls from serving threads, several at a time, and go to
the server. So do questions that only the policy can answer, after which C continues.
"""

import logging
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from vhost9p import failures, host
from vhost9p.changes.ring import Ring
from vhost9p.config import MSIZE_MAX, DeviceConfig
from vhost9p.device_log import DeviceLog, log_fault
from vhost9p.exports import Exports
from vhost9p.failures import Failures
from vhost9p.identities import Identities
from vhost9p.log_record import concerning
from vhost9p.marked.reader import Reader
from vhost9p.native import sys
from vhost9p.native.device import Area, Stats, address_space
from vhost9p.native.device import Device as NativeDevice
from vhost9p.native.dir_marks import DirMarks
from vhost9p.native.refusals import Refusal
from vhost9p.native.upcalls import Request
from vhost9p.p9.constants import Dialect
from vhost9p.p9.server import Server
from vhost9p.vhost_user.descriptors import adopt_notified, check_event, check_memory
from vhost9p.vhost_user.messages import MAX_CONFIG, MAX_MEM_SLOTS, RING_PACKED_BIT, MemoryRegion

log = logging.getLogger(__name__)

DRAIN_MS = 2000
"""How long the frontend waits for requests that hang."""
MIN_MEM_SLOTS = 8
"""The most regions that SET_MEM_TABLE may have."""
MAPS_PER_SLOT = 8
"""Mappings of the process that a region may use: itself, two guards, and zeros in its place; and
the same again while a hanging request keeps the previous mapping."""


def memory_slots(devices: int) -> int:
    """How many regions of guest memory each device may have: half of the mappings that the process
    may have (proc(5), vm.max_map_count) are shared evenly."""
    maps = host.max_map_count()
    return min(max(maps // 2 // MAPS_PER_SLOT // devices, MIN_MEM_SLOTS), MAX_MEM_SLOTS)


def memory_bytes(config: DeviceConfig, devices: int) -> int:
    """How much guest memory one of so many devices may have: a quarter of the process's address
    space is shared evenly, since a hanging request keeps the previous mapping. The limit is needed
    because a sparse file of any size costs its creator nothing."""
    most = address_space() // 4 // devices
    return most if config.max_guest_memory is None else min(config.max_guest_memory, most)


def _msize_max(config: DeviceConfig, area: Area | None) -> int:
    """How large messages can be, in bytes: a session may have begun under another limit."""
    if area and area.is_taken_over:
        return min(max(config.msize_max, area.msize), MSIZE_MAX)
    return config.msize_max


def config_space(tag: bytes) -> bytes:
    """virtio 1.3, section 5.14.4: tag_len[2] and the tag; padded with zeros."""
    return (struct.pack("<H", len(tag)) + tag).ljust(MAX_CONFIG, b"\0")


class Device:
    """Serves exports to one guest. It is the session's Backend."""

    def __init__(
        self,
        config: DeviceConfig,
        exports: Exports,
        devices: int = 1,
        area: Area | None = None,
        locks: mmap.mmap | None = None,
        changes: Ring | None = None,
        marks: DirMarks | None = None,
        *,
        identified: Callable[[Identities], None],
        log_failures: bool = False,
        times_requests: bool = False,
    ) -> None:
        """One of so many devices in the process; `exports` are its own from now on. `area` and
        `locks` have the state that outlives the process; it goes on with what they hold. `changes`
        is what is reported to the guest, if anything is; with `marks`, which are owned from now on,
        the process itself watches what the guest looks at. `identified` hears how many identities
        of files are used, whenever there are more. With `log_failures` requests that fail are
        logged whatever the log's level is. Raises OSError: what `area` holds is then for the next
        process, and this one has to end."""
        self.name = config.tag
        self._log = DeviceLog(log, config.tag, device=config.tag)
        self.memory_slots = memory_slots(devices)
        self.withheld = 0 if config.ring == "packed" else 1 << RING_PACKED_BIT
        self._config_space = config_space(os.fsencode(config.tag))
        self.changes = changes
        self._marks = marks
        self._reader: Reader | None = None
        self.exports = exports
        self._undo = ExitStack()
        self._identified = identified
        self._log_failures = log_failures
        self._times_requests = times_requests
        try:
            with concerning(device=config.tag):
                self._open(config, memory_bytes(config, devices), area, locks)
        except BaseException:
            if area is None:
                self._undo.close()
            raise

    def _open(
        self, config: DeviceConfig, mem_bytes: int, area: Area | None, locks: mmap.mmap | None
    ) -> None:
        undo = self._undo
        if self._marks:
            undo.callback(self._marks.close)
        undo.callback(self.exports.close)
        failures.enable(self.exports.natives[0], always=self._log_failures)
        self._native = NativeDevice(
            self,
            threads=config.threads,
            msize_max=_msize_max(config, area),
            max_fids=config.max_fids,
            max_xattr=config.max_xattr,
            mem_regions=self.memory_slots,
            mem_bytes=mem_bytes,
            cpus=config.cpus,
            poll_us=config.poll_us,
            times_requests=self._times_requests,
            area=area,
        )
        undo.callback(self._native.close)
        self._failures = Failures(
            config, self._native.fids, self.exports.tree, always=self._log_failures
        )
        self._server = Server(
            self._native.fids,
            self.exports.tree,
            msize_max=config.msize_max,
            set_msize=self._native.set_msize,
            set_dialect=lambda dialect: self._native.set_dialect(dialect_u=dialect is Dialect.U),
            wake_signal=sys.wake_signal(),
            locks=locks,
            changes=self.changes,
        )
        undo.callback(self._server.close)
        self.try_lock = self._server.try_lock
        if area and area.is_taken_over:
            self._take_over()
        if self._marks and self.changes:
            self._mark(self._marks, self.changes)
        self._native.set_exports(self.exports.natives)

    def _mark(self, marks: DirMarks, changes: Ring) -> None:
        exports = self.exports
        for each in exports.natives.values():
            marks.install(each)
        self._reader = Reader(
            marks, changes, exports.natives, exports.views, self._native.mark_dirs, self._log
        )
        self._undo.callback(self._reader.stop)

    def _take_over(self) -> None:
        """Goes on with the session of a process that died."""
        session = self._native.session()
        self._server.take_over(
            Dialect.U if session.dialect_u else Dialect.L, session.msize, session.ring_size
        )
        if self._native.ring_is_started():
            self._server.resume_waits()

    def try_suspects(self) -> None:
        """Runs the requests that may have ended the worker before, one at a time, while no device
        of the process serves."""
        self._native.try_suspects()

    def _identify(self) -> None:
        sizes = self.exports.policy.sizes()
        self._identified(Identities(sizes["groups"], sizes["files"]))

    def begin(self) -> None:
        """Serves from now on. Raises OSError."""
        self.exports.policy.changed = self._identify
        self._identify()
        self._native.begin()
        if self._reader:
            self._reader.start()

    def close(self) -> None:
        """Stops serving and frees everything."""
        self._undo.close()

    def stats(self) -> Stats:
        """Live counts."""
        return self._native.stats()

    # ---- upcalls, on serving threads --------------------------------------------------------

    def request(self, data: bytes, request: Request) -> bytes | None:
        """See Handler."""
        return self._server.handle(data, request)

    def flush(self, key: tuple[int, int]) -> None:
        """See Handler."""
        self._server.flush(key)

    def question_device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """See Handler."""
        with concerning(device=self.name):
            self.exports.policy.device(st_dev, mnt_id, fd)

    def question_group(self, device: int, st_ino: int) -> None:
        """See Handler."""
        with concerning(device=self.name):
            self.exports.policy.group(device, st_ino)

    def question_mount(self, mnt_id: int, generation: int, fd: int) -> None:
        """See Handler."""
        if self.exports.listing:
            with concerning(device=self.name):
                self.exports.listing.mount(mnt_id, generation, fd)

    def fault(self, error: BaseException) -> None:
        """See Handler."""
        with concerning(device=self.name):
            log_fault(log, "unexpected error in a request, which gets EIO: a bug, report it", error)

    def broken(self, reason: str) -> None:
        """See Handler."""
        self._log.error(
            "the ring is broken: %s. It serves again once the guest's driver has set it up anew",
            reason,
        )

    def failure(self, data: bytes, code: int, refusal: Refusal, said: OSError | None) -> None:
        """See Handler."""
        self._failures.log(data, code, refusal, said)

    def failures_omitted(self, count: int) -> None:
        """See Handler."""
        self._failures.omitted(count)

    # ---- Backend, on the connection's thread ------------------------------------------------

    def config_read(self) -> bytes:
        """See Backend."""
        return self._config_space

    def reset(self) -> None:
        """See Backend. Drops the guest's fids, its locks and its unfinished attribute values."""
        self._reset(keep_memory=False)

    def reset_device(self) -> None:
        """See Backend."""
        self._reset(keep_memory=True)

    def _reset(self, *, keep_memory: bool) -> None:
        self._native.ring_pause()
        self._server.cancel_waits()
        self._native.reset(keep_memory=keep_memory)  # afterwards no request of the guest runs
        self._server.reset()

    def set_features(self, features: int) -> None:
        """See Backend."""
        self._stop_first()
        self._native.set_features(features)

    def mem_count(self) -> int:
        """See Backend."""
        return self._native.mem_count()

    def mem_set_table(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        """See Backend."""
        for _, fd in regions:
            check_memory(fd)
        self._native.mem_set([(*_place(region), fd) for region, fd in regions])

    def mem_add(self, region: MemoryRegion, fd: int) -> None:
        """See Backend."""
        check_memory(fd)
        self._native.mem_add(*_place(region), fd)

    def mem_remove(self, region: MemoryRegion) -> None:
        """See Backend."""
        self._native.mem_remove(region.gpa, region.size, region.uva)

    def ring_set_num(self, num: int) -> None:
        """See Backend."""
        self._stop_first()
        self._native.ring_set_num(num)
        self._server.set_ring_size(num)

    def ring_set_base(self, base: int) -> None:
        """See Backend."""
        self._stop_first()
        self._native.ring_set_base(base)

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """See Backend."""
        self._stop_first()
        self._native.ring_set_addr(desc, used, avail)

    def ring_set_kick(self, fd: int | None) -> None:
        """See Backend."""
        if fd is not None:
            check_event(fd)
        self._server.resume_waits()
        self._native.ring_set_kick(fd)

    def ring_set_call(self, fd: int | None) -> None:
        """See Backend."""
        if fd is not None:
            adopt_notified(fd)
        self._native.ring_set_call(fd)

    def ring_set_err(self, fd: int | None) -> None:
        """See Backend."""
        if fd is not None:
            adopt_notified(fd)
        self._native.ring_set_err(fd)

    def ring_enable(self, enable: bool) -> None:
        """See Backend."""
        self._native.ring_enable(enable)

    def ring_stop(self) -> int:
        """See Backend. Requests that wait for a lock are answered with BLOCKED: the client asks
        again."""
        self._native.ring_pause()
        self._server.cancel_waits()
        return self._native.ring_drain(DRAIN_MS)

    def _stop_first(self) -> None:
        """Stops a running ring, before a change of its set-up."""
        if self._native.ring_is_started():
            self.ring_stop()


def _place(region: MemoryRegion) -> tuple[int, int, int, int]:
    return region.gpa, region.size, region.uva, region.mmap_offset
