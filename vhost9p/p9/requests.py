"""What requests name, also those that C answers: for the log of requests that fail (failures.py).

C decodes and checks its own requests. Here their first fields are enough, and nothing follows from
them but words.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vhost9p.p9.constants import HEADER_SIZE, NOFID, NONUNAME


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the guest."""

    name: str
    fid: int | None = None
    """The fid that the request is about."""
    names: tuple[bytes, ...] = ()
    """Names below it: of a walk, of an entry, or of an attribute."""
    beside: int | None = None
    """The fid of another directory or file, to which it leads."""
    new_name: bytes | None = None
    """A name below that."""
    uid: int | None = None
    gid: int | None = None
    flags: int = 0
    """Of an open."""


class _Fields:
    """Takes fields off a message, one after the other. Raises struct.error at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = HEADER_SIZE

    def number(self, code: str = "I") -> int:
        """A number of struct's `code`."""
        (value,) = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def text(self) -> bytes:
        """A string."""
        size = self.number("H")
        self._at += size
        if self._at > len(self._data):
            raise struct.error("the message ends too early")
        return self._data[self._at - size : self._at]

    def texts(self) -> Iterator[bytes]:
        """A counted list of strings."""
        for _ in range(self.number("H")):
            yield self.text()


Take = Callable[[_Fields, Asked], Asked]


def _nothing(_: _Fields, asked: Asked) -> Asked:
    return asked


def _fid(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, fid=fields.number())


def _open(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, fid=fields.number(), flags=fields.number())


def _open_u(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, fid=fields.number(), flags=fields.number("B"))


def _entry(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, fid=fields.number(), names=(fields.text(),))


def _lcreate(fields: _Fields, asked: Asked) -> Asked:
    asked = _entry(fields, asked)
    return replace(asked, flags=fields.number(), gid=(fields.number(), fields.number())[1])


def _symlink(fields: _Fields, asked: Asked) -> Asked:
    asked = _entry(fields, asked)
    fields.text()  # the target
    return replace(asked, gid=fields.number())


def _mknod(fields: _Fields, asked: Asked) -> Asked:
    asked = _entry(fields, asked)
    return replace(asked, gid=[fields.number() for _ in range(4)][3])


def _mkdir(fields: _Fields, asked: Asked) -> Asked:
    asked = _entry(fields, asked)
    return replace(asked, gid=(fields.number(), fields.number())[1])


def _rename(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, fid=fields.number(), beside=fields.number(), new_name=fields.text())


def _renameat(fields: _Fields, asked: Asked) -> Asked:
    asked = _entry(fields, asked)
    return replace(asked, beside=fields.number(), new_name=fields.text())


def _link(fields: _Fields, asked: Asked) -> Asked:
    return replace(asked, beside=fields.number(), fid=fields.number(), new_name=fields.text())


def _xattrwalk(fields: _Fields, asked: Asked) -> Asked:
    fid, _ = fields.number(), fields.number()
    return replace(asked, fid=fid, names=(fields.text(),))


def _walk(fields: _Fields, asked: Asked) -> Asked:
    fid, _ = fields.number(), fields.number()
    return replace(asked, fid=fid, names=tuple(fields.texts()))


def _attach(fields: _Fields, asked: Asked) -> Asked:
    _, _, _ = fields.number(), fields.number(), fields.text()
    names = (fields.text(),)
    return replace(asked, names=names, uid=fields.number())


XATTR_REQUESTS = frozenset({"Txattrwalk", "Txattrcreate"})
"""Their name is an attribute's."""
REQUESTS: dict[int, tuple[str, Take]] = {
    8: ("Tstatfs", _fid),
    12: ("Tlopen", _open),
    14: ("Tlcreate", _lcreate),
    16: ("Tsymlink", _symlink),
    18: ("Tmknod", _mknod),
    20: ("Trename", _rename),
    22: ("Treadlink", _fid),
    24: ("Tgetattr", _fid),
    26: ("Tsetattr", _fid),
    30: ("Txattrwalk", _xattrwalk),
    32: ("Txattrcreate", _entry),
    40: ("Treaddir", _fid),
    50: ("Tfsync", _fid),
    52: ("Tlock", _fid),
    54: ("Tgetlock", _fid),
    70: ("Tlink", _link),
    72: ("Tmkdir", _mkdir),
    74: ("Trenameat", _renameat),
    76: ("Tunlinkat", _entry),
    100: ("Tversion", _nothing),
    102: ("Tauth", _nothing),
    104: ("Tattach", _attach),
    108: ("Tflush", _nothing),
    110: ("Twalk", _walk),
    112: ("Topen", _open_u),
    114: ("Tcreate", _entry),
    116: ("Tread", _fid),
    118: ("Twrite", _fid),
    120: ("Tclunk", _fid),
    122: ("Tremove", _fid),
    124: ("Tstat", _fid),
    126: ("Twstat", _fid),
}
"""By type; 9P2000.L and 9P2000.u have no number in common for different requests."""


def read(data: bytes) -> Asked:
    """What a request names, as far as its message is whole."""
    number = data[4] if len(data) > HEADER_SIZE - 3 else 0
    name, take = REQUESTS.get(number, (f"request {number}", _nothing))
    asked = Asked(name)
    try:
        asked = take(_Fields(data), asked)
    except struct.error:
        return asked
    if asked.uid == NONUNAME:
        asked = replace(asked, uid=None)
    return replace(asked, fid=None) if asked.fid == NOFID else asked
