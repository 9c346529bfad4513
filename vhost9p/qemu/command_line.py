"""A user's own QEMU command line, as far as it concerns shared memory and sockets.

`needed` returns what has to be added so that it has the devices of a configuration. QEMU merges
several -machine options, and those of -m; the last value of a key counts. What a -readconfig file
says counts as if it stood in its place. Words that follow another option are not distinguished from
options: none of QEMU's takes a value that looks like one of those read here.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vhost9p import config_values as v
from vhost9p.errors import UserError
from vhost9p.qemu.options import (
    DEFAULT_MEMORY,
    HEADS,
    MEMORY_ID,
    WORDS,
    Option,
    device,
    shared_memory,
    size,
)

GROUPS = {word: group for group in HEADS for word in (WORDS.get(group, group),)} | {"M": "machine"}
"""Options that are read, and the groups that they are in."""
NO_SMBIOS = ("microvm", "isapc")
SHARED = ("memory-backend-memfd", "memory-backend-shm")
"""Backends that are shared unless they say otherwise."""
TITLE = re.compile(r'\s*\[([\w-]+)(?:\s+"([^"]*)")?\]')
PAIR = re.compile(r'\s*([\w.-]+)\s*=\s*"([^"]*)"')

Pairs = dict[str, str]


@dataclass
class CommandLine:
    """What the options say."""

    machine: str | None = None
    """The type of the machine."""
    memory: str | None = None
    """The size of the guest's memory, as QEMU has it."""
    backend: str | None = None
    """The id of the machine's memory backend."""
    numa_backends: list[str] = field(default_factory=list)
    """The ids of the backends of NUMA nodes."""
    objects: dict[str, Pairs] = field(default_factory=dict)
    sockets: set[str] = field(default_factory=set)
    """What chardevs connect to."""
    alone: set[str] = field(default_factory=set)
    """Further options, without their values."""


def read(words: Sequence[str]) -> CommandLine:
    """Reads a command line; the program is its first word. What QEMU itself will refuse is
    ignored."""
    line = CommandLine()
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name = re.sub("^--?", "", word) if word.startswith("-") else ""
        if name == "readconfig":
            for group, pairs in _sections(value):
                _take(line, group, pairs)
        elif name in GROUPS or name == "numa":
            group = GROUPS.get(name, name)
            _take(line, group, _pairs(value, HEADS.get(group, "type")))
        elif name:
            line.alone.add(name)
    return line


def _pairs(text: str, head: str) -> Pairs:
    """The keys and values of an option; `head` is the key of a first value without one."""
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        words = {True: "on", False: "off"}
        return {
            key: words.get(value, str(value)) for key, value in found.items() if _is_plain(value)
        }
    try:
        pairs = v.split_commas(text, alone="on")
    except ValueError:
        return {}
    first = pairs[0][0]
    if "=" not in text.replace(",,", "").partition(",")[0]:
        pairs[0] = (head, first)
    return dict(pairs)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int)


def _sections(file: str) -> Iterator[tuple[str, Pairs]]:
    """The sections of a configuration file; none if it cannot be read, which QEMU will say."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            found: list[tuple[str, Pairs]] = []
            for line in lines:
                if title := TITLE.match(line):
                    found.append((title[1], {"id": title[2]} if title[2] else {}))
                elif found and (pair := PAIR.match(line)):
                    found[-1][1][pair[1]] = pair[2]
    except OSError:
        return
    yield from found


def _take(line: CommandLine, group: str, pairs: Pairs) -> None:
    if group == "machine":
        line.machine = pairs.get("type", line.machine)
        line.backend = pairs.get("memory-backend", line.backend)
    elif group == "memory":
        line.memory = pairs.get("size", line.memory)
    elif group == "numa" and "memdev" in pairs:
        line.numa_backends.append(pairs["memdev"])
    elif group == "object" and "id" in pairs:
        line.objects[pairs["id"]] = pairs
    elif group == "chardev" and pairs.get("backend") == "socket" and "path" in pairs:
        line.sockets.add(os.path.abspath(pairs["path"]))


def needed(words: Sequence[str], sockets: Sequence[str]) -> list[Option]:
    """Returns the options that connect the guest to the sockets, without those that the command
    line has. Raises UserError if its memory cannot be shared."""
    line = read(words)
    if "daemonize" in line.alone:
        raise UserError(
            "-daemonize: QEMU would leave the command that ends the daemon with it; leave it out, "
            "or start the daemon by itself (vhost9p --config)"
        )
    options = [*_memory(line)]
    for number, socket in enumerate(sockets):
        if socket not in line.sockets:
            options += device(number, socket)
    return options


def check_smbios(words: Sequence[str]) -> None:
    """Raises UserError if a guest of this machine finds no strings of SMBIOS."""
    machine = read(words).machine
    if machine in NO_SMBIOS:
        raise UserError(
            f"-machine {machine}: it has no SMBIOS, by which --agent reaches the guest; take q35, "
            "or put the unit into the guest (vhost9p qemu --format unit)"
        )


def _memory(line: CommandLine) -> Iterator[Option]:
    used = line.numa_backends or ([line.backend] if line.backend else [])
    for name in used:
        _check_shared(name, line.objects.get(name))
    if used:
        return
    if "mem-path" in line.alone:
        raise UserError(
            "-mem-path: this memory is not shared, so the daemon cannot use it; take -object "
            "memory-backend-file,id=mem,size=…,mem-path=…,share=on -machine memory-backend=mem"
        )
    memory = line.memory or size(DEFAULT_MEMORY)
    if not line.memory:
        yield Option("memory", memory)
    yield shared_memory(f"{memory}M" if memory.isdigit() else memory)
    yield Option("machine", "", (("memory-backend", MEMORY_ID),))


def _check_shared(name: str, backend: Pairs | None) -> None:
    """Raises UserError if a memory backend is not shared. QEMU reports one that is missing."""
    if backend is None:
        return
    kind = backend.get("qom-type", "")
    default = "on" if kind in SHARED else "off"
    if backend.get("share", default) not in ("on", "yes", "true", "y"):
        raise UserError(
            f"-object {kind},id={name}: the guest's memory is not shared, so the daemon cannot use "
            "it; add share=on"
        )
