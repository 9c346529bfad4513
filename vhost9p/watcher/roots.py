"""The directories of the exports, as the VM's worker has them open (vhost9p/changes/roots.py)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from vhost9p import procfs
from vhost9p.changes import roots
from vhost9p.changes.ring import Ring
from vhost9p.changes.roots import Root
from vhost9p.config import Config, ExportConfig
from vhost9p.native.process import take_descriptor
from vhost9p.watcher import apart
from vhost9p.watcher.apart import Outcome


class Roots:
    """Those of the devices of `config` that have rings, as they are when this is created."""

    def __init__(self, config: Config, rings: Sequence[Ring | None]) -> None:
        self._config = config
        self._rings = rings
        self._known = self._read()

    def _read(self) -> list[list[Root]]:
        return [
            roots.read(ring, len(device.exports)) if ring else []
            for device, ring in zip(self._config.devices, self._rings, strict=True)
        ]

    @property
    def have_changed(self) -> bool:
        """Whether another worker has opened other directories."""
        pairs = zip(self._known, self._read(), strict=True)
        return any(
            not old.is_same(new)
            for before, after in pairs
            for old, new in zip(before, after, strict=True)
        )

    def take(self, keeper: int) -> tuple[Config, list[int]]:
        """Takes the descriptors from a keeper, of which this is a pidfd. Returns the configuration,
        with paths that lead through them, and the descriptors. Where a worker has said none, as one
        of an older version, or another one has followed it by now, the path stays as it is. Raises
        OSError."""
        taken = [[_take(keeper, root) for root in device] for device in self._known]
        held = [fd for device in taken for fd in device if fd >= 0]
        wanted = [root for device in self._known for root in device]
        checks = [
            partial(_check, fd, root)
            for fd, root in zip((fd for device in taken for fd in device), wanted, strict=True)
        ]
        outcomes = iter([*apart.try_each(checks, held)])
        devices = []
        for device, fds in zip(self._config.devices, taken, strict=True):
            exports = zip(device.exports, fds, strict=True) if fds else ()
            places = [_placed(*each, next(outcomes)) for each in exports]
            devices.append(replace(device, exports=tuple(places)) if fds else device)
        return replace(self._config, devices=tuple(devices)), held


def _take(keeper: int, root: Root) -> int:
    """Returns the descriptor, or -1."""
    with suppress(OSError):
        if root.st_ino:
            return take_descriptor(keeper, root.fd)
    return -1


def _check(fd: int, root: Root) -> Outcome:
    """A step: whether a descriptor is the right one."""
    return fd >= 0 and Root.of(fd).is_same(root), []


def _placed(export: ExportConfig, fd: int, outcome: Outcome | OSError) -> ExportConfig:
    if not isinstance(outcome, OSError) and not outcome[0]:
        return export
    return replace(export, place=f"{procfs.proc_path(fd)}/.")  # if it hangs, that is found, too
