"""Sockets that a service manager listens on for the daemon (socket activation, sd_listen_fds(3)),
and where a device listens of which nothing is said.

A socket belongs to the device that is to listen at its path, or else to the one whose tag is its
name (FileDescriptorName= of systemd.socket(5)). Where there is one socket and one device without a
path, they belong together. Each socket has to find its device, since a VMM that connects to another
one would wait for ever. Devices that get none listen by themselves.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from vhost9p.config import Config, DeviceConfig, service_folder
from vhost9p.errors import UserError
from vhost9p.fd_store import is_kept
from vhost9p.notify import HandedOver, take_handed_over

ADVICE = (
    "a socket belongs to the device with that path as its socket, or with the name "
    "(FileDescriptorName=) as its tag"
)


def take() -> tuple[list[HandedOver], list[HandedOver]]:
    """Returns the sockets that were handed over, and what the manager has kept of the process
    before; neither is found again. Sockets are not inherited by children from now on."""
    everything = take_handed_over()
    sockets = [each for each in everything if not is_kept(each.name)]
    for each in sockets:
        with suppress(OSError):  # the manager has said too much, which is an error later
            os.set_inheritable(each.fd, False)
    return sockets, [each for each in everything if is_kept(each.name)]


def can_place(sockets: Sequence[HandedOver]) -> bool:
    """Whether a device needs no `socket` of its own."""
    return bool(sockets) or service_folder("RUNTIME_DIRECTORY") is not None


def place(config: Config, sockets: Sequence[HandedOver]) -> Config:
    """Returns the configuration with each of these sockets at its device; what is left without
    listens in the service's runtime directory. Raises UserError."""
    devices = [*config.devices]
    taken = {each.fd for each in devices}
    problems: list[str] = []
    for each in sockets:
        if each.fd in taken:
            continue  # by --fd
        try:
            _demand_open(each.fd)
            i = _find(devices, each, alone=len(sockets) == 1)
            devices[i] = replace(devices[i], fd=each.fd, socket=_path_of(each) or devices[i].socket)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return replace(config, devices=tuple(map(_with_default, devices)))


def keep_places(config: Config, served: Config) -> Config:
    """Returns a configuration that was read again, with the places of the devices that are served
    where it names none or the same: what the manager hands over is there once."""
    if len(config.devices) != len(served.devices):
        return config
    pairs = zip(config.devices, served.devices, strict=True)
    return replace(config, devices=tuple(_kept(new, old) for new, old in pairs))


def _kept(new: DeviceConfig, old: DeviceConfig) -> DeviceConfig:
    if new.tag != old.tag or new.fd is not None or new.socket not in (None, old.socket):
        return new
    return replace(new, fd=old.fd, socket=old.socket)


def _find(devices: Sequence[DeviceConfig], given: HandedOver, *, alone: bool) -> int:
    """Returns which device a socket belongs to. Raises UserError."""
    path = _path_of(given)
    found = [i for i, each in enumerate(devices) if path and _wanted(each) == path]
    found = found or [i for i, each in enumerate(devices) if each.tag == given.name]
    if not found and alone and len(devices) == 1 and devices[0].place_is_open:
        found = [0]
    what = f"the service manager's socket {path or 'without a path'} ({given.name or 'no name'})"
    if not found:
        known = ", ".join(f"{each.tag} at {_wanted(each) or 'no path'}" for each in devices)
        raise UserError(f"{what} is no device's: there are {known}; {ADVICE}")
    if devices[found[0]].fd is not None or len(found) > 1:
        tag = devices[found[0]].tag
        raise UserError(f"{what} is not the only one for the device {tag!r}: {ADVICE}")
    return found[0]


def _demand_open(fd: int) -> None:
    """Raises UserError if nothing was handed over there."""
    try:
        os.fstat(fd)
    except OSError:
        raise UserError(
            "LISTEN_FDS: is more than the descriptors that are open from 3 on"
        ) from None


def _path_of(given: HandedOver) -> str | None:
    """Where a socket is; None if it has no path, or is none: the listener says so."""
    try:
        with socket.fromfd(given.fd, socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            name = sock.getsockname()
    except OSError:
        return None
    return name if isinstance(name, str) and os.path.isabs(name) else None


def _wanted(device: DeviceConfig) -> str | None:
    """Where a device is to listen: as it says, or by its tag in the runtime directory."""
    folder = service_folder("RUNTIME_DIRECTORY")
    if device.socket is not None or not folder or "/" in device.tag:
        return device.socket
    return os.path.join(folder, f"{device.tag}.sock")


def _with_default(device: DeviceConfig) -> DeviceConfig:
    """Raises UserError if there is no place for it."""
    if not device.place_is_open:
        return device
    if path := _wanted(device):
        return replace(device, socket=path)
    raise UserError(
        f"{device.origin}{device.place} has no socket: set its socket, or have the service manager "
        f"listen for it; {ADVICE}"
    )
