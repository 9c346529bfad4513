"""The layouts of all messages of 9P2000.L and 9P2000.u, as the protocol's documents write them, and
how a message is taken apart for a reader.

Nothing is served by this: C and p9/ decode what they answer, and refuse what is not whole. Here a
message may end anywhere, since a trace leaves out data; fields that are not there are left out.

Source: intro(5) of Plan 9 from User Space, diod's protocol.md, Linux's include/net/9p/9p.h.
"""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from vhost9p.p9.codec import Qid
from vhost9p.p9.constants import HEADER_SIZE

_TEXT = """
7 Rlerror ecode[4]
8 Tstatfs fid[4]
9 Rstatfs type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8] namelen[4]
12 Tlopen fid[4] flags[4]
13 Rlopen qid[13] iounit[4]
14 Tlcreate fid[4] name[s] flags[4] mode[4] gid[4]
15 Rlcreate qid[13] iounit[4]
16 Tsymlink fid[4] name[s] target[s] gid[4]
17 Rsymlink qid[13]
18 Tmknod fid[4] name[s] mode[4] major[4] minor[4] gid[4]
19 Rmknod qid[13]
20 Trename fid[4] dfid[4] name[s]
21 Rrename
22 Treadlink fid[4]
23 Rreadlink target[s]
24 Tgetattr fid[4] request_mask[8]
25 Rgetattr valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8] blksize[8] blocks[8] \
atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] ctime_sec[8] ctime_nsec[8] btime_sec[8] \
btime_nsec[8] gen[8] data_version[8]
26 Tsetattr fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8] \
mtime_nsec[8]
27 Rsetattr
30 Txattrwalk fid[4] newfid[4] name[s]
31 Rxattrwalk size[8]
32 Txattrcreate fid[4] name[s] size[8] flags[4]
33 Rxattrcreate
40 Treaddir fid[4] offset[8] count[4]
41 Rreaddir count[4] data[d]
50 Tfsync fid[4] datasync[4]
51 Rfsync
52 Tlock fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]
53 Rlock status[1]
54 Tgetlock fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]
55 Rgetlock type[1] start[8] length[8] proc_id[4] client_id[s]
70 Tlink dfid[4] fid[4] name[s]
71 Rlink
72 Tmkdir fid[4] name[s] mode[4] gid[4]
73 Rmkdir qid[13]
74 Trenameat fid[4] name[s] newdirfid[4] newname[s]
75 Rrenameat
76 Tunlinkat fid[4] name[s] flags[4]
77 Runlinkat
100 Tversion msize[4] version[s]
101 Rversion msize[4] version[s]
102 Tauth afid[4] uname[s] aname[s] n_uname[4]
103 Rauth qid[13]
104 Tattach fid[4] afid[4] uname[s] aname[s] n_uname[4]
105 Rattach qid[13]
107 Rerror ename[s] ecode[4]
108 Tflush oldtag[2]
109 Rflush
110 Twalk fid[4] newfid[4] names[s*]
111 Rwalk qids[13*]
112 Topen fid[4] mode[1]
113 Ropen qid[13] iounit[4]
114 Tcreate fid[4] name[s] perm[4] mode[1] extension[s]
115 Rcreate qid[13] iounit[4]
116 Tread fid[4] offset[8] count[4]
117 Rread count[4] data[d]
118 Twrite fid[4] offset[8] count[4] data[d]
119 Rwrite count[4]
120 Tclunk fid[4]
121 Rclunk
122 Tremove fid[4]
123 Rremove
124 Tstat fid[4]
125 Rstat stat[n]
126 Twstat fid[4] stat[n]
127 Rwstat
"""
"""A line for each type. A number in brackets is the size of a number, 13 that of a qid; s is a
string, d the bytes up to the end, n a stat structure behind its size, * a list with its length in
16 bits before it. The fid that a request is about is called so whatever the documents say (Tmknod:
dfid)."""


_STAT = (
    "size[2] type[2] dev[4] qid[13] mode[4] atime[4] mtime[4] length[8] name[s] uid[s] gid[s] "
    "muid[s] extension[s] n_uid[4] n_gid[4] n_muid[4]"
)
"""The stat structure of 9P2000.u."""


class Layout(NamedTuple):
    """A message's name, and the names and kinds of its fields."""

    name: str
    fields: tuple[tuple[str, str], ...]


def _pairs(fields: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((field.partition("[")[0], field.partition("[")[2][:-1]) for field in fields)


def _parse(line: str) -> tuple[int, Layout]:
    number, name, *fields = line.split()
    return int(number), Layout(name, _pairs(fields))


LAYOUTS = dict(map(_parse, _TEXT.strip().splitlines()))
"""By type."""
REQUESTS = {each.name: number for number, each in LAYOUTS.items() if each.name[0] == "T"}
"""Types of requests by name."""
ERRORS = frozenset({7, 107})
"""Types of replies that are errors."""

STAT = _pairs(_STAT.split())
_NUMBERS = {"1": "<B", "2": "<H", "4": "<I", "8": "<Q"}


class Message(NamedTuple):
    """A message, or as much of it as there is."""

    name: str
    type: int
    tag: int
    size: int
    """Of the whole message."""
    fields: dict[str, Any]
    """Numbers, strings and data as bytes, Qid, tuples of them, or a dict for a structure."""

    @property
    def error(self) -> int:
        """The errno of an error; else 0."""
        return int(self.fields.get("ecode", 0)) if self.type in ERRORS else 0


class _Ended(Exception):
    """There are no more bytes."""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = HEADER_SIZE

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _Ended
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, kind: str) -> int:
        code = _NUMBERS[kind]
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def value(self, kind: str) -> Any:
        if kind.endswith("*"):
            return tuple(self.value(kind[:-1]) for _ in range(self.number("2")))
        if kind == "13":
            return Qid(self.number("1"), self.number("4"), self.number("8"))
        if kind == "s":
            return self.take(self.number("2"))
        if kind == "n":
            self.number("2")
            return {name: self.value(inner) for name, inner in STAT}
        if kind == "d":
            return self.take(len(self._data) - self._at)
        return self.number(kind)


def read(data: bytes) -> Message:
    """Takes a message apart, as far as it goes; at least its header is there. Raises nothing."""
    size, number, tag = struct.unpack_from("<IBH", data.ljust(HEADER_SIZE, b"\0"))
    layout = LAYOUTS.get(number, Layout(f"type {number}", ()))
    source, fields = _Bytes(data), dict[str, Any]()
    try:
        for name, kind in layout.fields:
            fields[name] = source.value(kind)
    except _Ended:
        pass
    return Message(layout.name, number, tag, size, fields)
