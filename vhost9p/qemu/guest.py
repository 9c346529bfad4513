"""What is typed in a Linux guest: the mount of a device's tag, and its line of fstab(5)."""

import re
import shlex

from vhost9p.config import DeviceConfig

MSIZE_MAX = 512000
"""Bytes of a message that Linux's client takes on virtio: 125 pages (net/9p/trans_virtio.c)."""
CACHES = (
    "# Where only this guest writes, cache=mmap is faster and has writable shared mappings; where "
    "only it changes the data at all, so is cache=loose."
)


def options(device: DeviceConfig) -> str:
    """Returns the mount's options. The cache is the one that is right however many write: see
    docs/guests.md for the others. In a read-only mount no agent fires inotify."""
    words = ["trans=virtio", "version=9p2000.L", f"msize={min(device.msize_max, MSIZE_MAX)}"]
    read_only = not device.notify and all(each.readonly for each in device.exports)
    return ",".join([*(["ro"] if read_only else []), *words, "cache=none"])


def mount_point(device: DeviceConfig) -> str:
    """Returns the directory at which the tag is mounted, named after it."""
    name = re.sub(r"[^\w.+-]", "_", device.tag).strip(".")
    return f"/mnt/{name or 'share'}"


def mount_line(device: DeviceConfig) -> str:
    """Returns the command that mounts the device, for a shell."""
    where = shlex.quote(mount_point(device))
    tag = shlex.quote(device.tag)
    end = "" if not tag.startswith("-") else "-- "
    return f"mkdir -p {where} && mount -t 9p -o {options(device)} {end}{tag} {where}"


def fstab_line(device: DeviceConfig) -> str:
    """Returns the line of fstab(5); the guest boots without the device, too."""
    where = _fstab_field(mount_point(device))
    return f"{_fstab_field(device.tag)} {where} 9p {options(device)},nofail 0 0"


def _fstab_field(text: str) -> str:
    """Escapes what ends a field, begins a comment, or an escape."""
    return re.sub(r"[\s\\#]", lambda found: "".join(f"\\{b:03o}" for b in found[0].encode()), text)
