"""A virtual machine without a machine: memory, connection and ring in the order QEMU uses them.

The states are those of a VMM with a generic vhost-user device: `realize` (the device is plugged
and the handshake done), `probe` (the guest's driver reads config space), `start` (DRIVER_OK),
`stop` (guest reset, unbind or `stop`), `start` again, and `unplug`/`plug` on the same connection,
where the memory table lives on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from types import TracebackType
from typing import cast

from tests.frontend.memory import GuestMemory, Region, pc_memory
from tests.frontend.packed_ring import PackedRing
from tests.frontend.ring import SplitRing
from tests.frontend.vhost_user import (
    EVENT_IDX_BIT,
    INDIRECT_BIT,
    PROTOCOL_FEATURES_BIT,
    RING_PACKED_BIT,
    U64,
    VERSION_1_BIT,
    Frontend,
    Protocol,
    Request,
)

CONFIG_SIZE = 256

# What QEMU acknowledges when it is offered.
QEMU_PROTOCOL = sum(
    1 << bit
    for bit in (
        Protocol.MQ,
        Protocol.REPLY_ACK,
        Protocol.BACKEND_REQ,
        Protocol.CONFIG,
        Protocol.RESET_DEVICE,
        Protocol.INBAND_NOTIFICATIONS,
        Protocol.CONFIGURE_MEM_SLOTS,
        Protocol.STATUS,
    )
)


class Machine:
    """A machine with one device. As a context manager it disconnects and frees at the end.

    `features` are the virtio features that the guest's driver knows; `protocol` the protocol
    features that the VMM knows. `socket_path` or an already connected `sock` leads to the daemon.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        sock: socket.socket | None = None,
        memory: GuestMemory | None = None,
        ring_size: int = 128,
        event_idx: bool = True,
        indirect: bool = True,
        packed: bool = False,
        protocol: int = QEMU_PROTOCOL,
    ) -> None:
        self.frontend = Frontend(socket_path, sock)
        self.memory = memory or pc_memory()
        self.wanted = 1 << 0 | 1 << VERSION_1_BIT
        self.wanted |= event_idx << EVENT_IDX_BIT | indirect << INDIRECT_BIT
        self.wanted |= packed << RING_PACKED_BIT
        self.protocol = protocol
        # Whoever looks into the split layout does not ask for a packed one.
        layout = cast("type[SplitRing]", PackedRing) if packed else SplitRing
        self.ring = layout(self.memory, ring_size, event_idx=event_idx)
        self.masked_call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.backend_requests: socket.socket | None = None
        self.device_features = 0
        self.features = 0
        self.sent_regions: list[Region] = []
        self.base = self.ring.start
        self.running = False

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects without a word, as a killed VMM does."""
        self.frontend.close()
        if self.backend_requests:
            self.backend_requests.close()
            self.backend_requests = None
        if self.masked_call >= 0:
            self.ring.close()
            os.close(self.masked_call)
            self.masked_call = -1
            self.memory.close()

    def boot(self) -> Machine:
        """Everything up to a running ring."""
        self.realize()
        self.probe()
        self.start()
        return self

    def realize(self) -> None:
        """The handshake when the device is created. It may come again on the same connection."""
        frontend = self.frontend
        self.device_features = frontend.get_features()
        if self.device_features >> PROTOCOL_FEATURES_BIT & 1:
            offered = frontend.get_protocol_features()
            frontend.set_protocol_features(offered & self.protocol)
            if frontend.has(Protocol.MQ):
                frontend.query_u64(Request.GET_QUEUE_NUM)
            if frontend.has(Protocol.CONFIGURE_MEM_SLOTS):
                frontend.query_u64(Request.GET_MAX_MEM_SLOTS)
            if frontend.has(Protocol.BACKEND_REQ):
                self._give_backend_channel()
        frontend.send(Request.SET_OWNER)
        self.device_features = frontend.get_features()
        frontend.set_vring_fd(Request.SET_VRING_CALL, self.masked_call)
        frontend.set_vring_fd(Request.SET_VRING_ERR, self.ring.err_fd)

    def _give_backend_channel(self) -> None:
        if self.backend_requests:
            self.backend_requests.close()
        self.backend_requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self.frontend.command(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])

    def probe(self) -> str:
        """Reads the mount tag as the guest's driver does: one whole read for each byte."""
        if not self.frontend.has(Protocol.CONFIG):
            return ""
        size = int.from_bytes(self.frontend.get_config(0, CONFIG_SIZE)[:2], "little")
        whole = b""
        for _ in range(size):
            whole = self.frontend.get_config(0, CONFIG_SIZE)
        return whole[2 : 2 + size].decode()

    def start(self) -> None:
        """DRIVER_OK: features, memory, the ring's addresses and descriptors, enable."""
        frontend = self.frontend
        self.features = self.device_features & (self.wanted | 1 << PROTOCOL_FEATURES_BIT)
        frontend.send(Request.SET_FEATURES, U64.pack(self.features))
        self.send_memory()
        self.set_ring_state()
        self.running = True

    def set_ring_state(self) -> None:
        """The part of `start` that concerns the ring alone."""
        frontend, ring, memory = self.frontend, self.ring, self.memory
        frontend.set_vring_num(ring.size)
        frontend.set_vring_base(self.base)
        frontend.set_vring_addr(
            memory.uva(ring.desc), memory.uva(ring.used), memory.uva(ring.avail)
        )
        frontend.set_vring_fd(Request.SET_VRING_KICK, ring.kick_fd)
        frontend.set_vring_fd(Request.SET_VRING_CALL, self.masked_call)
        if self.features >> PROTOCOL_FEATURES_BIT & 1:
            frontend.set_vring_enable(True)
        frontend.set_vring_fd(Request.SET_VRING_CALL, ring.call_fd)
        frontend.get_features()  # without acknowledgements: all of that has been done now
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(ring.call_fd, os.eventfd_read(self.masked_call))  # came while masked

    def send_memory(self) -> None:
        """The memory table: the whole of it, or with slots only what has changed."""
        if not self.frontend.has(Protocol.CONFIGURE_MEM_SLOTS):
            self.frontend.set_mem_table(self.memory.regions)
            self.sent_regions = list(self.memory.regions)
            return
        for region in [r for r in self.sent_regions if r not in self.memory.regions]:
            self.frontend.rem_mem_reg(region)
            self.sent_regions.remove(region)
        for region in self.memory.regions:
            if region not in self.sent_regions:
                self.frontend.add_mem_reg(region)
                self.sent_regions.append(region)

    def stop(self) -> int:
        """Stops the ring as a guest reset, an unbind or a `stop` does; returns its base."""
        if self.features >> PROTOCOL_FEATURES_BIT & 1:
            self.frontend.set_vring_enable(False)
        self.base = self.frontend.get_vring_base()
        self.running = False
        return self.base

    def reboot(self, start: int = 0) -> None:
        """The guest resets the device and its driver starts from an empty ring, at `start`."""
        if self.running:
            self.stop()
        self.ring.reset(start)
        self.base = self.ring.start + start
        self.probe()
        self.start()

    def replug(self) -> None:
        """device_del and device_add: the handshake again, and every region added once more."""
        if self.running:
            self.stop()
        self.sent_regions = []
        self.ring.reset()
        self.base = self.ring.start
        self.boot()
