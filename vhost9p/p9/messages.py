"""The messages of 9P2000.L that Python answers, each declared once. C answers the others.

The line above a class is the message in the notation of the protocol's documents; the annotations
are its layout (vhost9p.p9.codec). Source: intro(5) of Plan 9 from User Space for the messages from
100 on, diod's protocol.md and Linux's include/net/9p/9p.h for the others.
"""

from vhost9p.p9.codec import (
    U8,
    U32,
    U64,
    Data,
    Message,
    QidField,
    String,
    message,
)


# size[4] Rlerror tag[2] ecode[4]
@message(7)
class Rlerror(Message):
    ecode: U32


# size[4] Tlock tag[2] fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]
@message(52)
class Tlock(Message):
    fid: U32
    type: U8
    flags: U32
    start: U64
    length: U64
    proc_id: U32
    client_id: String


# size[4] Rlock tag[2] status[1]
@message(53)
class Rlock(Message):
    status: U8


# size[4] Tgetlock tag[2] fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]
@message(54)
class Tgetlock(Message):
    fid: U32
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: String


# size[4] Rgetlock tag[2] type[1] start[8] length[8] proc_id[4] client_id[s]
@message(55)
class Rgetlock(Message):
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: String


# size[4] Tversion tag[2] msize[4] version[s]
@message(100)
class Tversion(Message):
    msize: U32
    version: String


# size[4] Rversion tag[2] msize[4] version[s]
@message(101)
class Rversion(Message):
    msize: U32
    version: String


# size[4] Tauth tag[2] afid[4] uname[s] aname[s] n_uname[4]
@message(102)
class Tauth(Message):
    afid: U32
    uname: String
    aname: String
    n_uname: U32


# size[4] Rauth tag[2] aqid[13]
@message(103)
class Rauth(Message):
    aqid: QidField


# size[4] Tattach tag[2] fid[4] afid[4] uname[s] aname[s] n_uname[4]
@message(104)
class Tattach(Message):
    fid: U32
    afid: U32
    uname: String
    aname: String
    n_uname: U32


# size[4] Rattach tag[2] qid[13]
@message(105)
class Rattach(Message):
    qid: QidField


# size[4] Tread tag[2] fid[4] offset[8] count[4]
@message(116)
class Tread(Message):
    fid: U32
    offset: U64
    count: U32


# size[4] Rread tag[2] count[4] data[count]
@message(117)
class Rread(Message):
    data: Data


# size[4] Tclunk tag[2] fid[4]
@message(120)
class Tclunk(Message):
    fid: U32


# size[4] Rclunk tag[2]
@message(121)
class Rclunk(Message):
    pass


# size[4] Tremove tag[2] fid[4]
@message(122)
class Tremove(Message):
    fid: U32


# size[4] Rremove tag[2]
@message(123)
class Rremove(Message):
    pass
