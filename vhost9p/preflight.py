"""Checks, before serving starts, what the host must have and allow.

Everything that the options name is checked at once: directories, sockets, descriptors, rights. An
error here stays until somebody changes the options or the host. What can fail later are conditions
that change by themselves: a socket or a state file in use by another process, memory, descriptors.

If no security model is set, it is chosen here. And paths become real ones here: the processes that
serve have other descriptors, another /proc and another root directory, in which a path such as
/proc/self/fd/5 names something else, or a symlink nothing.

A guest must not reach the daemon's socket, state or configuration, and its writable export must not
overlap another guest's. Such a configuration is refused unless forced.

One directory may be seen at several paths, through symlinks and bind mounts. So *places* are
compared instead of paths: a file system and a path within it, from the mount table. An export shows
the place of its directory, and the roots of all mounts below it.
"""

import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from vhost9p.config import (
    OFF,
    Config,
    DeviceConfig,
    ExportConfig,
    cpus_problem,
    directory_problem,
)
from vhost9p.errors import UserError
from vhost9p.log_format import journal_problem
from vhost9p.marked.reader import why_not_notify
from vhost9p.policy import export_options, rights
from vhost9p.policy.forbid import why_not_forbid
from vhost9p.policy.mounts import KERNEL_TYPES, MountLine, MountTable
from vhost9p.policy.spelling import why_not_hide
from vhost9p.policy.state_dir import state_problem
from vhost9p.vhost_user.listener import descriptor_problem, path_problem

ADVICE = "or force it (--force; in a file, force: true)"
MODELS = (
    "choose none (what the daemon may not give away belongs to its own user), mapped-xattr or "
    "mapped-file (the guest's owners are kept beside the files), or run it as root"
)


class Problem(NamedTuple):
    """Why serving cannot begin. The line of it has the remedy, if that is not obvious;
    `otherwise` is the one of a report."""

    origin: str
    subject: str
    text: str
    remedy: str = ""
    otherwise: str = ""

    def __str__(self) -> str:
        return self.origin + "; ".join(filter(None, (self.text, self.remedy)))


def with_remedy(origin: str, subject: str, line: str, otherwise: str = "") -> Problem:
    """Returns a problem whose line has the remedy, if any, behind its first semicolon that is not
    in brackets."""
    text, *rest = re.split(r"; (?![^()]*\))", line, maxsplit=1)
    return Problem(origin, subject, text, "".join(rest), otherwise)


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
    """Finds the places of paths, by one reading of the mount table."""

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
        below = _below(self._mounts, real)
        return [self.place(export), *(Place(mount.st_dev, mount.root) for mount in below)]


def _below(mounts: dict[int, MountLine], real: bytes) -> list[MountLine]:
    """The mounts below a directory that hold data."""
    return [
        mount
        for mount in mounts.values()
        if mount.point != real
        and _is_within(mount.point, real)
        and mount.fs_type not in KERNEL_TYPES
    ]


def mounts_below(table: MountTable, path: str) -> list[MountLine]:
    """Returns the mounts below a directory that hold data."""
    return _below(table.read(), os.path.realpath(os.fsencode(path)))


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
    """Yields the kind and path of each of the daemon's own files. A state directory that no device
    uses counts only if it exists."""
    for device in config.devices:
        if path := _socket_path(device):
            yield "socket", path
        if device.keeps_state or os.path.exists(device.state_dir):
            yield "state directory", device.state_dir
    if config.file:
        yield "configuration", config.file
    if config.control_socket not in (None, OFF):
        yield "control socket", config.control_socket
    if config.metrics and config.metrics.startswith("/"):
        yield "metrics socket", config.metrics


def _check_sockets(config: Config, beside: Collection[Config]) -> Iterator[Problem]:
    """Whether another VM has the socket. An attempt to connect would look like a frontend to it."""
    taken = {each.socket for other in beside for each in other.devices}
    for device in config.devices:
        if device.socket is not None and device.socket in taken:
            text = f"{device.socket} is in use: it is another VM's"
            yield Problem(device.origin, device.socket, text, otherwise="choose another socket")


def _check_device(device: DeviceConfig) -> Iterator[Problem]:
    subject = device.place
    for wrong in _check_place(device):
        otherwise = "choose another socket, or change its directory or owner"
        yield Problem(device.origin, subject, wrong, otherwise=otherwise)
    if device.keeps_state and (problem := state_problem(device.state_dir)):
        otherwise = "choose another directory, or change the rights of this one"
        yield Problem(device.origin, device.state_dir, problem, otherwise=otherwise)
    for export in device.exports:
        for wrong in _check_export(export, device):
            yield with_remedy(export.origin, export.path, wrong, "change the export")
    if problem := cpus_problem(device.cpus):
        otherwise = "name CPUs that are there, and that the service may use"
        yield Problem(device.origin, subject, f"cpus: {problem}", otherwise=otherwise)
    if device.notify and (problem := why_not_notify()):
        otherwise = "leave notify out, or let Linux 5.13 or a newer kernel run the daemon"
        yield with_remedy(device.origin, subject, f"notify: {problem}", otherwise)


