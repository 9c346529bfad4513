"""What must hold between exports and the daemon's own files before anything is served.

A guest that can write to the daemon's socket, state or configuration, or whose writable export
overlaps another's, reaches more than it was given. Such a configuration is refused unless forced.
Directories are compared by identity (st_dev, st_ino), so that symlinks and bind mounts do not hide
what is one.
"""

import os
from collections.abc import Iterator

from vhost9p.config import Config, DeviceConfig
from vhost9p.errors import UserError
from vhost9p.policy.forbid import why_not_forbid

Identity = tuple[int, int]


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _ancestors(path: str) -> Iterator[Identity]:
    """The identities of a path (as far as it exists) and of every directory above it."""
    path = os.path.realpath(path)
    while True:
        if os.path.exists(path):
            yield _identity(path)
        if path == "/":
            return
        path = os.path.dirname(path)


def _contains(export: str, path: str) -> bool:
    return _identity(export) in _ancestors(path)


def _own_files(config: Config) -> Iterator[tuple[str, str]]:
    """The daemon's own files, each with what it is."""
    for device in config.devices:
        if device.socket:
            yield "socket", device.socket
        yield "state directory", device.state_dir
    if config.file:
        yield "configuration", config.file


def _check_directory(device: DeviceConfig) -> str | None:
    try:
        with os.scandir(device.path):
            pass
    except OSError as error:
        return f"{device.path}: {error.strerror}; the path to export is a readable directory"
    if device.multidevs == "forbid" and (reason := why_not_forbid(os.fsencode(device.path))):
        return f"{device.path}: {reason}"
    return None


def _check_own_files(config: Config, device: DeviceConfig) -> Iterator[str]:
    if device.readonly or device.force:
        return
    for what, path in dict.fromkeys(_own_files(config)):
        if _contains(device.path, path):
            yield (
                f"{device.path}: the export contains the {what} {path}, which its guest could "
                "then change; move the one or the other, or force it (force: true, --force)"
            )


def _check_overlaps(config: Config) -> Iterator[str]:
    for i, one in enumerate(config.devices):
        for other in config.devices[:i]:
            if one.force or other.force or (one.readonly and other.readonly):
                continue
            if _contains(one.path, other.path) or _contains(other.path, one.path):
                yield (
                    f"{one.path} and {other.path}: the exports overlap, and guests keep separate "
                    "caches of them; make both read-only, or force it (force: true, --force)"
                )


def check(config: Config) -> None:
    """Raises UserError with all that is wrong."""
    problems = [text for device in config.devices if (text := _check_directory(device))]
    if not problems:
        for device in config.devices:
            problems += _check_own_files(config, device)
        problems += _check_overlaps(config)
    if problems:
        raise UserError(*problems)
