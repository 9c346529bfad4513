"""Every message of 9P2000.L, declared once.

The line above a class is the message as the protocol's notes write it; the annotations are its
layout (vhost9p.p9.codec). Source: intro(5) of Plan 9 from User Space for the messages from 100 on,
diod's protocol.md and Linux's include/net/9p/9p.h for the others.
"""

from vhost9p.p9.codec import (
    U8,
    U16,
    U32,
    U64,
    Data,
    Message,
    QidField,
    Qids,
    String,
    Strings,
    message,
)


# size[4] Rlerror tag[2] ecode[4]
@message(7)
class Rlerror(Message):
    ecode: U32


# size[4] Tstatfs tag[2] fid[4]
@message(8)
class Tstatfs(Message):
    fid: U32


# size[4] Rstatfs tag[2] type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8]
# namelen[4]
@message(9)
class Rstatfs(Message):
    type: U32
    bsize: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64
    fsid: U64
    namelen: U32


# size[4] Tlopen tag[2] fid[4] flags[4]
@message(12)
class Tlopen(Message):
    fid: U32
    flags: U32


# size[4] Rlopen tag[2] qid[13] iounit[4]
@message(13)
class Rlopen(Message):
    qid: QidField
    iounit: U32


# size[4] Tlcreate tag[2] fid[4] name[s] flags[4] mode[4] gid[4]
@message(14)
class Tlcreate(Message):
    fid: U32
    name: String
    flags: U32
    mode: U32
    gid: U32


# size[4] Rlcreate tag[2] qid[13] iounit[4]
@message(15)
class Rlcreate(Message):
    qid: QidField
    iounit: U32


# size[4] Tsymlink tag[2] dfid[4] name[s] target[s] gid[4]
@message(16)
class Tsymlink(Message):
    dfid: U32
    name: String
    target: String
    gid: U32


# size[4] Rsymlink tag[2] qid[13]
@message(17)
class Rsymlink(Message):
    qid: QidField


# size[4] Tmknod tag[2] dfid[4] name[s] mode[4] major[4] minor[4] gid[4]
@message(18)
class Tmknod(Message):
    dfid: U32
    name: String
    mode: U32
    major: U32
    minor: U32
    gid: U32


# size[4] Rmknod tag[2] qid[13]
@message(19)
class Rmknod(Message):
    qid: QidField


# size[4] Trename tag[2] fid[4] dfid[4] name[s]
@message(20)
class Trename(Message):
    fid: U32
    dfid: U32
    name: String


# size[4] Rrename tag[2]
@message(21)
class Rrename(Message):
    pass


# size[4] Treadlink tag[2] fid[4]
@message(22)
class Treadlink(Message):
    fid: U32


# size[4] Rreadlink tag[2] target[s]
@message(23)
class Rreadlink(Message):
    target: String


# size[4] Tgetattr tag[2] fid[4] request_mask[8]
@message(24)
class Tgetattr(Message):
    fid: U32
    request_mask: U64


# size[4] Rgetattr tag[2] valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8]
# blksize[8] blocks[8] atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] ctime_sec[8]
# ctime_nsec[8] btime_sec[8] btime_nsec[8] gen[8] data_version[8]
@message(25)
class Rgetattr(Message):
    valid: U64
    qid: QidField
    mode: U32
    uid: U32
    gid: U32
    nlink: U64
    rdev: U64
    size: U64
    blksize: U64
    blocks: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64
    ctime_sec: U64
    ctime_nsec: U64
    btime_sec: U64
    btime_nsec: U64
    gen: U64
    data_version: U64


# size[4] Tsetattr tag[2] fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8]
# mtime_sec[8] mtime_nsec[8]
@message(26)
class Tsetattr(Message):
    fid: U32
    valid: U32
    mode: U32
    uid: U32
    gid: U32
    size: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64


# size[4] Rsetattr tag[2]
@message(27)
class Rsetattr(Message):
    pass


# size[4] Txattrwalk tag[2] fid[4] newfid[4] name[s]
@message(30)
class Txattrwalk(Message):
    fid: U32
    newfid: U32
    name: String


# size[4] Rxattrwalk tag[2] size[8]
@message(31)
class Rxattrwalk(Message):
    size: U64


# size[4] Txattrcreate tag[2] fid[4] name[s] attr_size[8] flags[4]
@message(32)
class Txattrcreate(Message):
    fid: U32
    name: String
    attr_size: U64
    flags: U32


# size[4] Rxattrcreate tag[2]
@message(33)
class Rxattrcreate(Message):
    pass


# size[4] Treaddir tag[2] fid[4] offset[8] count[4]
@message(40)
class Treaddir(Message):
    fid: U32
    offset: U64
    count: U32


# size[4] Rreaddir tag[2] count[4] data[count]
@message(41)
class Rreaddir(Message):
    data: Data


# size[4] Tfsync tag[2] fid[4] datasync[4]
@message(50)
class Tfsync(Message):
    fid: U32
    datasync: U32


# size[4] Rfsync tag[2]
@message(51)
class Rfsync(Message):
    pass


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


# size[4] Tlink tag[2] dfid[4] fid[4] name[s]
@message(70)
class Tlink(Message):
    dfid: U32
    fid: U32
    name: String


# size[4] Rlink tag[2]
@message(71)
class Rlink(Message):
    pass


# size[4] Tmkdir tag[2] dfid[4] name[s] mode[4] gid[4]
@message(72)
class Tmkdir(Message):
    dfid: U32
    name: String
    mode: U32
    gid: U32


# size[4] Rmkdir tag[2] qid[13]
@message(73)
class Rmkdir(Message):
    qid: QidField


# size[4] Trenameat tag[2] olddirfid[4] oldname[s] newdirfid[4] newname[s]
@message(74)
class Trenameat(Message):
    olddirfid: U32
    oldname: String
    newdirfid: U32
    newname: String


# size[4] Rrenameat tag[2]
@message(75)
class Rrenameat(Message):
    pass


# size[4] Tunlinkat tag[2] dirfd[4] name[s] flags[4]
@message(76)
class Tunlinkat(Message):
    dirfd: U32
    name: String
    flags: U32


# size[4] Runlinkat tag[2]
@message(77)
class Runlinkat(Message):
    pass


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


# size[4] Tflush tag[2] oldtag[2]
@message(108)
class Tflush(Message):
    oldtag: U16


# size[4] Rflush tag[2]
@message(109)
class Rflush(Message):
    pass


# size[4] Twalk tag[2] fid[4] newfid[4] nwname[2] nwname*(wname[s])
@message(110)
class Twalk(Message):
    fid: U32
    newfid: U32
    names: Strings


# size[4] Rwalk tag[2] nwqid[2] nwqid*(wqid[13])
@message(111)
class Rwalk(Message):
    qids: Qids


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


# size[4] Twrite tag[2] fid[4] offset[8] count[4] data[count]
@message(118)
class Twrite(Message):
    fid: U32
    offset: U64
    data: Data


# size[4] Rwrite tag[2] count[4]
@message(119)
class Rwrite(Message):
    count: U32


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
