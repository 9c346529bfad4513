"""multidevs: what an export does with files of several host devices.

9P gives a file one number, qid.path, and a guest shows all files of a mount under one st_dev. Two
host files with one st_ino on two devices look like one file to it, unless the policy prevents that:

    warn    qid.path = st_ino; says once that another device has been met
    forbid  as warn, but files of another device than the root's are denied (ENODEV)
    remap   every (device, st_ino) has a path of its own: see `remap`

A policy is asked by the C layer for each (st_dev, mount id) that it has not met, under remap also
for each inode that no group fits, and installs its answer in the qid map.
"""

import logging
import os
import threading
from contextlib import ExitStack
from typing import Protocol

from vhost9p.native.qidmap import DeviceFlag, QidMap
from vhost9p.policy.mounts import MountTable, Probe
from vhost9p.policy.remap import MAX_FILES, RemapPolicy
from vhost9p.policy.state import StateFile

log = logging.getLogger(__name__)

MODES = ("warn", "forbid", "remap")


class MultidevsPolicy(Protocol):
    """What all of them offer. Thread-safe."""

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """Installs what (st_dev, mnt_id) stands for; the open file `fd` (O_PATH will do) is there.

        Raises OSError: what the state file's append, or looking at `fd`, fails with.
        """

    def group(self, device: int, ino: int) -> None:
        """Installs the group, or the single entry, of an inode of a device index.

        Raises OSError: ENFILE where no path is left, what the state file's append fails with.
        """

    def sizes(self) -> dict[str, int]:
        """How many devices, groups and single files there are, for metrics."""

    def close(self) -> None:
        """Lets go of the state file and of the mounts."""


class PlainPolicy:
    """warn and forbid. The root's device has index 0, all others have 1."""

    def __init__(self, qidmap: QidMap, root_dev: int, *, deny: bool) -> None:
        self._qidmap = qidmap
        self._root_dev = root_dev
        self._deny = deny
        self._lock = threading.Lock()
        self._logged = False

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """See MultidevsPolicy."""
        foreign = st_dev != self._root_dev
        flags = DeviceFlag.IDENTITY
        if foreign:
            self._log_once(st_dev, fd)
            if self._deny:
                flags = DeviceFlag.DENY
        self._qidmap.set_device(st_dev, mnt_id, int(foreign), flags)

    def group(self, device: int, ino: int) -> None:
        """See MultidevsPolicy; never asked, since no device of these policies has groups."""
        raise LookupError(f"device {device} has no groups (inode {ino})")

    def sizes(self) -> dict[str, int]:
        """See MultidevsPolicy."""
        return {"devices": 1 + self._logged, "groups": 0, "files": 0}

    def close(self) -> None:
        """See MultidevsPolicy; holds nothing."""

    def _log_once(self, st_dev: int, fd: int) -> None:
        with self._lock:
            logged, self._logged = self._logged, True
        if logged:
            return
        where = (
            f"{_name_of(fd)} is on device {_show(st_dev)}, the export on {_show(self._root_dev)}"
        )
        if self._deny:
            log.error(
                "%s: denied, as are all files of other devices (multidevs: forbid). Export it "
                "separately, or set multidevs: remap",
                where,
            )
        else:
            log.warning(
                "%s: files of different devices may look like one file to the guest and be "
                "corrupted by its tools. Give each device an export of its own, or set "
                "multidevs: remap",
                where,
            )


def _show(st_dev: int) -> str:
    return f"{os.major(st_dev)}:{os.minor(st_dev)}"


def _name_of(fd: int) -> str:
    """The file's host path, for messages only."""
    try:
        return repr(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        return "a file"


def make_policy(
    mode: str,
    qidmap: QidMap,
    root_dev: int,
    probe: Probe,
    state: StateFile | None,
    *,
    max_files: int = MAX_FILES,
) -> MultidevsPolicy:
    """The policy named `mode` for the export whose root has st_dev `root_dev`.

    Only remap uses `probe`, `state` (which it takes over; without one, identities last as long as
    the process) and `max_files`, the most files that may be listed one by one. To be called before
    the daemon is confined. Raises ValueError for another mode or limit, OSError.
    """
    if mode == "remap":
        with ExitStack() as undo:
            if state:
                undo.callback(state.close)
            mounts = MountTable()
            undo.callback(mounts.close)
            policy = RemapPolicy(qidmap, mounts, probe, state, max_files=max_files)
            undo.pop_all()
        return policy
    if mode in MODES:
        return PlainPolicy(qidmap, root_dev, deny=mode == "forbid")
    raise ValueError(f"multidevs: {mode!r} is not one of {', '.join(MODES)}")
