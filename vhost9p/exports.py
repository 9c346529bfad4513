"""The exports of one device: from the configuration to what C and the 9P server work with.

Each export has a C `Export` for C's requests, and a driver for Python's. All exports of a device
are one tree to the guest, so they share one qid map and one multidevs policy.

A device with one export shows it as the mount's root. With several, export 0 is a directory that
holds nothing but their names, and cannot be changed by the guest. Where the host's changes are
reported, the mount's root has one directory more: the one of notices (fs/notices.py).
"""

import os
from contextlib import ExitStack
from dataclasses import replace

from vhost9p import host
from vhost9p.changes import roots
from vhost9p.changes.report import View
from vhost9p.changes.ring import Ring
from vhost9p.config import DeviceConfig, ExportConfig, SecurityModel, Throttling
from vhost9p.config import Quota as Limits
from vhost9p.fs.driver import Driver
from vhost9p.fs.local import LocalDriver
from vhost9p.fs.notices import open_notices
from vhost9p.fs.tree import Tree, open_meeting_place
from vhost9p.log_record import concerning
from vhost9p.native.export import (
    META_DIR,
    META_ROOT,
    MODEL_FILE,
    MODEL_HOST,
    MODEL_XATTR,
    NOTICES,
    Export,
)
from vhost9p.native.qidmap import QidMap
from vhost9p.policy import export_options, state_dir
from vhost9p.policy.listing import ListingPolicy
from vhost9p.policy.multidevs import make_policy
from vhost9p.policy.quota import open_quota
from vhost9p.policy.state import StateFile

MODELS: dict[SecurityModel, int] = {"mapped-xattr": MODEL_XATTR, "mapped-file": MODEL_FILE}
HIDDEN: dict[SecurityModel, tuple[bytes, ...]] = {"mapped-file": (META_DIR, META_ROOT)}
"""Names that a security model reserves."""


