"""`vhost9p qemu`: prints what QEMU has to be given for a configuration.

Standard output has what another program reads, and nothing else. Standard error has what a person
does with it: the mounts in the guest, and what a host's access control may need.
"""

import argparse
import os
import sys
from collections.abc import Iterator

from vhost9p import config_values as v
from vhost9p.cli_parser import typed
from vhost9p.config import Config
from vhost9p.config_file import load
from vhost9p.errors import UserError
from vhost9p.log_record import one_line
from vhost9p.output import write_line
from vhost9p.qemu import access, agent_unit, formats, guest, options

SUMMARY = "print QEMU arguments for a configuration, and mounts for its guest"
DETAILS = (
    "Standard output has the arguments alone; standard error has the lines for the guest, and for "
    "libvirt what AppArmor and SELinux take."
)
EXAMPLE = """vhost9p qemu vm.yaml
vhost9p qemu vm.yaml --format readconfig --memory 4G > vm.cfg"""
FORMATS = ("shell", "readconfig", "libvirt", "fstab", "unit")
MEMORY_MAX = 2**46
"""Bytes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options to a parser."""
    parser.add_argument("file", nargs="?", metavar="VM.yaml", help="configuration of the VM")
    parser.add_argument(
        "--format",
        type=typed(v.parse_choice(*FORMATS)),
        default=FORMATS[0],
        metavar="FORMAT",
        help="shell (default), readconfig (for -readconfig), libvirt (a domain), fstab, or unit "
        "(the guest's, for its agent)",
    )
    parser.add_argument(
        "--memory",
        type=typed(parse_memory),
        default=options.DEFAULT_MEMORY,
        metavar="SIZE",
        help="the guest's memory (default: 1G)",
    )
    parser.add_argument(
        "--machine",
        type=typed(parse_machine),
        default=options.default_machine(),
        metavar="NAME",
        help=f"type of the machine (default: {options.default_machine()})",
    )
    parser.add_argument(
        "--pluggable",
        action="store_true",
        help="put each device on a PCIe port of its own, so that it can be unplugged",
    )


def parse_memory(text: str) -> int:
    """Parses a size of memory in whole MiB; as for QEMU's -m, G is GiB, and a number alone is of
    MiB. Raises ValueError."""
    words = f"{text}M" if text.isdigit() else text
    if words[-1:].upper() in ("M", "G", "T"):
        words = f"{words[:-1]}{words[-1].upper()}iB"
    try:
        size: int = v.parse_size(options.MIB, MEMORY_MAX)(words)
    except ValueError:
        most = v.write_size(MEMORY_MAX)
        raise ValueError(
            f"is no size from 1MiB to {most}; write it as 4G, or 512 for as many MiB"
        ) from None
    if size % options.MIB:
        raise ValueError("is no whole number of MiB")
    return size


def parse_machine(text: str) -> str:
    """Parses the name of a type of machine. Raises ValueError."""
    if not text or not text.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise ValueError("is no type of machine; a name such as q35 is expected")
    return text


def run(chosen: argparse.Namespace) -> int:
    """Prints. Raises UserError."""
    if chosen.file is None:
        raise UserError("name the configuration: vhost9p qemu VM.yaml")
    config = load(chosen.file)
    text = _text(config, chosen)
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.buffer.flush()
    for line in _advice(config, chosen.format):
        write_line(one_line(line))
    return 0


def _text(config: Config, chosen: argparse.Namespace) -> str:
    """What another program reads."""
    if chosen.format == "fstab":
        return "".join(f"{guest.fstab_line(each)}\n" for each in config.devices)
    if chosen.format == "unit":
        return agent_unit.unit(config)
    wanted = options.of_config(config, chosen.memory, chosen.machine, pluggable=chosen.pluggable)
    if chosen.format == "readconfig":
        return formats.readconfig(wanted)
    if chosen.format == "libvirt":
        devices = [each for each in wanted if each.group in ("chardev", "device")]
        name = os.path.splitext(os.path.basename(chosen.file))[0]
        return formats.libvirt(name, chosen.machine, chosen.memory, devices)
    return formats.shell(wanted)


def _advice(config: Config, format_name: str) -> Iterator[str]:
    """The lines for a person."""
    if format_name == "libvirt":
        yield from access.advice(options.sockets(config))
    if format_name == "unit":
        yield f"# In the guest, /etc/systemd/system/{agent_unit.NAME}; then, as root:"
        yield f"systemctl enable --now {agent_unit.NAME}"
        return
    if format_name != "fstab":
        yield "# In the guest, as root:"
        yield from (guest.mount_line(each) for each in config.devices)
        yield "# Or in its /etc/fstab:"
        yield from (guest.fstab_line(each) for each in config.devices)
    yield guest.CACHES