def _check_place(device: DeviceConfig) -> Iterator[str]:
    """Where the VMM connects."""
    if device.fd is not None:
        if problem := descriptor_problem(device.fd, device.place):
            yield problem
        by = "is set by the unit of the socket"
        if device.socket is None:
            by = "is set by the creator of the --fd socket"
        for key in ("socket_mode", "socket_owner", "socket_group"):
            if getattr(device, key) is not None:
                yield f"{key}: {by}; leave it out"
        return
    if device.socket and (problem := path_problem(device.socket)):
        yield problem
    for key, kind in (("socket_owner", "uid"), ("socket_group", "gid")):
        if problem := rights.why_not_socket_id(kind, getattr(device, key)):
            yield f"{key}: {problem}"


def _check_export(export: ExportConfig, device: DeviceConfig) -> Iterator[str]:
    if problem := directory_problem(export.path):
        yield problem
        return
    if not _is_same(export.path, os.path.realpath(export.path)):
        yield f"{export.path} cannot be exported: the directory has no path of its own"
        return
    if device.multidevs == "forbid" and (reason := why_not_forbid(os.fsencode(export.path))):
        yield reason
    if not export.readonly and not device.force and (reason := rights.why_not_write(export.path)):
        yield (
            f"{export.path}: the guest cannot change it: {reason}; make it read-only "
            f"(--readonly; in a file, readonly: true), change the directory, {ADVICE}"
        )
    yield from _check_model(export)
    if problem := export_options.problem(export):
        yield problem
    if export.hide and (problem := why_not_hide(export.path)):
        yield problem


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _check_model(export: ExportConfig) -> Iterator[str]:
    """What a security model that is asked for takes."""
    if export.security_model == "mapped-xattr":
        if problem := rights.why_not_xattrs(export.path, readonly=export.readonly):
            yield problem
    elif export.security_model not in (None, "passthrough"):
        return
    elif export.id_map:
        yield from rights.why_not_own(export.id_map)
    elif export.security_model and not export.readonly and (why := rights.why_not_owners(export)):
        yield (
            f"security_model: passthrough gives files the guest's owners on the host, but {why}; "
            f"{MODELS}"
        )


def _settle_export(export: ExportConfig) -> ExportConfig:
    """Returns the export with its real path and a security model, by the daemon's rights if none
    is set. With an id_map these rights have been checked already."""
    export = replace(export, path=os.path.realpath(export.path))
    if export.security_model:
        return export
    owners = export.id_map or not rights.why_not_owners(export)
    return replace(export, security_model="passthrough" if owners else "none")


def _check_own_files(
    host: _Host, configs: Iterable[Config], export: ExportConfig
) -> Iterator[Problem]:
    shown = host.shown(export.path)
    own = (each for config in configs for each in _own_files(config))
    for what, path in dict.fromkeys(own):
        place = host.place(path)
        if any(each.contains(place) for each in shown):
            everything = os.path.realpath(export.path) == "/"
            way_out = "export a directory below /" if everything else "move the one or the other"
            text = (
                f"{export.path}: the export contains the daemon's {what} {path}, which no guest "
                "should reach"
            )
            yield Problem(export.origin, export.path, text, f"{way_out}, {ADVICE}")


def _check_overlaps(
    host: _Host, devices: Iterable[DeviceConfig], others: Collection[DeviceConfig]
) -> Iterator[Problem]:
    """Two writable exports: of `devices`, which are in question, or of one of them and one of
    the `others`."""
    exports = [
        (device, each)
        for device in (*others, *devices)
        for each in device.exports
        if not each.readonly
    ]
    shown = [host.shown(export.path) for _, export in exports]
    for i, (device, one) in enumerate(exports):
        if device in others:
            continue
        for j, (other_device, other) in enumerate(exports[:i]):
            if any(a.contains(b) or b.contains(a) for a in shown[i] for b in shown[j]):
                why = (
                    "one file would be two to the guest, which trusts what it has cached of each"
                    if device is other_device
                    else "both guests could write there while each trusts what it has cached"
                )
                text = f"{one.path} and {other.path}: the exports overlap, and {why}"
                yield Problem(one.origin, one.path, text, f"make one read-only, {ADVICE}")


def find_problems(config: Config, beside: Collection[Config] = ()) -> list[Problem]:
    """Returns why the configuration cannot be served. `beside` are other VMs', which are served
    already. Raises OSError if /proc is missing."""
    problems = [problem for each in config.devices for problem in _check_device(each)]
    problems += _check_sockets(config, beside)
    if config.log_format == "journald" and (why := journal_problem()):
        problems.append(Problem("", "log", f"log_format: {why}"))
    with closing(MountTable()) as table:
        host = _Host(table)
        careful = [_with_directories(device) for device in config.devices if not device.force]
        for export in (each for device in careful for each in device.exports):
            problems += _check_own_files(host, (config, *beside), export)
        others = [device for each in beside for device in each.devices if not device.force]
        problems += _check_overlaps(host, careful, others)
    return problems


def check(config: Config, beside: Collection[Config] = ()) -> Config:
    """Returns the configuration with real paths, and security models chosen. Raises UserError with
    all problems, OSError if /proc is missing."""
    if problems := find_problems(config, beside):
        raise UserError(*map(str, problems))
    return settle(config)


def settle(config: Config) -> Config:
    """Returns a configuration without problems with real paths, and security models chosen."""
    devices = (
        replace(
            device,
            exports=tuple(map(_settle_export, device.exports)),
            state_dir=os.path.realpath(device.state_dir),
        )
        for device in config.devices
    )
    return replace(config, devices=tuple(devices))


def _with_directories(device: DeviceConfig) -> DeviceConfig:
    """A device without the exports that are missing."""
    there = (each for each in device.exports if not directory_problem(each.path))
    return replace(device, exports=tuple(there))
