"""What must hold between exports and the daemon's own files before anything is served.

A guest that can reach the daemon's socket, state or configuration, or whose writable export
overlaps another guest's, reaches more than it was given. Such a configuration is refused unless
forced.

One directory may be seen at several paths, through symlinks and bind mounts. So paths are not
compared but *places*: a file system and a path within it, as the mount table tells. An export shows
the place of its directory and, below that, the roots of all that is mounted there.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from vhost9p.config import Config, DeviceConfig, ExportConfig, cpus_problem, directory_problem
from vhost9p.errors import UserError
from vhost9p.policy import layers, rights
from vhost9p.policy.forbid import why_not_forbid
from vhost9p.policy.mounts import MountTable

KERNEL_TYPES = frozenset(
    b"bpf cgroup cgroup2 debugfs devpts devtmpfs mqueue proc securityfs sysfs tracefs".split()
)
"""File systems that are interfaces to the kernel. Every root file system has mounts of them, and
what two exports share there is nobody's data."""

ADVICE = "or force it (--force; in a file, force: true)"


class Place(NamedTuple):
    """A path within a file system, wherever that is mounted."""

    st_dev: int
    path: bytes

    def contains(self, other: "Place") -> bool:
        """Whether the other place is this one or below it."""
        return self.st_dev == other.st_dev and _is_within(other.path, self.path)


def _is_within(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


class _Host:
    """Where paths are, by the mount table at one moment."""

    def __init__(self, table: MountTable) -> None:
        self._table = table
        self._mounts = table.read()

    def place(self, path: str) -> Place:
        """Where a path is, or would be if it were made."""
        real = os.path.realpath(os.fsencode(path))
        fd = _open_nearest(real)
        try:
            mount = self._mounts.get(self._table.number_of(fd))
            if mount is None:  # what a chroot is in has no line
                return Place(os.fstat(fd).st_dev, real)
        finally:
            os.close(fd)
        below = os.path.relpath(real, mount.point)
        return Place(mount.st_dev, os.path.normpath(os.path.join(mount.root, below)))

    def shown(self, export: str) -> list[Place]:
        """All places whose files an export shows."""
        real = os.path.realpath(os.fsencode(export))
        return [
            self.place(export),
            *(
                Place(mount.st_dev, mount.root)
                for mount in self._mounts.values()
                if mount.point != real
                and _is_within(mount.point, real)
                and mount.fs_type not in KERNEL_TYPES
            ),
        ]


def _open_nearest(path: bytes) -> int:
    """Opens a path, or the nearest directory above it that can be opened."""
    while True:
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            if path == b"/":
                raise
            path = os.path.dirname(path)


def _socket_path(device: DeviceConfig) -> str | None:
    """Where the device's socket is. An inherited one may have no path, or be none: the listener
    says so."""
    if device.fd is None:
        return device.socket
    try:
        with socket.fromfd(device.fd, socket.AF_UNIX, socket.SOCK_STREAM) as inherited:
            name = inherited.getsockname()
    except OSError:
        return None
    return name if isinstance(name, str) and os.path.isabs(name) else None


def _own_files(config: Config) -> Iterator[tuple[str, str]]:
    """The daemon's own files, each with what it is. State that nobody has kept yet does not count
    where no device keeps any."""
    for device in config.devices:
        if path := _socket_path(device):
            yield "socket", path
        keeps_state = device.multidevs == "remap" or any(each.quota for each in device.exports)
        if keeps_state or os.path.exists(device.state_dir):
            yield "state directory", device.state_dir
    if config.file:
        yield "configuration", config.file


def _check_device(device: DeviceConfig) -> Iterator[str]:
    for export in device.exports:
        for problem in _check_export(export, device.multidevs):
            yield export.origin + problem
    if wrong := cpus_problem(device.cpus):
        yield f"{device.origin}cpus: {wrong}"
    folder = os.path.dirname(device.socket or "/")
    if not os.path.isdir(folder):
        problem = f"{device.socket}: there is no directory {folder} to make the socket in"
        yield device.origin + problem


def _check_export(export: ExportConfig, multidevs: str) -> Iterator[str]:
    if problem := directory_problem(export.path):
        yield problem
    elif multidevs == "forbid" and (reason := why_not_forbid(os.fsencode(export.path))):
        yield reason
    else:
        yield from _check_rights(export)
    if problem := layers.problem(export):
        yield problem


def _check_rights(export: ExportConfig) -> Iterator[str]:
    if export.security_model == "mapped-xattr":
        if problem := rights.why_not_xattrs(export.path, readonly=export.readonly):
            yield problem
    elif export.security_model == "passthrough" and export.id_map:
        yield from rights.why_not_own(export.id_map)


def _check_own_files(host: _Host, config: Config, export: ExportConfig) -> Iterator[str]:
    shown = host.shown(export.path)
    for what, path in dict.fromkeys(_own_files(config)):
        place = host.place(path)
        if any(each.contains(place) for each in shown):
            everything = os.path.realpath(export.path) == "/"
            way_out = "export a directory below /" if everything else "move the one or the other"
            yield (
                f"{export.origin}{export.path}: the export contains the daemon's {what} "
                f"{path}, which no guest should reach; {way_out}, {ADVICE}"
            )


def _check_overlaps(host: _Host, devices: Iterable[DeviceConfig]) -> Iterator[str]:
    """Two writable exports, of whichever devices."""
    exports = [(device, each) for device in devices for each in device.exports if not each.readonly]
    shown = [host.shown(export.path) for _, export in exports]
    for i, (device, one) in enumerate(exports):
        for j, (other_device, other) in enumerate(exports[:i]):
            if any(a.contains(b) or b.contains(a) for a in shown[i] for b in shown[j]):
                why = (
                    "one file would be two to the guest, which trusts what it has cached of each"
                    if device is other_device
                    else "both guests could write there while each trusts what it has cached"
                )
                yield (
                    f"{one.origin}{one.path} and {other.path}: the exports overlap, and {why}; "
                    f"make one read-only, {ADVICE}"
                )


def check(config: Config) -> None:
    """Raises UserError with all that is wrong, OSError where /proc is missing."""
    problems = [text for each in config.devices for text in _check_device(each)]
    if problems:
        raise UserError(*problems)
    with closing(MountTable()) as table:
        host = _Host(table)
        careful = [device for device in config.devices if not device.force]
        for export in (each for device in careful for each in device.exports):
            problems += _check_own_files(host, config, export)
        problems += _check_overlaps(host, careful)
    if problems:
        raise UserError(*problems)
