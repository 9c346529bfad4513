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
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from vhost9p.config import Config, DeviceConfig, directory_problem
from vhost9p.errors import UserError
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
        if device.multidevs == "remap" or os.path.exists(device.state_dir):
            yield "state directory", device.state_dir
    if config.file:
        yield "configuration", config.file


def _check_device(device: DeviceConfig) -> Iterator[str]:
    if problem := directory_problem(device.path):
        yield problem
    elif device.multidevs == "forbid" and (reason := why_not_forbid(os.fsencode(device.path))):
        yield reason
    folder = os.path.dirname(device.socket or "/")
    if not os.path.isdir(folder):
        yield f"{device.socket}: there is no directory {folder} to make the socket in"


def _check_own_files(host: _Host, config: Config, device: DeviceConfig) -> Iterator[str]:
    shown = [] if device.force else host.shown(device.path)
    for what, path in dict.fromkeys(_own_files(config)):
        place = host.place(path)
        if any(each.contains(place) for each in shown):
            everything = os.path.realpath(device.path) == "/"
            way_out = "export a directory below /" if everything else "move the one or the other"
            yield (
                f"{device.path}: the export contains the daemon's {what} {path}, which no guest "
                f"should reach; {way_out}, {ADVICE}"
            )


def _check_overlaps(host: _Host, devices: tuple[DeviceConfig, ...]) -> Iterator[tuple[str, str]]:
    shown = [host.shown(device.path) for device in devices]
    for i, one in enumerate(devices):
        for j, other in enumerate(devices[:i]):
            if any(a.contains(b) or b.contains(a) for a in shown[i] for b in shown[j]):
                yield (
                    one.origin,
                    f"{one.path} and {other.path}: the exports overlap, and both guests could "
                    f"write there while each trusts what it has cached; make one read-only, "
                    f"{ADVICE}",
                )


def check(config: Config) -> None:
    """Raises UserError with all that is wrong, OSError where /proc is missing."""
    problems = [each.origin + text for each in config.devices for text in _check_device(each)]
    if problems:
        raise UserError(*problems)
    with closing(MountTable()) as table:
        host = _Host(table)
        for device in config.devices:
            problems += [device.origin + text for text in _check_own_files(host, config, device)]
        writable = tuple(each for each in config.devices if not each.readonly and not each.force)
        problems += [origin + text for origin, text in _check_overlaps(host, writable)]
    if problems:
        raise UserError(*problems)
