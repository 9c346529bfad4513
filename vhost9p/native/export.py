"""An export as C sees it: its root, its qid map, the attribute reader.

Reading attributes may find a host device or an inode range that is not in the qid map. Then the
policy decides, installs its decision, and the attributes are read again, as in the upcalls of
serving threads.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from vhost9p.native import descriptors
from vhost9p.native.hidden_paths import HiddenPaths
from vhost9p.native.library import check, ffi, lib
from vhost9p.native.mounts import MountViews
from vhost9p.native.qidmap import FileKey, QidMap
from vhost9p.native.xattr_names import XattrNames

MODEL_HOST: int = lib.V9_MODEL_HOST
MODEL_XATTR: int = lib.V9_MODEL_XATTR
MODEL_FILE: int = lib.V9_MODEL_FILE
META_DIR: bytes = ffi.string(lib.v9_hidden_name(lib.V9_META_DIR))
META_ROOT: bytes = ffi.string(lib.v9_hidden_name(lib.V9_META_ROOT))
"""Names of mapped-file's metadata: of a directory's files, and of the export's root."""
UID: int = lib.V9_UID
GID: int = lib.V9_GID
NOTICES: int = lib.V9_NOTICES
"""The index of the directory of notices among a device's exports."""
REFRESH_MTIME: int = lib.V9_REFRESH_MTIME
FORGET_MTIME: int = lib.V9_FORGET_MTIME
RENEW_MTIME: int = lib.V9_RENEW_MTIME
"""Times of modification, in seconds, that change nothing on the host (csrc/export/notices.h)."""
PATH_MAX = 4096
NO_ID = 0xFFFFFFFF
"""V9_NO_ID: no user or group."""


class QidPolicy(Protocol):
    """Decides about entries that the qid map lacks. Both methods may be called from several
    threads."""

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """Installs what (st_dev, mnt_id), seen on the open file `fd`, stands for."""

    def group(self, device: int, ino: int) -> None:
        """Installs the group, or the single file, of an inode; raises OSError (ENFILE, ENOSPC)."""


@dataclass(frozen=True, slots=True)
class Attr:
    """Attributes of a host file as the guest sees them."""

    qid_type: int
    qid_version: int
    qid_path: int
    st_dev: int
    st_ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    native: Any
    """The C struct, for the fid table and what is asked for more rarely."""

    @property
    def rdev(self) -> int:
        """A device's number as Linux encodes it in 32 bits; os.major and os.minor decode it."""
        return int(self.native.rdev)

    @property
    def atime(self) -> int:
        """Whole seconds."""
        return int(self.native.atime_sec)

    @property
    def mtime(self) -> int:
        """Whole seconds."""
        return int(self.native.mtime_sec)


def _attr_from(native: Any) -> Attr:
    """From the C struct."""
    return Attr(
        native.qid.type,
        native.qid.version,
        native.qid.path,
        native.st_dev,
        native.st_ino,
        native.mode,
        native.uid,
        native.gid,
        native.nlink,
        native.size,
        native,
    )


