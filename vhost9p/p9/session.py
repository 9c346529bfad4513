"""Tversion, Tauth, Tattach: how a guest's mount begins."""

import errno
from collections.abc import Callable

from vhost9p.fs.driver import close_fd
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import Context, Handler, Request, id_of, qid_of

VERSIONS = {dialect.value: dialect for dialect in c.Dialect}


def _user(t: m.Tattach, dialect: c.Dialect) -> int:
    """Returns the user who attaches: n_uname. uname is ignored, since the kernel's client sends
    "nobody" in it. The exception is a decimal number in 9P2000.u, whose older clients send no
    n_uname."""
    if dialect is c.Dialect.L or t.n_uname != c.NONUNAME:
        return t.n_uname
    number = id_of(t.uname)
    return c.NONUNAME if number is None else number


class SessionFamily:
    """`forget` drops the data that other families store for fids, all of which Tversion ends."""

    def __init__(self, context: Context, forget: Callable[[], None]) -> None:
        self._context = context
        self._forget = forget

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tversion: self.version, m.Tauth: self.auth, m.Tattach: self.attach}

    def version(self, request: Request, t: m.Tversion) -> m.Rversion:
        """Begins a new session. Nothing else is in flight, and no fid of the old session
        survives."""
        if t.msize < c.MSIZE_MIN:
            raise P9Error(errno.EMSGSIZE, f"msize {t.msize} is below {c.MSIZE_MIN}")
        self._context.fids.clear()
        self._forget()
        msize = min(t.msize, self._context.msize_max)
        if t.version not in VERSIONS:
            return m.Rversion(msize, b"unknown")
        self._context.begin(VERSIONS[t.version])
        self._context.msize = msize
        self._context.set_msize(msize)
        return m.Rversion(msize, t.version)

    def auth(self, request: Request, t: m.Tauth) -> m.Rauth:
        """Refuses authentication: the host decides who may connect to the socket."""
        raise P9Error(errno.EOPNOTSUPP, "no authentication is required")

    def attach(self, request: Request, t: m.Tattach) -> m.Rattach:
        """Creates a fid for the root, or for the directory in aname."""
        if t.afid != c.NOFID:
            raise P9Error(errno.EINVAL, "no authentication is required, so there is no afid")
        if b"\0" in t.aname:
            raise P9Error(errno.EINVAL, f"the attach name {t.aname!r} with a NUL")
        if len(t.aname) > c.PATH_MAX:
            raise P9Error(errno.ENAMETOOLONG, f"an attach name of {len(t.aname)} bytes")
        uid = _user(t, self._context.dialect)
        export, fd, attr = self._context.tree.attach(t.aname, uid)
        try:
            self._context.fids.add(t.fid, fd, export, uid, attr)
        except OSError:
            close_fd(fd)
            raise
        return m.Rattach(qid_of(attr))
