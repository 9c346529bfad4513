"""Captures: files that Wireshark opens, and that `vhost9p replay` takes.

The format is pcapng (draft-ietf-opsawg-pcapng), with an interface for each device, named after its
mount tag. A message is the data of a TCP connection to port 564, which Wireshark takes for 9P, in
IPv4 packets without a link layer (LINKTYPE_RAW). A request is followed by its reply, so packets are
in the order of replies, each with its own time. What of a message was not recorded is missing at
the end of its packet, as with a snap length; the sequence numbers count it. No IP packet has more
than 64 KiB, so a longer message is in several, and if it is not whole in none but the first.

The comment of a request's packet has what the message itself does not say: lines "path: …", "fid
N: …" (where that was at the time), "uid: …" and "dialect: …". Requests that were lost are counted
in the packet after them.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from vhost9p import __version__
from vhost9p.escapes import escape, unescape
from vhost9p.trace.events import Event, Source

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
MAGIC = 0x1A2B3C4D
LINKTYPE_RAW = 101
NANOSECONDS = 9
COMMENT, NAME, RESOLUTION, PROGRAM, DROPPED = 1, 2, 9, 4, 4
"""Options; their numbers depend on the block."""
PORT, CLIENT_PORT = 564, 50000
GUEST, HOST = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
_BLOCK = struct.Struct("<II")
_SECTION = struct.Struct("<IHHq")
_INTERFACE = struct.Struct("<HHI")
_PACKET = struct.Struct("<IIIII")
_OPTION = struct.Struct("<HH")
_IP = struct.Struct(">BBHHHBBH4s4s")
_TCP = struct.Struct(">HHIIBBHHH")
HEADERS = _IP.size + _TCP.size
SEGMENT_MAX = 65535 - HEADERS
BLOCK_MAX = 1 << 20


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*pairs: tuple[int, bytes]) -> bytes:
    if not pairs:
        return b""
    each = (_OPTION.pack(code, len(value)) + _padded(value) for code, value in pairs)
    return b"".join(each) + _OPTION.pack(0, 0)


def _block(kind: int, body: bytes) -> bytes:
    size = _BLOCK.size + len(body) + 4
    return _BLOCK.pack(kind, size) + body + struct.pack("<I", size)


class Writer:
    """Writes a capture of some devices."""

    def __init__(self, out: BinaryIO, sources: Sequence[Source]) -> None:
        """Raises OSError."""
        self._out = out
        self._sequences = [[1, 1] for _ in sources]
        """Of each device: of the guest's stream, and of the host's."""
        self._numbers = {source.tag: i for i, source in enumerate(sources)}
        self._lost = 0
        out.write(_block(SECTION, _SECTION.pack(MAGIC, 1, 0, -1) + _options(
            (PROGRAM, f"vhost9p {__version__}".encode())
        )))  # fmt: skip
        for source in sources:
            options = _options(
                (NAME, source.tag.encode(errors="replace")), (RESOLUTION, bytes((NANOSECONDS,)))
            )
            out.write(_block(INTERFACE, _INTERFACE.pack(LINKTYPE_RAW, 0, 0) + options))
        out.flush()

    def lose(self, count: int) -> None:
        """So many requests are not recorded."""
        self._lost += count

    def write(self, event: Event) -> None:
        """Adds a request and its reply. Raises OSError."""
        record, number = event.record, self._numbers[event.source.tag]
        began = record.began or record.ended
        comment = "\n".join(_comment(event)).encode(errors="replace")
        options = [(COMMENT, comment)] if comment else []
        if self._lost:
            options.append((DROPPED, struct.pack("<Q", self._lost)))
            self._lost = 0
        self._message(number, 0, began, record.request, record.request_size, options)
        ended = began + record.took if record.began else record.ended
        self._message(number, 1, ended, record.reply, record.reply_size, [])
        self._out.flush()

    def _message(
        self, number: int, end: int, at: int, data: bytes, size: int,
        options: list[tuple[int, bytes]],
    ) -> None:  # fmt: skip
        """`data` is what there is of a message of so many bytes, sent by the guest (0) or the
        host (1)."""
        whole = len(data) >= size
        if not whole:  # a packet that is whole would be held for the rest of its message
            data = data[: SEGMENT_MAX - 1]
        for start in range(0, size if whole else 1, SEGMENT_MAX):
            length = min(size - start, SEGMENT_MAX)
            packet = self._headers(number, end, length) + data[start : start + length]
            fields = number, at >> 32, at & 0xFFFFFFFF, len(packet), HEADERS + length
            body = _PACKET.pack(*fields) + _padded(packet) + _options(*options)
            self._out.write(_block(PACKET, body))
            self._advance(number, end, length)
            options = []
        if not whole:
            self._advance(number, end, max(size - SEGMENT_MAX, 0))

    def _advance(self, number: int, end: int, length: int) -> None:
        self._sequences[number][end] = (self._sequences[number][end] + length) % 2**32

    def _headers(self, number: int, end: int, length: int) -> bytes:
        hosts, ports = (GUEST, HOST), (CLIENT_PORT + number, PORT)
        sequence, acknowledged = self._sequences[number][end], self._sequences[number][1 - end]
        ip = [0x45, 0, HEADERS + length, 0, 0x4000, 64, 6, 0, hosts[end], hosts[1 - end]]
        ip[7] = _checksum(_IP.pack(*ip))
        tcp = ports[end], ports[1 - end], sequence, acknowledged, 0x50, 0x18, 0xFFFF, 0, 0
        return _IP.pack(*ip) + _TCP.pack(*tcp)


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _comment(event: Event) -> Iterator[str]:
    yield from (f"path: {escape(path)}" for path in event.paths)
    yield from (f"fid {fid}: {escape(path)}" for fid, path in event.fid_paths().items())
    if event.record.uid is not None:
        yield f"uid: {event.record.uid}"
    if event.record.is_u:
        yield "dialect: 9P2000.u"


# ---- reading -------------------------------------------------------------------------------------


class CaptureError(Exception):
    """A file is no capture of `vhost9p trace`, or not a whole one; the text continues its name."""


class Captured(NamedTuple):
    """A request and its reply."""

    device: str
    began: int
    """Nanoseconds since 1970."""
    took: int
    """Nanoseconds."""
    request: bytes
    """As much as there is of it."""
    request_size: int
    reply: bytes
    reply_size: int
    paths: tuple[str, ...]
    fid_paths: dict[int, str]
    """Where its fids were."""
    uid: int | None
    is_u: bool
    lost: int
    """Requests before this one that were not recorded."""


class _Part(NamedTuple):
    """A message, or a part of it."""

    device: int
    is_reply: bool
    at: int
    data: bytes
    size: int
    """Of the payload of the packets, also as far as it was not recorded."""
    comment: str
    lost: int


def read(file: BinaryIO) -> Iterator[Captured]:
    """Yields what a capture holds. Raises CaptureError, OSError."""
    devices: list[str] = []
    asked: dict[int, _Part] = {}
    for part in _messages(_parts(file, devices)):
        if not part.is_reply:
            asked[part.device] = part
        elif request := asked.pop(part.device, None):
            yield _captured(devices[part.device], request, part)


def _captured(device: str, request: _Part, reply: _Part) -> Captured:
    lines = [each.partition(": ") for each in request.comment.split("\n")]
    uid = next((value for key, _, value in lines if key == "uid" and _is_number(value)), None)
    return Captured(
        device, request.at, max(reply.at - request.at, 0), request.data, request.size,
        reply.data, reply.size,
        tuple(unescape(value) for key, _, value in lines if key == "path"),
        {
            int(key[4:]): unescape(value)
            for key, _, value in lines
            if key.startswith("fid ") and _is_number(key[4:])
        },
        None if uid is None else int(uid),
        ("dialect", ": ", "9P2000.u") in lines,
        request.lost,
    )  # fmt: skip


def _is_number(text: str) -> bool:
    """Of 32 bits."""
    return len(text) <= 10 and text.isdecimal() and int(text) < 2**32


def _messages(parts: Iterator[_Part]) -> Iterator[_Part]:
    """Puts messages of several packets together."""
    begun: dict[tuple[int, bool], _Part] = {}
    for each in parts:
        key = each.device, each.is_reply
        before = begun.pop(key, each._replace(data=b"", size=0))
        part = before._replace(data=before.data + each.data, size=before.size + each.size)
        size = int.from_bytes(part.data[:4], "little")
        if len(part.data) < 7:
            if part.size >= 7 and not part.data:
                yield part  # nothing of it was recorded
                continue
            raise CaptureError("has a packet that is no 9P message")
        if part.size < size and len(part.data) == part.size:
            begun[key] = part
        else:
            yield part._replace(size=max(size, part.size))


def _parts(file: BinaryIO, devices: list[str]) -> Iterator[_Part]:
    for kind, body, at in _blocks(file):
        try:
            if kind == INTERFACE:
                devices.append(_interface(body))
            elif kind == PACKET:
                part = _packet(body)
                if not 0 <= part.device < len(devices):
                    raise CaptureError(f"has a packet of an unknown interface at byte {at}")
                yield part
        except (struct.error, IndexError):
            raise CaptureError(f"has a damaged block at byte {at}") from None


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Yields the type and the body of each block, and where it begins."""
    at = 0
    while head := file.read(_BLOCK.size):
        if len(head) < _BLOCK.size:
            raise CaptureError(f"ends in the middle of a block, at byte {at + len(head)}")
        kind, size = _BLOCK.unpack(head)
        if at == 0 and kind != SECTION:
            raise CaptureError("is no capture in pcapng format, as vhost9p trace --pcap writes it")
        if size % 4 or not 12 <= size <= BLOCK_MAX:
            raise CaptureError(f"has a damaged block at byte {at}: it says it has {size} bytes")
        rest = file.read(size - _BLOCK.size)
        if len(rest) < size - _BLOCK.size:
            end = at + _BLOCK.size + len(rest)
            raise CaptureError(f"ends in the middle of a block, at byte {end}")
        if at == 0 and rest[:4] != struct.pack("<I", MAGIC):
            raise CaptureError("is a capture of another program: its byte order is not ours")
        yield kind, rest[:-4], at
        at += size
    if at == 0:
        raise CaptureError("is empty")


def _option(data: bytes, code: int) -> bytes | None:
    at = 0
    while at + _OPTION.size <= len(data):
        found, size = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if found == code:
            return data[at : at + size]
        if not found:
            return None
        at += size + -size % 4
    return None


def _interface(body: bytes) -> str:
    link, _, _ = _INTERFACE.unpack_from(body)
    options = body[_INTERFACE.size :]
    if link != LINKTYPE_RAW or _option(options, RESOLUTION) != bytes((NANOSECONDS,)):
        raise CaptureError("is a capture of another program than vhost9p trace")
    return (_option(options, NAME) or b"").decode(errors="replace")


def _packet(body: bytes) -> _Part:
    device, high, low, held, size = _PACKET.unpack_from(body)
    packet = body[_PACKET.size : _PACKET.size + held]
    options = body[_PACKET.size + held + -held % 4 :]
    source, _ = struct.unpack_from(">HH", packet, _IP.size)
    comment = (_option(options, COMMENT) or b"").decode(errors="replace")
    dropped = int.from_bytes((_option(options, DROPPED) or b"")[:8], "little")
    at, data = high << 32 | low, packet[HEADERS:]
    return _Part(device, source == PORT, at, data, size - HEADERS, comment, dropped)
