"""A valid message of each kind, with what it makes the backend do."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.frontend.vhost_user import ADDRESSES, CONFIG, NO_FD, REGION, STATE, U64, Request
from tests.vhost_user.fake_backend import memfds, sockets

FEATURES = 1 << 0 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 34
PROTOCOL = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15
REPLY_ACK = 1 << 3

FIRST = (0x1000, 0x2000, 0x7F0000000000, 0)
SECOND = (1 << 32, 1 << 30, 0x7F8000000000, 0x2000)
SLOT = bytes(8) + REGION.pack(*FIRST)
TABLE = struct.pack("=II", 2, 0) + REGION.pack(*FIRST) + REGION.pack(*SECOND)


class Example(NamedTuple):
    request: Request
    payload: bytes = b""
    fds: int = 0
    does: tuple[str, ...] = ()


COMMANDS = [
    Example(Request.SET_FEATURES, U64.pack(FEATURES), 0, ("set_features",)),
    Example(Request.SET_OWNER, b"", 0, ("reset",)),
    Example(Request.RESET_OWNER, b"", 0, ("ring_enable",)),
    Example(Request.SET_MEM_TABLE, TABLE, 2, ("mem_set_table",)),
    Example(Request.SET_VRING_NUM, STATE.pack(0, 128), 0, ("ring_set_num",)),
    Example(Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, 1, 2, 3, 0), 0, ("ring_set_addr",)),
    Example(Request.SET_VRING_BASE, STATE.pack(0, 5), 0, ("ring_set_base",)),
    Example(Request.SET_VRING_KICK, U64.pack(0), 1, ("ring_set_kick",)),
    Example(Request.SET_VRING_KICK, U64.pack(NO_FD), 0, ("ring_set_kick",)),
    Example(Request.SET_VRING_CALL, U64.pack(0), 1, ("ring_set_call",)),
    Example(Request.SET_VRING_CALL, U64.pack(NO_FD), 0, ("ring_set_call",)),
    Example(Request.SET_VRING_ERR, U64.pack(0), 1, ("ring_set_err",)),
    Example(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL)),
    Example(Request.SET_VRING_ENABLE, STATE.pack(0, 1), 0, ("ring_enable",)),
    Example(Request.SET_BACKEND_REQ_FD, b"", 1),
    Example(Request.RESET_DEVICE, b"", 0, ("reset_device",)),
    Example(Request.ADD_MEM_REG, SLOT, 1, ("mem_add",)),
    Example(Request.REM_MEM_REG, SLOT, 0, ("mem_remove",)),
    Example(Request.REM_MEM_REG, SLOT, 1, ("mem_remove",)),
]
QUERIES = [
    Example(Request.GET_FEATURES),
    Example(Request.GET_PROTOCOL_FEATURES),
    Example(Request.GET_QUEUE_NUM),
    Example(Request.GET_MAX_MEM_SLOTS),
    Example(Request.GET_CONFIG, CONFIG.pack(0, 8, 0) + bytes(8), 0, ("config_read",)),
    Example(Request.GET_VRING_BASE, STATE.pack(0, 0), 0, ("ring_stop",)),
]


def fds_of(example: Example) -> list[int]:
    """New descriptors of the kind that the request takes."""
    if example.request is Request.SET_BACKEND_REQ_FD:
        return sockets(example.fds)
    return memfds(example.fds)


def title(example: Example) -> str:
    return f"{example.request.name}-{example.fds}fds"
