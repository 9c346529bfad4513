"""What a guest's user may do with a path of an export, and why not: without a guest.

The path is walked name by name, as a guest's kernel does it, through the same C as a guest's walk
(native/export.py). Then both who decide are asked: the guest's kernel, by the owner and mode that
the guest sees, and the host, by what the daemon's user may do. The daemon's own rules are those of
the configuration. The reasons are in the words of policy/reasons.py, like those of the log.

What the guest's kernel knows and a daemon does not is left out: supplementary groups, capabilities
of the user, and whether it has mounted with `posixacl`, where it looks at ACLs as well.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from vhost9p.config import DeviceConfig, ExportConfig
from vhost9p.escapes import quoted
from vhost9p.exports import MODELS
from vhost9p.native.export import GID, UID, Attr, Export
from vhost9p.native.fids import Facts, facts_of
from vhost9p.native.qidmap import DeviceFlag, QidMap
from vhost9p.native.sys import lacking_capabilities
from vhost9p.policy import acl, export_options, reasons, usage, xattrs
from vhost9p.policy.reasons import Act, Daemon
from vhost9p.procfs import proc_path

SYMLINKS_MAX = 40
"""Followed on one path (path_resolution(7))."""
OUTSIDE = "the path leads out of the mount, to the guest's own tree"
ROOT = 0
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


class _NoMoreError(Exception):
    """The walk ends before the end of the path: why."""


@dataclass(frozen=True, slots=True)
class Step:
    """A component of the path that exists."""

    path: str
    """The guest's, from the root of its mount."""
    kind: str
    uid: int
    gid: int
    mode: int
    """As the guest sees them."""
    host_uid: int
    host_gid: int
    host_mode: int
    notes: tuple[str, ...]
    """What is special about it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something is allowed. `allowed` is None for what cannot be done to such a file."""

    allowed: bool | None
    reason: str = ""
    """Why not."""


