"""The systemd unit that runs the agent in a guest, and how QEMU hands it to one that lacks it.

The unit follows all devices with `notify`. A tag that the guest mounts by itself is followed where
that is, be it the root; others are mounted as `vhost9p qemu` says. The agent lies in the mount, so
the guest needs systemd, and findmnt(8), which comes with mount(8). What is ordered behind the unit
finds the mounts in their places, and its watches held.

SMBIOS strings (type 11) hand it over: systemd takes them as credentials, and makes a unit of one
whose name begins with systemd.extra-unit, which nothing starts by itself, and a drop-in of one with
systemd.unit-dropin (systemd.system-credentials(7), smbios-type-11(7)). QEMU's other way, fw_cfg,
has no room for such long names.
"""

import base64
import shlex
from collections.abc import Iterator

from vhost9p.config import Config, DeviceConfig
from vhost9p.errors import UserError
from vhost9p.qemu import guest
from vhost9p.qemu.options import Option

NAME = "vhost9p-agent.service"
FIRST_SYSTEMD = 257
"""The first systemd that gives a drop-in a name (`~`), so that others can have theirs beside it."""

_UNIT = """[Unit]
Description=Passes on what others change in files that vhost9p serves
After=local-fs.target remote-fs.target

[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c '{script}'
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""
_CREDENTIALS = {
    f"systemd.extra-unit.{NAME}": None,
    "systemd.unit-dropin.multi-user.target~vhost9p": f"[Unit]\nWants={NAME}\n",
}
"""By name; None is the unit."""

# `place TAG [--fstab]` prints where a tag is mounted, or would be. `follow TAG DIRECTORY OPTIONS`
# mounts it there unless it is mounted, or fstab(5) has it.
_FUNCTIONS = (
    'place() { findmnt -fno TARGET -t 9p -S "$@"; };',
    "follow() {",
    'place "$1" >/dev/null ||',
    'if place "$1" --fstab >/dev/null; then mount -- "$1";',
    'else mkdir -p "$2" && mount -t 9p -o "$3" -- "$1" "$2"; fi;',
    'at=$(place "$1"); };',
)
_END = 'exec sh "$1/agent" "$@"'


def unit(config: Config) -> str:
    """Returns the unit file. Raises UserError if no device has something to follow."""
    followed = [each for each in config.devices if each.notify]
    if not followed:
        raise UserError(
            f"{config.file or 'the configuration'}: no device has notify, without which there is "
            "no agent; set notify: true for a device"
        )
    lines = [*_FUNCTIONS, *map(_follow, followed), _END]
    return _UNIT.format(script=" \\\n    ".join(map(_in_unit, lines)))


def _follow(device: DeviceConfig) -> str:
    words = (device.tag, guest.mount_point(device), guest.options(device))
    name = shlex.quote(device.notify_name)
    return f'follow {shlex.join(words)} && set -- "$@" "$at"/{name};'


def _in_unit(text: str) -> str:
    """Escapes text within the single quotes of a command (systemd.service(5), "Command lines")."""
    for plain, escaped in (("\\", r"\\"), ("'", r"\'"), ("%", "%%"), ("$", "$$"), ("\n", r"\n")):
        text = text.replace(plain, escaped)
    return text


def smbios(config: Config) -> Iterator[Option]:
    """Yields the options that hand the unit over. Raises UserError as `unit` does."""
    whole = unit(config)
    for name, content in _CREDENTIALS.items():
        encoded = base64.b64encode((content or whole).encode(errors="surrogateescape")).decode()
        value = f"io.systemd.credential.binary:{name}={encoded}"
        yield Option("smbios", "", (("type", "11"), ("value", value)))
