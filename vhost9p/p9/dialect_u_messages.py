"""The messages that 9P2000.u adds to those of 9P2000.L, and its stat structure.

vhost9p.p9.messages has those of both dialects, and explains the declarations. Source: open(5) and
stat(5) of Plan 9, and the notes on 9P2000.u that Linux's client was written from (Linux:
include/net/9p/client.h, net/9p/protocol.c).
"""

from typing import Annotated

from vhost9p.p9.codec import (
    U8,
    U16,
    U32,
    U64,
    Message,
    QidField,
    Record,
    String,
    message,
    record,
    sized,
)


# size[2] type[2] dev[4] qid[13] mode[4] atime[4] mtime[4] length[8] name[s] uid[s] gid[s] muid[s]
# extension[s] n_uid[4] n_gid[4] n_muid[4]
@record
class Stat(Record):
    """Attributes. In Twstat all ones, or an empty string, leave a field unchanged."""

    type: U16
    dev: U32
    qid: QidField
    mode: U32
    atime: U32
    mtime: U32
    length: U64
    name: String
    uid: String
    gid: String
    muid: String
    extension: String
    n_uid: U32
    n_gid: U32
    n_muid: U32

    def record(self) -> bytes:
        """Encodes an entry of a directory's contents: size[2] and the fields."""
        fields = self.dump()
        return len(fields).to_bytes(2, "little") + fields


StatField = Annotated[Stat, sized(Stat)]
"""stat[n]: n[2] and the structure."""


# size[4] Rerror tag[2] ename[s] errno[4]
@message(107)
class Rerror(Message):
    ename: String
    errno: U32


# size[4] Topen tag[2] fid[4] mode[1]
@message(112)
class Topen(Message):
    fid: U32
    mode: U8


# size[4] Ropen tag[2] qid[13] iounit[4]
@message(113)
class Ropen(Message):
    qid: QidField
    iounit: U32


# size[4] Tcreate tag[2] fid[4] name[s] perm[4] mode[1] extension[s]
@message(114)
class Tcreate(Message):
    fid: U32
    name: String
    perm: U32
    mode: U8
    extension: String


# size[4] Rcreate tag[2] qid[13] iounit[4]
@message(115)
class Rcreate(Message):
    qid: QidField
    iounit: U32


# size[4] Tstat tag[2] fid[4]
@message(124)
class Tstat(Message):
    fid: U32


# size[4] Rstat tag[2] stat[n]
@message(125)
class Rstat(Message):
    stat: StatField


# size[4] Twstat tag[2] fid[4] stat[n]
@message(126)
class Twstat(Message):
    fid: U32
    stat: StatField


# size[4] Rwstat tag[2]
@message(127)
class Rwstat(Message):
    pass
