"""Parses QEMU's description of an export, the argument of its -virtfs and -fsdev options.

    local,path=/srv/data,mount_tag=data,security_model=mapped-xattr,readonly=on

Commas separate the parts; a doubled comma stands for a comma in a value. Numbers are written as in
C: octal with a leading 0, hexadecimal with 0x, without units. If a key is given twice, the last
value counts. A key alone means on, a key with the prefix "no" means off. Source: qemu(1), and
experiments with QEMU 11.

Differences from QEMU:

- Throttling is accepted; QEMU accepts it in -fsdev but not in -virtfs.
- An unknown writeout is refused; QEMU ignores it.
- fmode and dmode are refused if the security model ignores them, as -fsdev does.
- A burst of more than 2^32 - 1 seconds is refused; QEMU truncates the number.
"""

import re
from typing import Any

from vhost9p import config_values as v
from vhost9p.config_checks import Tree
from vhost9p.config_export import THROTTLING
from vhost9p.config_schema import DEVICE
from vhost9p.config_shapes import Leaf

DRIVER = "local"
OTHER_DRIVERS = ("synth", "proxy", "handle")
"""QEMU's other drivers, present and past."""
OTHERS_KEYS = ("socket", "sock_fd")
"""Keys of the driver proxy."""
MODES = ("fmode", "dmode")
NAMES = {"mount_tag": "tag"}
"""Keys that have another name in the configuration."""
MEANINGLESS = ("id", "fsdev")
"""Keys that connect QEMU's options with each other."""
PLAIN = (
    *("path", "mount_tag", "security_model", "multidevs", "readonly", "fmode", "dmode"),
    *("writeout", "max_xattr"),
)
KEYS = (*PLAIN, *(f"throttling.{key}" for key in THROTTLING.keys))
NEEDED = ("path", "security_model")
ID = "[A-Za-z][A-Za-z0-9._-]*"
NUMBER = (
    r"\s*\+?(0[xX](?P<hex>[0-9a-fA-F]{1,16})|0(?P<octal>[0-7]{0,22})|(?P<decimal>[1-9]\d{0,18}))"
)


def parse(text: str) -> Tree:
    """Returns the device that the string describes, as a tree of vhost9p.config_schema. Raises
    ValueError with one argument for each error."""
    tree: Tree = {}
    wrong: list[str] = []
    met: set[str] = set()
    if "=" not in text.partition(",")[0]:
        text = f"fsdriver={text}"
    for key, value in v.split_commas(text, alone="on"):
        met.add(key)
        if key == "fsdriver":
            _check_driver(value)  # the keys are those of the driver
            continue
        try:
            _set(tree, *_positive(key, value))
        except ValueError as error:
            wrong += error.args
    if "fsdriver" not in met:
        wrong.append(f"begins with no driver; {DRIVER},path=… is expected")
    wrong += [f"{key} is missing; QEMU requires it, too" for key in NEEDED if key not in met]
    if wrong:
        raise ValueError(*wrong)
    return tree


def _check_driver(name: str) -> None:
    if name != DRIVER:
        what = "another of QEMU's drivers" if name in OTHER_DRIVERS else "no driver"
        raise ValueError(f"{name!r} is {what}; only {DRIVER} is served")


def _positive(key: str, value: str) -> tuple[str, str]:
    """Returns key and value; the key noreadonly stands for readonly=off."""
    if key not in KEYS and key.removeprefix("no") in KEYS:
        return key.removeprefix("no"), "off"
    return key, value


def _set(tree: Tree, key: str, value: str) -> None:
    if key in MEANINGLESS:
        if not re.fullmatch(ID, value):
            raise ValueError(
                f"{key}: {value!r} is no identifier: letters, digits, -, . and _, a letter first"
            )
    elif key in OTHERS_KEYS:
        raise ValueError(f"{key} is the driver proxy's; only {DRIVER} is served")
    elif key in KEYS:
        try:
            part, last = tree, NAMES.get(key, key)
            if key.startswith("throttling."):
                part, last = tree.setdefault("throttling", {}), key.partition(".")[2]
            part[last] = _value(last, value, THROTTLING if part is not tree else DEVICE)
        except ValueError as error:
            raise ValueError(f"{key}: {value!r} {error}") from None
    else:
        known = (*PLAIN, *MEANINGLESS, "throttling.bps-total", "and so on")
        raise ValueError(f"unknown key {key!r}; valid are {', '.join(known)}{v.guess(key, KEYS)}")


def _value(key: str, text: str, group: Any) -> Any:
    leaf = group.keys[key]
    assert isinstance(leaf, Leaf)
    if key == "path":
        return _path(text)
    if key == "readonly":
        return v.parse_switch(text)
    if key in MODES:
        return _number(text) & 0o777
    if group is THROTTLING or key == "max_xattr":
        return leaf.parse(_number(text))
    return leaf.parse(text)


def _path(text: str) -> str:
    """Returns the path unchanged, since QEMU does not expand ~."""
    if not v.parse_text(text):
        raise ValueError("is no path")
    return text


def _number(text: str) -> int:
    """Parses a number as strtoull(3) does with base 0."""
    match = re.fullmatch(NUMBER, text, re.ASCII)
    if not match:
        raise ValueError("is no number; units are not allowed here, 0600 is octal")
    if match["hex"]:
        return int(match["hex"], 16)
    return int(match["decimal"] or match["octal"] or "0", 10 if match["decimal"] else 8)