class Export:
    """One exported directory. `root_fd` may be an O_PATH descriptor; it is duplicated. Exports that
    one guest sees share a `qidmap`. With `writeout` written data goes to disk at once. With
    `stat_entries` listings return the same qids as walks: by a stat of every entry, or with
    `mounts`, which must outlive the export, of those that may lie on another device. With
    `owners_matter` creation fails if a file cannot get its owner. The mapped models create files
    and directories on the host with modes `fmode` and `dmode`. If the host is `unlabelled`, the
    guest is told that SELinux's labels are not supported, unless a file has one. `notifies`: its
    device has a directory of notices.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        readonly: bool,
        stat_entries: bool,
        model: int = MODEL_HOST,
        writeout: bool = False,
        owners_matter: bool = True,
        fmode: int = 0o600,
        dmode: int = 0o700,
        unlabelled: bool = False,
        notifies: bool = False,
        qidmap: QidMap | None = None,
        mounts: MountViews | None = None,
    ) -> None:
        conf = ffi.new(
            "struct v9_export_conf *",
            {
                "root_fd": root_fd,
                "readonly": readonly,
                "stat_entries": stat_entries,
                "model": model,
                "writeout": writeout,
                "owners_matter": owners_matter,
                "fmode": fmode,
                "dmode": dmode,
                "unlabelled": unlabelled,
                "notifies": notifies,
            },
        )
        err = ffi.new("int32_t *")
        self.qidmap = qidmap or QidMap()
        self._owns_qidmap = qidmap is None
        self.native = lib.v9_export_new(conf, self.qidmap.native, err)
        if not self.native:
            raise OSError(-err[0], os.strerror(-err[0]))
        lib.v9_export_cache_metadata(self.native)
        if mounts:
            check(lib.v9_export_set_mounts(self.native, mounts.native))
        self.policy: QidPolicy | None = None
        self.model = model
        self.owners_matter = owners_matter

    def close(self) -> None:
        """Frees it. No device may be using it."""
        if self.native:
            lib.v9_export_free(self.native)
            self.native = ffi.NULL
            if self._owns_qidmap:
                self.qidmap.close()

    def join(self, name: bytes, export: Self) -> None:
        """Makes another export's root appear as this directory of the root."""
        check(lib.v9_export_join(self.native, name, export.native))

    def set_notices(self, events: int, end: memoryview, *, listed: bool) -> None:
        """Makes it the directory of notices, whose file with the inode number `events` is the
        stream: `end` are eight bytes with the position where that ends. `listed`: the guest's
        listings have the directory. Once, before it is served."""
        self._end = ffi.from_buffer("uint64_t[]", end)  # C keeps no copy
        lib.v9_export_set_notices(self.native, events, self._end, listed)

    def admits(self, uid: int) -> None:
        """Raises OSError EPERM if a user of the guest may not use it."""
        check(lib.v9_export_admits(self.native, uid))

    def allows_changes(self, uid: int) -> None:
        """Raises OSError EROFS if a user of the guest may not change anything in it."""
        check(lib.v9_export_allows_changes(self.native, uid))

    def set_ids(
        self,
        kind: int,
        ranges: Iterable[tuple[int, int, int]],
        squash: int | None = None,
        forbidden: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Installs the map of owners (UID) or groups (GID): (guest, host, count), which must not
        overlap, and (first, count) of forbidden guest ids. Once, before the export is served;
        OSError EINVAL for ranges that do overlap."""
        native = ffi.new("struct v9_id_range[]", sorted(ranges, key=lambda each: each[1]))
        denied = ffi.new("struct v9_id_range[]", [(first, 0, count) for first, count in forbidden])
        values = (native, denied, len(native), len(denied), squash is not None, squash or 0)
        conf = ffi.new("struct v9_id_conf *", values)
        check(lib.v9_export_set_ids(self.native, kind, conf))

    def host_id(self, kind: int, guest: int) -> int:
        """Returns the host id of a guest's id; OSError EPERM if the guest may not use it. NO_ID
        stays."""
        return check(lib.v9_export_host_id(self.native, kind, guest))

    def guest_id(self, kind: int, host: int) -> int:
        """Returns the guest id of a host id; 65534 if it is not in the map."""
        return int(lib.v9_export_guest_id(self.native, kind, host))

    def set_throttle(self, limits: Sequence[tuple[int, int, int]], iops_size: int) -> None:
        """Delays reads and writes so that the limits hold (csrc/base/token_bucket.h): (avg, max,
        length) of
        bytes in total, read, written, and of requests likewise. Once, before it is served."""
        conf = ffi.new("struct v9_token_bucket_conf *", (list(limits), iops_size))
        check(lib.v9_export_set_throttle(self.native, conf))

    def report_failures(self, per_second: int, burst: int, skipped: Iterable[int]) -> None:
        """From now on Handler.failure reports failed requests of the device whose first export this
        is, so many at most, unless their errno is in `skipped`. Once, before it is served."""
        conf = ffi.new("struct v9_failure_conf *", {"per_second": per_second, "burst": burst})
        for code in skipped:
            conf.skipped[code] = 1
        check(lib.v9_export_report_failures(self.native, conf))

    def set_xattr_names(self, names: XattrNames) -> None:
        """Translates names of extended attributes from now on. Once, before the export is
        served."""
        self._xattr_names = names  # C keeps no copy
        lib.v9_export_set_xattr_names(self.native, names.native)

    def limit_xattrs(self, value: int, names: int, total: int) -> None:
        """Limits a file's extended attributes: bytes of one value, number of attributes, bytes of
        all names and values. Once, before the export is served."""
        limits = ffi.new("struct v9_xattr_limits *", (value, names, total))
        lib.v9_export_limit_xattrs(self.native, limits)

    def watch_capabilities(self, name: bytes) -> None:
        """Drops the capabilities that the attribute `name` stores when a program is written. Call
        it once, before the export is served; OSError EINVAL for an invalid name."""
        check(lib.v9_export_watch_caps(self.native, name))

    def hide(self, paths: HiddenPaths) -> None:
        """Hides these paths below the root from the guest. Once, before the export is served."""
        self._hidden = paths  # C keeps no copy
        lib.v9_export_hide(self.native, paths.native)

    def hides(self, fd: int, name: bytes) -> bool:
        """Whether an entry of directory `fd` is hidden from the guest, if there is one or not."""
        return check(lib.v9_export_hides(self.native, fd, name)) > 0

    def step(self, fd: int, name: bytes) -> int:
        """Opens one component of directory `fd` with O_PATH, never following a symlink. EXDEV if it
        is in another export."""
        where = ffi.new("v9_export **", self.native)
        opened = check(lib.v9_export_step(where, NO_ID, fd, name))
        if where[0] != self.native:
            descriptors.close(opened)
            raise OSError(errno.EXDEV, "another export")
        return opened

    def step_across(self, uid: int, fd: int, name: bytes) -> tuple[int, int]:
        """The same for a walk of this user, which may lead to another export. Returns that export's
        index and the descriptor."""
        where = ffi.new("v9_export **", self.native)
        opened = check(lib.v9_export_step(where, uid, fd, name))
        return int(lib.v9_export_index(where[0])), opened

    def read_link(self, fd: int) -> bytes:
        """The target of a symlink of the guest."""
        target = ffi.new("char[]", PATH_MAX)
        size = check(lib.v9_mapped_readlink(self.native, fd, target, PATH_MAX))
        return bytes(ffi.buffer(target, size))

    def descend(self, path: bytes) -> int:
        """Opens a directory by its path below the root with O_PATH (v9_export_descend)."""
        return check(lib.v9_export_descend(self.native, path))

    def open(self, fd: int, flags: int) -> int:
        """Opens for I/O what a descriptor names: only regular files and directories."""
        return check(lib.v9_export_open(self.native, fd, flags))

    # ---- entries of directories -------------------------------------------------------------

    def create(
        self, dir_fd: int, name: bytes, flags: int, mode: int, uid: int, gid: int
    ) -> tuple[int, int, int, bool]:
        """Creates a file and opens it, with 9P2000.L's flags: an O_PATH descriptor, one for I/O,
        the host's flags of that, and whether it is new. See v9_create."""
        made = self._make(dir_fd, name, (lib.V9_NEW_FILE, mode, uid, gid, flags, 0, 0, ffi.NULL))
        if made.meta_fd >= 0:
            descriptors.close(made.meta_fd)
        return made.path_fd, made.io_fd, made.io_flags, bool(made.is_new)

    def mkdir(self, dir_fd: int, name: bytes, mode: int, uid: int, gid: int) -> None:
        """Creates a directory. See v9_create."""
        self._make(dir_fd, name, (lib.V9_NEW_DIR, mode, uid, gid, 0, 0, 0, ffi.NULL))

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], uid: int, gid: int
    ) -> None:
        """Creates a node. See v9_create."""
        self._make(dir_fd, name, (lib.V9_NEW_SPECIAL, mode, uid, gid, 0, *device, ffi.NULL))

    def symlink(self, dir_fd: int, name: bytes, target: bytes, uid: int, gid: int) -> None:
        """Creates a symlink. See v9_create."""
        text = ffi.new("char[]", target)
        self._make(dir_fd, name, (lib.V9_NEW_LINK, 0, uid, gid, 0, 0, 0, text))

    def undo(self, dir_fd: int, name: bytes, path_fd: int, *, is_dir: bool) -> None:
        """Removes what was created, the file of `path_fd` if that is known. See v9_create_undo."""
        fds = {"path_fd": path_fd, "meta_fd": -1, "io_fd": -1}
        made = ffi.new("struct v9_created *", {**fds, "is_new": True})
        kind = lib.V9_NEW_DIR if is_dir else lib.V9_NEW_FILE
        lib.v9_create_undo(self.native, dir_fd, name, kind, made)

    def _make(self, dir_fd: int, name: bytes, values: tuple[Any, ...]) -> Any:
        made = ffi.new("struct v9_created *")
        what = ffi.new("struct v9_new *", values)
        check(lib.v9_create(self.native, dir_fd, name, what, made))
        return made

    # ---- attributes -------------------------------------------------------------------------

    def attr(
        self, fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None
    ) -> Attr:
        """Attributes of `name` in directory `fd`, or of `fd` itself, whose metadata file is
        `meta_fd` if that is known.

        Raises OSError: statx's, ENFILE (no qid.path left), or ENODEV (multidevs=forbid), unless
        such a file is to be shown with the qid.path `shown_as`, as listings show it.
        """
        out = ffi.new("struct v9_attr *")
        for _ in range(8):
            result = lib.v9_attr_read_held(self.native, fd, name, meta_fd, out)
            if result == -lib.V9_NO_DEVICE and name:
                return self._attr_of_entry(fd, name, shown_as)
            if result == -lib.V9_NO_DEVICE:
                self._require_policy().device(out.st_dev, out.mnt_id, fd)
            elif result == -lib.V9_NO_GROUP:
                self._require_policy().group(out.device, out.st_ino)
            else:
                if result == -errno.ENODEV and shown_as is not None:
                    out.qid.path = shown_as
                else:
                    check(result)
                return _attr_from(out)
        # Mounts came and went under every one of the tries.
        raise BlockingIOError(11, "the file's mount keeps changing")

    def probe(self, fd: int) -> FileKey:
        """Where the open file `fd` (O_PATH is enough) lives; needs no policy. Raises OSError."""
        out = ffi.new("struct v9_attr *")
        result = lib.v9_attr_read(self.native, fd, b"", out)
        if result not in (-lib.V9_NO_DEVICE, -lib.V9_NO_GROUP, -errno.ENODEV):
            check(result)
        btime = out.btime_sec * 1_000_000_000 + out.btime_nsec if out.has_btime else 0
        return FileKey(out.mnt_id, out.st_ino, btime & (1 << 64) - 1)

    def _require_policy(self) -> QidPolicy:
        if self.policy is None:
            raise OSError(19, "the export has no multidevs policy yet")
        return self.policy

    def _attr_of_entry(self, fd: int, name: bytes, shown_as: int | None) -> Attr:
        """Attributes of what a name stands for, and the decision about its device, of one file."""
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            return self.attr(found, shown_as=shown_as)
        finally:
            descriptors.close(found)
