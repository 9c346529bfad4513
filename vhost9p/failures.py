"""The log of requests that fail: one line for each, with the reason in words.

C reports a failed request before it is answered, on the thread that serves it (csrc/request/
failure.h), and so many a second at most, since a guest may fail all the time. So nothing here waits
for a file system: names are those that C keeps, and of files only what the kernel knows by itself.

Errors that programs expect are left out, unless the log has level debug: a file that is there
already, an attribute that is not. ENOENT is never logged, unless the name is one that the guest may
not use.

A line has names from a guest: they are quoted, cut, and escaped (output.py).
"""

import errno
import logging
import os

from vhost9p.config import DeviceConfig, ExportConfig
from vhost9p.escapes import quoted
from vhost9p.fs.tree import Tree
from vhost9p.log_record import about
from vhost9p.native.export import Export
from vhost9p.native.fids import Facts, FidTable, View
from vhost9p.native.refusals import Refusal
from vhost9p.p9 import requests
from vhost9p.p9.codec import P9Error
from vhost9p.p9.constants import NONUNAME
from vhost9p.p9.requests import Asked
from vhost9p.policy.reasons import Act, Daemon, daemon_refuses, host_refuses

log = logging.getLogger(__name__)

LINES_PER_SECOND = 10
BURST = 100
PATH_MAX = 400
"""Characters of a path that are shown: its end."""
ORDINARY = (
    *(errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.ENODATA, errno.ERANGE, errno.EOPNOTSUPP, errno.EAGAIN, errno.EINTR),
)
"""Errors that programs expect: they try, and go on."""
NOTHING = Facts(known=False)
CHANGES_OF_NAMES = {
    "Tlcreate": Act.CREATE,
    "Tcreate": Act.CREATE,
    "Tmkdir": Act.CREATE,
    "Tmknod": Act.CREATE,
    "Tsymlink": Act.CREATE,
    "Tlink": Act.CREATE,
    "Tunlinkat": Act.DELETE,
    "Trenameat": Act.DELETE,
    "Trename": Act.DELETE,
    "Tremove": Act.DELETE,
}
ACTS = {
    **CHANGES_OF_NAMES,
    "Twalk": Act.SEARCH,
    "Tattach": Act.SEARCH,
    "Tsetattr": Act.ATTRIBUTES,
    "Twstat": Act.ATTRIBUTES,
    "Treaddir": Act.READ,
    "Tread": Act.READ,
    "Txattrwalk": Act.READ,
    "Twrite": Act.WRITE,
    "Txattrcreate": Act.WRITE,
    "Tclunk": Act.WRITE,
}
"""What a request does to the file of its fid."""


def enable(first: Export, *, always: bool) -> None:
    """Has failures of a device's requests reported, by its export 0, if they are to be logged:
    always, or at level debug. Once, before the exports are served."""
    debug = log.isEnabledFor(logging.DEBUG)
    if always or debug:
        first.report_failures(LINES_PER_SECOND, BURST, () if debug else ORDINARY)


def _act(asked: Asked) -> Act:
    if asked.name not in {"Tlopen", "Topen"}:
        return ACTS.get(asked.name, Act.OTHER)
    return (Act.READ, Act.WRITE, Act.READ_WRITE, Act.READ)[asked.flags & os.O_ACCMODE]


def _quoted(path: bytes) -> str:
    text = os.fsdecode(path)
    return quoted(text if len(text) <= PATH_MAX else "..." + text[-PATH_MAX:])


class Failures:
    """Logs the failed requests of one device."""

    def __init__(self, config: DeviceConfig, fids: FidTable, tree: Tree, *, always: bool) -> None:
        self._config = config
        self._fids = fids
        self._tree = tree
        self._level = logging.WARNING if always else logging.DEBUG
        self._daemon: Daemon | None = None

    def omitted(self, count: int) -> None:
        """So many failures were not reported, since they were too many."""
        log.log(
            self._level,
            "%s: %d failed requests before this one were dropped by the rate limit",
            *(self._config.tag, count),
            extra=about(device=self._config.tag),
        )

    def log(self, data: bytes, code: int, refusal: Refusal, said: OSError | None) -> None:
        """A request fails. See Handler."""
        asked = requests.read(data)
        view = self._look(asked.fid)
        index = view.export if view else 0
        config = self._export(index)
        named = f" in export {config.name}" if config and config.name else ""
        where = self._where(asked, view, refusal)
        who = self._who(asked, view)
        name = errno.errorcode.get(code, str(code))
        log.log(
            self._level,
            "%s: %s%s%s%s: %s: %s",
            *(self._config.tag, asked.name, where, named, who, name),
            self._reason(asked, view, code, refusal, said, config),
            extra=about(
                device=self._config.tag,
                request=asked.name,
                errno=str(code),
                **({"export": config.name or config.path} if config else {}),
            ),
        )

    def _look(self, fid: int | None) -> View | None:
        return None if fid is None else self._fids.view(fid)

    def _export(self, index: int) -> ExportConfig | None:
        """The configuration of the export with this index; None for the directory in which several
        exports appear."""
        return self._config.indexed.get(index)

    def _path(self, view: View | None, name: bytes | None = None) -> str:
        """The guest's path of a fid, or of a name in its directory."""
        if not view or view.path is None:
            place = b"an unknown place"
            return f"{_quoted(name)} in {place.decode()}" if name else place.decode()
        path = view.path
        if (top := self._tree.name(view.export)) != b"/":
            path = b"/" + top + path
        return _quoted(path + (b"/" + name if name else b"") or b"/")

    def _where(self, asked: Asked, view: View | None, refusal: Refusal) -> str:
        """What the request is about, as it follows the request's name."""
        if asked.name == "Tattach":
            return f" {_quoted(b'/' + b''.join(asked.names))}"
        if asked.fid is None:
            return ""
        if asked.name in requests.XATTR_REQUESTS:
            attribute = f" attribute {_quoted(asked.names[0])}" if asked.names[0] else ""
            return f" {self._path(view)}{attribute}"
        last = refusal.walked + 1 if refusal.walk_error else len(asked.names)
        where = " " + self._path(view, b"/".join(asked.names[:last]))
        if asked.beside is not None:
            where += f" to {self._path(self._look(asked.beside), asked.new_name)}"
        return where

    def _who(self, asked: Asked, view: View | None) -> str:
        uid = asked.uid if asked.uid is not None else view.uid if view else None
        parts = [f"uid {uid}"] if uid is not None and uid != NONUNAME else []
        if asked.gid is not None and asked.gid != NONUNAME:
            parts.append(f"gid {asked.gid}")
        return f", {' '.join(parts)}" if parts else ""

    def _reason(
        self,
        asked: Asked,
        view: View | None,
        code: int,
        refusal: Refusal,
        said: OSError | None,
        config: ExportConfig | None,
    ) -> str:
        if not self._daemon:
            self._daemon = Daemon.here()
        if words := daemon_refuses(refusal, config, self._daemon):
            return words
        if isinstance(said, P9Error) and said.strerror != os.strerror(code):
            return str(said.strerror)
        act = _act(asked)
        facts = view.facts if view else NOTHING
        if asked.name == "Twalk":
            facts = refusal.denied
        elif asked.name in {"Tremove", "Trename"}:
            facts = NOTHING  # it is the directory that counts
        return host_refuses(code, self._daemon, facts, act)
