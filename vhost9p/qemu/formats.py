"""QEMU's options as text: for a shell, for QEMU's -readconfig, for libvirt.

A shell's word may hold any character. QEMU's configuration file quotes values without an escape
(util/qemu-config.c), so some texts cannot be expressed there. libvirt has elements of its own for
machine and memory, and passes other options on as they are (its drvqemu.html, "Pass-through of
arbitrary qemu commands").
"""

import platform
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from vhost9p.errors import UserError
from vhost9p.qemu.options import HEADS, MIB, Option

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Not even as a reference (XML 1.0, 2.2)."""
CONFIG_VALUE_MAX = 1000
"""Bytes of a value in a configuration file: QEMU reads lines of 1023 bytes."""


def shell(options: Iterable[Option]) -> str:
    """Returns one option a line, quoted for a shell (POSIX), as one command's end."""
    lines = (" ".join(map(shlex.quote, each.words)) for each in options)
    return " \\\n".join(lines) + "\n"


def readconfig(options: Iterable[Option]) -> str:
    """Returns a file for -readconfig. Raises UserError if a value cannot be in one."""
    return "\n".join(map(_section, options))


def _section(option: Option) -> str:
    pairs = {HEADS[option.group]: option.head, **dict(option.pairs)}
    name = pairs.pop("id", None)
    title = f'{option.group} "{name}"' if name else option.group
    lines = [f'  {key} = "{_config_value(value)}"\n' for key, value in pairs.items()]
    return "".join([f"[{title}]\n", *lines])


def _config_value(value: str) -> str:
    if re.search('["\n]', value) or len(value.encode(errors="surrogateescape")) > CONFIG_VALUE_MAX:
        raise UserError(
            f"{value}: a file for -readconfig cannot express it (a double quote, a line break, or "
            f"more than {CONFIG_VALUE_MAX} bytes); choose another path, or --format shell"
        )
    return value


def libvirt(name: str, machine: str, memory: int, devices: Iterable[Option]) -> str:
    """Returns a domain with so many bytes of shared memory, to which disks and so on are added.
    Raises UserError if a value cannot be in XML."""
    ET.register_namespace("qemu", QEMU_NAMESPACE)
    domain = ET.Element("domain", type="kvm")
    ET.SubElement(domain, "name").text = _xml_value(name)
    ET.SubElement(domain, "memory", unit="MiB").text = str(memory // MIB)
    backing = ET.SubElement(domain, "memoryBacking")
    ET.SubElement(backing, "source", type="memfd")
    ET.SubElement(backing, "access", mode="shared")
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type", arch=platform.machine(), machine=machine).text = "hvm"
    line = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for word in (word for option in devices for word in option.words):
        ET.SubElement(line, f"{{{QEMU_NAMESPACE}}}arg", value=_xml_value(word))
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def _xml_value(word: str) -> str:
    if NOT_IN_XML.search(word):
        raise UserError(
            f"{word}: XML cannot express control characters, nor bytes that are no UTF-8; choose "
            "another path, or --format shell"
        )
    return word