@dataclass(slots=True)
class Answer:
    """What there is to say of a path."""

    steps: list[Step] = field(default_factory=list)
    problem: str = ""
    """Why the end of the path cannot be reached."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By what is done; empty if the end cannot be reached."""

    @property
    def is_allowed(self) -> bool:
        """Whether nothing is refused."""
        return not self.problem and all(
            each.allowed is not False for each in self.verdicts.values()
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """A file on the path."""

    name: bytes
    export: "_Export"
    fd: int
    attr: Attr
    facts: Facts


class _Devices:
    """multidevs without identities: which devices are served (policy/multidevs.py)."""

    def __init__(self, qidmap: QidMap, root_dev: int, *, deny: bool) -> None:
        self._qidmap = qidmap
        self._root_dev = root_dev
        self._deny = deny

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """See QidPolicy."""
        foreign = st_dev != self._root_dev
        flag = DeviceFlag.DENY if foreign and self._deny else DeviceFlag.IDENTITY
        self._qidmap.set_device(st_dev, mnt_id, int(foreign), flag)

    def group(self, device: int, ino: int) -> None:
        """See QidPolicy. Never called: no device has groups."""
        raise LookupError(f"device {device} has no groups (inode {ino})")


class _Export:
    """An export as it is served, but for its state."""

    def __init__(self, config: ExportConfig, device: DeviceConfig, undo: ExitStack) -> None:
        """Raises OSError."""
        self.config = config
        self.root_fd = os.open(config.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, self.root_fd)
        qidmap = QidMap()
        undo.callback(qidmap.close)
        self.native = Export(
            self.root_fd,
            readonly=config.readonly,
            stat_entries=False,
            model=MODELS.get(config.model, 0),
            owners_matter=config.model == "passthrough",
            qidmap=qidmap,
        )
        undo.callback(self.native.close)
        export_options.install(self.native, config)
        root_dev, deny = os.fstat(self.root_fd).st_dev, device.multidevs == "forbid"
        self.native.policy = _Devices(qidmap, root_dev, deny=deny)

    def why_full(self, device: DeviceConfig, *, inodes: bool) -> str | None:
        """Why the quota has no room for more; None if it has, or its usage is not known."""
        limits = self.config.quota
        if not limits:
            return None
        used = usage.peek(device.state_dir, os.path.realpath(self.config.path))
        if used and limits.bytes is not None and used.bytes >= limits.bytes:
            return reasons.quota_used_up(self.config, inodes=False)
        if used and inodes and limits.inodes is not None and used.inodes >= limits.inodes:
            return reasons.quota_used_up(self.config, inodes=True)
        return None


class Inspector:
    """Answers for one user of the guest, of one device."""

    def __init__(self, device: DeviceConfig, uid: int, gid: int) -> None:
        self._device = device
        self._uid = uid
        self._gid = gid
        self._daemon = Daemon.here()
        self._undo = ExitStack()
        self._answer = Answer()
        self._place: _Place | None = None
        self._above: list[_Place] = []
        """The directories that lead to the present place."""

    def ask(self, path: bytes) -> Answer:
        """Walks a path from the root of the guest's mount. Call it once. Raises OSError if an
        export cannot be opened."""
        with self._undo:
            try:
                self._walk(deque(each for each in path.split(b"/") if each not in (b"", b".")))
            except _NoMoreError as error:
                self._answer.problem = str(error)
            else:
                self._judge()
        return self._answer

    # ---- the walk ---------------------------------------------------------------------------

    def _walk(self, names: deque[bytes]) -> None:
        exports = {os.fsencode(each.name): each for each in self._device.exports}
        self._require_no_notices(names)
        if b"" not in exports:
            if names and names[0] == b"..":
                raise _NoMoreError(OUTSIDE)
            if not names:
                raise _NoMoreError(
                    "the root shows the exports of the device and nothing else; it cannot be "
                    f"changed: {', '.join(map(os.fsdecode, exports))}"
                )
            if names[0] not in exports:
                raise _NoMoreError(
                    f"{quoted(names[0])} is no export of the device; it has "
                    f"{', '.join(map(os.fsdecode, exports))}"
                )
        name = b"" if b"" in exports else names.popleft()
        self._enter(exports[name], name)
        symlinks = 0
        while names:
            name = names.popleft()
            if name == b"..":
                self._climb()
                continue
            target = self._step(name)
            if target is None:
                continue
            symlinks += 1
            if symlinks > SYMLINKS_MAX:
                raise _NoMoreError(f"more than {SYMLINKS_MAX} symlinks ({_words(errno.ELOOP)})")
            if target.startswith(b"/"):
                raise _NoMoreError(
                    f"the symlink leads to {quoted(target)} of the guest's own tree: ask for that "
                    "path, if it is in this mount"
                )
            names.extendleft(
                each for each in reversed(target.split(b"/")) if each not in (b"", b".")
            )

    def _require_no_notices(self, names: deque[bytes]) -> None:
        notices = os.fsencode(self._device.notify_name)
        if self._device.notify and names and names[0] == notices:
            raise _NoMoreError(f"{quoted(b'/' + notices)}: {reasons.NOTICES}")

    def _enter(self, config: ExportConfig, name: bytes) -> None:
        export = _Export(config, self._device, self._undo)
        try:
            export.native.host_id(UID, self._uid)
        except OSError:
            raise _NoMoreError(reasons.no_entry(self._uid)) from None
        notes = [f"root of the export {config.path} ({config.model})"]
        notes += [reasons.READONLY] if config.readonly else []
        self._take(name, export, os.dup(export.root_fd), notes)

    def _climb(self) -> None:
        if self._above:
            self._place = self._above.pop()
        elif self._device.exports[0].name:
            raise _NoMoreError("the path leads out of the export, to the root of the exports")
        else:
            raise _NoMoreError(OUTSIDE)

    def _step(self, name: bytes) -> bytes | None:
        """Goes to an entry. Returns a symlink's target, and stays where it is."""
        here = self._here
        self._require_search(here)
        export = here.export
        try:
            fd = export.native.step(here.fd, name)
        except OSError as error:
            raise _NoMoreError(self._why_no_step(here, name, error)) from None
        before = here.attr
        notes = []
        try:
            attr = export.native.attr(fd)
        except OSError as error:
            self._undo.callback(os.close, fd)
            words = reasons.DEVICE if error.errno == errno.ENODEV else _words(error.errno)
            raise _NoMoreError(f"{self._path(name)}: {words}") from None
        if attr.native.mnt_id != before.native.mnt_id or attr.st_dev != before.st_dev:
            notes.append(f"mount point (device {os.major(attr.st_dev)}:{os.minor(attr.st_dev)})")
        target = export.native.read_link(fd) if stat.S_ISLNK(attr.mode) else None
        if target is not None:
            notes.append(f"leads to {quoted(target)}")
            self._undo.callback(os.close, fd)
            self._note(self._path(name), attr, facts_of(fd), notes)
            return target
        self._above.append(here)
        self._take(name, export, fd, notes)
        return None

    def _require_search(self, here: _Place) -> None:
        where = self._path()
        if not stat.S_ISDIR(here.attr.mode):
            raise _NoMoreError(f"{where}: {_words(errno.ENOTDIR)}")
        if why := self._why_not(here, Act.SEARCH):
            raise _NoMoreError(f"{where}: {why}")

    def _why_no_step(self, here: _Place, name: bytes, error: OSError) -> str:
        where, code = self._path(name), error.errno or 0
        if code == errno.ENOENT and here.export.native.hides(here.fd, name):
            return f"{where}: {reasons.HIDDEN}"
        if code != errno.ENOENT:
            return f"{where}: {reasons.host_refuses(code, self._daemon, here.facts, Act.SEARCH)}"
        self._place = here
        create = self._create(here)
        may = "may be created" if create.allowed else f"may not be created: {create.reason}"
        return f"{where}: {_words(code)}; it {may}"

    def _take(self, name: bytes, export: _Export, fd: int, notes: list[str]) -> None:
        self._undo.callback(os.close, fd)
        attr, facts = export.native.attr(fd), facts_of(fd)
        notes = [*notes, *_acls(fd, facts)]
        self._place = _Place(name, export, fd, attr, facts)
        self._note(self._path(), attr, facts, notes)

    def _note(self, path: str, attr: Attr, facts: Facts, notes: list[str]) -> None:
        if problem := reasons.flags_problem(facts, Act.WRITE):
            notes = [*notes, problem]
        self._answer.steps.append(
            Step(
                path,
                KINDS.get(stat.S_IFMT(attr.mode), "file"),
                attr.uid,
                attr.gid,
                stat.S_IMODE(attr.mode),
                facts.uid,
                facts.gid,
                stat.S_IMODE(facts.mode),
                tuple(notes),
            )
        )

    @property
    def _here(self) -> _Place:
        assert self._place, "the walk has begun"
        return self._place

    def _path(self, more: bytes = b"") -> str:
        names = [each.name for each in (*self._above, self._here) if each.name]
        return quoted(b"/" + b"/".join([*names, more] if more else names))

    # ---- verdicts ---------------------------------------------------------------------------

    def _judge(self) -> None:
        here = self._here
        is_dir = stat.S_ISDIR(here.attr.mode)
        self._answer.verdicts = {
            "read": self._access(here, Act.READ),
            "write": Verdict(None, "a directory") if is_dir else self._write(here),
            **({"search": self._access(here, Act.SEARCH)} if is_dir else {}),
            **({} if is_dir else {"execute": self._access(here, Act.EXECUTE)}),
            "create": self._create(here) if is_dir else Verdict(None, "no directory"),
            "delete": self._delete(here),
        }

    def _access(self, here: _Place, act: Act) -> Verdict:
        if act is Act.EXECUTE and not here.attr.mode & 0o111:
            return Verdict(None, "it is no program: nobody may execute it")
        return self._of_its_kind(here, act) or _verdict(self._why_not(here, act))

    def _write(self, here: _Place) -> Verdict:
        return self._of_its_kind(here, Act.WRITE) or _verdict(
            self._why_frozen(here)
            or reasons.flags_problem(here.facts, Act.WRITE)
            or self._why_not(here, Act.WRITE)
            or here.export.why_full(self._device, inodes=False)
        )

    def _create(self, here: _Place) -> Verdict:
        return _verdict(
            self._why_frozen(here)
            or self._why_no_owner(here.export)
            or reasons.flags_problem(here.facts, Act.CREATE)
            or self._why_not(here, Act.CREATE)
            or here.export.why_full(self._device, inodes=True)
        )

    def _delete(self, here: _Place) -> Verdict:
        if not self._above:
            return Verdict(None, "the root of an export")
        above = self._above[-1]
        return _verdict(
            self._why_frozen(above)
            or reasons.flags_problem(above.facts, Act.DELETE)
            or reasons.flags_problem(here.facts, Act.DELETE)
            or self._why_not(above, Act.DELETE)
            or self._why_sticky(above, here)
        )

    def _why_frozen(self, here: _Place) -> str | None:
        if here.export.config.readonly:
            return reasons.READONLY
        if os.fstatvfs(here.fd).f_flag & os.ST_RDONLY:
            return reasons.OF_HOST[errno.EROFS]
        return None

    def _of_its_kind(self, here: _Place, act: Act) -> Verdict | None:
        """The verdict on a file that the guest's kernel opens by itself, as its own device, so that
        nobody but that kernel refuses it; None for other files."""
        kind = stat.S_IFMT(here.attr.mode)
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            return None
        if why := self._why_guest_refuses(here, act):
            return Verdict(False, why)
        what = KINDS.get(kind, "file")
        return Verdict(None, f"a {what} is the guest's own: its kernel never asks the daemon")

    def _why_guest_refuses(self, here: _Place, act: Act) -> str | None:
        owner = (here.attr.uid, here.attr.gid)
        groups = frozenset({self._gid})
        if self._uid == ROOT or reasons.mode_allows(here.attr.mode, owner, self._uid, groups, act):
            return None
        return (
            f"the guest's user {self._uid} may not {act}: owner {owner[0]}:{owner[1]}, mode "
            f"{stat.S_IMODE(here.attr.mode):04o}, as the guest sees it"
            + self._what_posixacl_changes(here, act)
        )

    def _why_not(self, here: _Place, act: Act) -> str | None:
        """Why one of both kernels refuses access; None if none does."""
        if why := self._why_guest_refuses(here, act):
            return why
        if act is Act.EXECUTE:
            act = Act.READ  # all that the daemon does for it
        needed = reasons.NEEDED[act]
        if os.access(proc_path(here.fd), needed, effective_ids=True):
            return None
        return reasons.host_refuses(errno.EACCES, self._daemon, here.facts, act)

    def _what_posixacl_changes(self, here: _Place, act: Act) -> str:
        """Of the guest's kernel, which looks at ACLs with that mount option only."""
        found, native = reasons.acl_of(here.facts), here.export.native
        if not found or here.export.config.model in xattrs.MODELS:
            return ""  # those keep the guest's ACLs elsewhere
        try:
            user, group = native.host_id(UID, self._uid), native.host_id(GID, self._gid)
        except OSError:
            return ""
        owner = (here.facts.uid, here.facts.gid)
        deciding = acl.applying(found, owner, user, frozenset({group}))
        if not acl.allows(found, deciding, reasons.NEEDED[act]):
            return ""
        return f"; its ACL {acl.gives(found, deciding)}, if the guest mounts with posixacl"

    def _why_sticky(self, above: _Place, here: _Place) -> str | None:
        owners = (ROOT, above.attr.uid, here.attr.uid)
        if above.attr.mode & stat.S_ISVTX and self._uid not in owners:
            return (
                f"the directory is sticky: only the owner of an entry may remove it, not the "
                f"guest's user {self._uid}"
            )
        return reasons.sticky_problem(self._daemon, above.facts, here.facts)

    def _why_no_owner(self, export: _Export) -> str | None:
        """Why a new file cannot belong to the user."""
        needs_privilege = export.config.model == "passthrough" and lacking_capabilities()
        for kind, number in ((UID, self._uid), (GID, self._gid)):
            try:
                host = export.native.host_id(kind, number)
            except OSError:
                return reasons.forbidden(number)
            own = {self._daemon.uid} if kind == UID else self._daemon.groups
            if needs_privilege and host not in own:
                return reasons.no_owner(self._daemon, host)
        return None


def _acls(fd: int, facts: Facts) -> Iterator[str]:
    """The ACLs of a file, which the host keeps."""
    if found := acl.parse(facts.acl or b""):
        yield f"ACL {acl.words(found)}"
    if stat.S_ISDIR(facts.mode):
        try:
            default = os.getxattr(proc_path(fd), acl.DEFAULT)
        except OSError:
            return
        if found := acl.parse(default):
            yield f"default ACL, which new files get: {acl.words(found)}"


def _verdict(why: str | None) -> Verdict:
    return Verdict(why is None, why or "")


def _words(code: int | None) -> str:
    return os.strerror(code or 0)


def lines(answer: Answer) -> Iterator[str]:
    """Yields the lines that a person reads."""
    for step in answer.steps:
        seen = f"{step.uid}:{step.gid} {step.mode:04o}"
        host = f"{step.host_uid}:{step.host_gid} {step.host_mode:04o}"
        on_host = "" if seen == host else f" (on the host {host})"
        notes = "".join(f"; {note}" for note in step.notes)
        yield f"{step.path}: {step.kind}, {seen}{on_host}{notes}"
    if answer.problem:
        yield f"not reached: {answer.problem}"
    for what, verdict in answer.verdicts.items():
        said = {True: "yes", False: "no", None: "does not apply"}[verdict.allowed]
        yield f"{what}: {said}{': ' if verdict.reason else ''}{verdict.reason}"
