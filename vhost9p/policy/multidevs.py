"""multidevs: how an export treats files of several host devices.

9P identifies a file by one number, qid.path, and a guest shows all files of a mount under one
st_dev. Two host files with the same st_ino on two devices look like one file to the guest, unless
the policy prevents it:

    warn    qid.path = st_ino; says once that another device has been met
    forbid  as warn, but files of another device than the root's are denied (ENODEV)
    remap   every (device, st_ino) has a path of its own: see `remap`

The C layer asks the policy about each new (st_dev, mount id), and under remap about each inode that
fits no group. The policy installs its answer in the qid map.
"""

import logging
import os
import threading
from contextlib import ExitStack
from typing import Protocol

from vhost9p.config import Multidevs
from vhost9p.escapes import quoted
from vhost9p.native.qidmap import DeviceFlag, QidMap
from vhost9p.policy.mounts import MountTable, Probe
from vhost9p.policy.remap import MAX_FILES, RemapPolicy
from vhost9p.policy.state import StateFile
from vhost9p.procfs import proc_path

log = logging.getLogger(__name__)


class MultidevsPolicy(Protocol):
    """The interface of all policies. Thread-safe."""

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """Installs what (st_dev, mnt_id) stands for; the open file `fd` (O_PATH is enough) is on
        it.

        Raises OSError: errors of the state file's append, or of the stat of `fd`.
        """

    def group(self, device: int, ino: int) -> None:
        """Installs the group, or the single entry, of an inode of a device index.

        Raises OSError: ENFILE if no path is left, or errors of the state file's append.
        """

    def sizes(self) -> dict[str, int]:
        """Returns the numbers of devices, groups and single files, for metrics."""

    def close(self) -> None:
        """Closes the state file and the mount table."""


class PlainPolicy:
    """warn and forbid. The root's device has index 0, all others have 1."""

    def __init__(self, qidmap: QidMap, root_dev: int, *, deny: bool) -> None:
        self._qidmap = qidmap
        self._root_dev = root_dev
        self._deny = deny
        self._lock = threading.Lock()
        self._reported = False

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """See MultidevsPolicy."""
        foreign = st_dev != self._root_dev
        flags = DeviceFlag.IDENTITY
        if foreign:
            self._report_once(st_dev, fd)
            if self._deny:
                flags = DeviceFlag.DENY
        self._qidmap.set_device(st_dev, mnt_id, int(foreign), flags)

    def group(self, device: int, ino: int) -> None:
        """See MultidevsPolicy. Never called, since no device of these policies has groups."""
        raise LookupError(f"device {device} has no groups (inode {ino})")

    def sizes(self) -> dict[str, int]:
        """See MultidevsPolicy."""
        return {"devices": 1 + self._reported, "groups": 0, "files": 0}

    def close(self) -> None:
        """See MultidevsPolicy; holds nothing."""

    def _report_once(self, st_dev: int, fd: int) -> None:
        with self._lock:
            reported, self._reported = self._reported, True
        if reported:
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
        return quoted(os.readlink(proc_path(fd)))
    except OSError:
        return "a file"


def make_policy(
    mode: Multidevs,
    qidmap: QidMap,
    root_dev: int,
    probe: Probe,
    state: StateFile | None,
    *,
    max_files: int = MAX_FILES,
) -> MultidevsPolicy:
    """Creates the policy named `mode` for the export whose root has st_dev `root_dev`.

    Only remap uses `probe`, `state` and `max_files`. It takes ownership of `state`; without one,
    identities last as long as the process. `max_files` limits the files that are numbered one by
    one. Call it before the daemon is confined. Raises ValueError for an invalid limit, OSError.
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
    return PlainPolicy(qidmap, root_dev, deny=mode == "forbid")