class Exports:
    """What one guest sees. `tree` is for the server, `natives` for C, by index."""

    def __init__(self, config: DeviceConfig, changes: Ring | None = None) -> None:
        """`changes` has what is reported to the guest, if anything is. Raises OSError,
        StateError."""
        self._config = config
        self._changes = changes
        self.natives: dict[int, Export] = {}
        self.views = {index: view_of(config, each) for index, each in config.indexed.items()}
        self._roots: list[int] = []
        """Descriptors of the exports' directories, in their order."""
        drivers: dict[int, Driver] = {}
        indexed = config.indexed
        names = {os.fsencode(each.name): index for index, each in indexed.items() if each.name}
        with ExitStack() as undo:
            self._undo = undo
            self._qidmap = QidMap()
            undo.callback(self._qidmap.close)
            self.listing = ListingPolicy() if config.multidevs == "remap" else None
            if self.listing:
                undo.callback(self.listing.close)
            if names:
                drivers[0] = self._open_meeting_place(list(names))
            for index, each in indexed.items():
                drivers[index] = self._open(index, each)
            if changes:
                roots.write(changes, self._roots)
                drivers[NOTICES] = self._open_notices(changes)
                names[os.fsencode(config.notify_name)] = NOTICES
            self._open_policy()
            self.tree = Tree(drivers, names)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Frees everything. No device may be using it."""
        self._undo.close()

    def _keep(self, fd: int) -> int:
        self._undo.callback(os.close, fd)
        return fd

    def _make(
        self,
        index: int,
        fd: int,
        *,
        readonly: bool,
        config: ExportConfig | None = None,
        stat_entries: bool = False,
    ) -> Export:
        model = config.model if config else "none"
        modes = {"fmode": config.fmode, "dmode": config.dmode} if config else {}
        export = Export(
            fd,
            readonly=readonly,
            stat_entries=stat_entries or self.listing is not None,
            model=MODELS.get(model, MODEL_HOST),
            writeout=config is not None and config.writeout == "immediate",
            owners_matter=model == "passthrough",
            unlabelled=not host.has_selinux(),
            notifies=self._changes is not None,
            **modes,
            qidmap=self._qidmap,
            mounts=self.listing.views if self.listing and not stat_entries else None,
        )
        self._undo.callback(export.close)
        if not self.natives:
            self._root_dev = os.fstat(fd).st_dev
        self.natives[index] = export
        return export

    def _open(self, index: int, config: ExportConfig) -> Driver:
        fd = self._keep(
            os.open(config.place or config.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        )
        self._roots.append(fd)
        export = self._make(index, fd, readonly=config.readonly, config=config)
        if config.throttling:
            _throttle(export, config.throttling)
        if config.name:
            self.natives[0].join(os.fsencode(config.name), export)
        driver = LocalDriver(export, fd)
        if config.quota is not None:
            self._open_quota(config, config.quota, export, fd)
        export_options.install(export, config)
        return driver

    def _open_quota(self, config: ExportConfig, limits: Limits, export: Export, fd: int) -> None:
        with (
            state_dir.opened(self._config.state_dir) as folder,
            concerning(export=config.name or config.path),
        ):
            open_quota(
                limits,
                export,
                fd,
                os.path.realpath(config.path),
                folder,
                hidden=HIDDEN.get(config.model, ()),
                max_fids=self._config.max_fids,
                undo=self._undo,
            )

    def _open_meeting_place(self, names: list[bytes]) -> Driver:
        with state_dir.opened(self._config.state_dir) as folder:
            fd = self._keep(open_meeting_place(folder, state_key(self._config), names))
        export = self._make(0, fd, readonly=True)
        return LocalDriver(export, fd)

    def _open_notices(self, changes: Ring) -> Driver:
        with state_dir.opened(self._config.state_dir) as folder:
            directory = open_notices(folder, state_key(self._config))
        fd = self._keep(directory.fd)
        export = self._make(NOTICES, fd, readonly=True, stat_entries=True)
        listed = self._config.notify_listed
        export.set_notices(directory.events, changes.end_memory, listed=listed)
        self.natives[0].join(os.fsencode(self._config.notify_name), export)
        return LocalDriver(export, fd)

    def _open_policy(self) -> None:
        first = self.natives[0]
        self.policy = make_policy(
            self._config.multidevs,
            self._qidmap,
            self._root_dev,
            first.probe,
            _open_state(self._config) if self._config.multidevs == "remap" else None,
        )
        self._undo.callback(self.policy.close)
        for export in self.natives.values():
            export.policy = self.policy


def view_of(device: DeviceConfig, config: ExportConfig) -> View:
    """Returns how the guest sees an export of a device, for lines about its changes."""
    base = os.fsencode(config.name) + b"/" if config.name else b""
    meta_dir, meta_root = HIDDEN.get(config.model, (b"", b""))
    notices = b"" if base else os.fsencode(device.notify_name)
    view = View(base, meta_dir=meta_dir, meta_root=meta_root, notices=notices)
    return replace(view, hides=export_options.hidden_paths(config).hide) if config.hide else view


def _throttle(export: Export, at: Throttling) -> None:
    bps = (at.bps_total, at.bps_read, at.bps_write)
    limits = (*bps, at.iops_total, at.iops_read, at.iops_write)
    export.set_throttle([(each.avg, each.max, each.length) for each in limits], at.iops_size)


def state_key(config: DeviceConfig) -> str:
    """Returns the name of a device's state. It belongs to a pair of exports and tag, so that two
    guests of one tree do not disturb each other; and it stays if a running guest's exports
    change."""
    if config.state_key:
        return config.state_key
    paths = [os.path.realpath(each.path) for each in config.exports]
    return "\0".join((*paths, config.tag, str(config.socket)))


def _open_state(config: DeviceConfig) -> StateFile:
    """Opens the file that preserves the exports' identities over a restart of the daemon."""
    with state_dir.opened(config.state_dir) as folder:
        return StateFile(folder, state_key(config))
