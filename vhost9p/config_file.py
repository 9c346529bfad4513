"""The YAML file that says what is served.

A file describes one VM: a list of devices, or one device at the top level. All mistakes of a file
are collected, each with its line, column and key, before any of them is told; nothing is served
from a file with a mistake. Nodes are read, not Python objects: they know their places, and nothing
in a file can stand for more than itself.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from vhost9p.config import (
    OPTIONS,
    PATH_CHECKS,
    PATHS,
    TOP_OPTIONS,
    Config,
    DeviceConfig,
    Parser,
    absolute,
    guess,
)
from vhost9p.errors import UserError

FILE_SIZE_MAX = 256 * 1024
SHOWN_MAX = 80
"""Characters of a wrong value in a message."""
DEPTH_MAX = 16
"""Levels of lists and mappings in a file."""
PROBLEMS_MAX = 100
"""Mistakes that are collected before the rest of a file is left unread."""


class _Loader(yaml.SafeLoader):
    """Refuses what no configuration needs before it can cost time or memory."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not supported"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if self.depth == DEPTH_MAX:
            problem = f"nested deeper than {DEPTH_MAX} levels"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _scalar(node: yaml.Node) -> str | bool | int:
    """What a node says; ValueError where that is neither text, number nor truth value."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is a list or a mapping; one value is expected")
    text: str = node.value
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str":
        return text
    if kind == "bool" and text.lower() in yaml.SafeLoader.bool_values:
        return yaml.SafeLoader.bool_values[text.lower()]
    if kind == "int" and re.fullmatch("0|-?[1-9][0-9_]{0,20}", text):
        return int(text.replace("_", ""))
    if kind == "null":
        raise ValueError("is no value")
    if kind == node.tag:
        raise ValueError(f"has a tag, {kind}, which means nothing here")
    raise ValueError(f"is taken for {kind} by YAML; quote it, or write a plain decimal number")


def _shown(node: yaml.Node) -> str:
    text = node.value if isinstance(node, yaml.ScalarNode) else "[…]"
    return repr(text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A device as the file has it: the right ones of its values, and where each key stands."""

    mark: Any
    values: dict[str, Any]
    marks: dict[str, Any]


def _read(file: str) -> str:
    """A file's text; raises UserError where there is none."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_SIZE_MAX:
        raise UserError(f"{file}: larger than {FILE_SIZE_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: is not UTF-8") from None


class _Reader:
    """Makes sense of one file's text and collects what is wrong with it."""

    def __init__(self, file: str, text: str, *, socket_needed: bool) -> None:
        self.file = file
        self.text = text
        self.base = os.path.dirname(os.path.abspath(file))
        self.needed = ("socket", "path") if socket_needed else ("path",)
        self.problems: list[tuple[int, int, str]] = []

    def place(self, mark: Any) -> str:
        """A place in the file, for the start of a message."""
        return f"{self.file}:{mark.line + 1}:{mark.column + 1}: "

    def complain(self, mark: Any, text: str) -> None:
        """Notes a mistake at a place in the file."""
        self.problems.append((mark.line, mark.column, self.place(mark) + text))
        if len(self.problems) == PROBLEMS_MAX:
            self.give_up(
                f"{self.file}: there may be more mistakes: the file was not looked at any further"
            )

    def give_up(self, *last: str) -> NoReturn:
        """Tells what has been found, in the file's order."""
        raise UserError(*(text for *_, text in sorted(self.problems)), *last)

    def compose(self) -> yaml.Node | None:
        """The file's nodes, None if it is empty; raises UserError where it is no YAML."""
        loader = None
        try:
            loader = _Loader(self.text)
            return loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = self.place(mark) if mark else f"{self.file}: "
            said = ", ".join(filter(None, (error.context, error.problem)))
            hint = "; YAML is indented by spaces, not by tabs" if "'\\t'" in said else ""
            raise UserError(f"{where}no YAML: {said}{hint}") from None
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            raise UserError(f"{self.file}:{line}: no YAML: a character not allowed") from None
        except (ValueError, OverflowError):  # PyYAML lets it out for "\UFFFFFFFF", say
            get_mark: Any = loader and loader.get_mark
            where = self.place(get_mark()) if get_mark else f"{self.file}: "
            raise UserError(f"{where}no YAML: a number out of its range") from None

    def pairs(self, node: yaml.MappingNode, known: tuple[str, ...]) -> Iterator[Any]:
        """Keys with their nodes and those of their values, without unknown and repeated ones."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            mark, key = key_node.start_mark, key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self.complain(mark, f"a list or a mapping is no key; valid are {', '.join(known)}")
            elif key not in known:
                hint = guess(key, known)
                self.complain(
                    mark, f"unknown key {_shown(key_node)}; valid are {', '.join(known)}{hint}"
                )
            elif key in seen:
                self.complain(mark, f"{key}: is in line {seen[key]} already")
            else:
                seen[key] = mark.line + 1
                yield key, mark, value_node

    def value(self, key: str, node: yaml.Node, parser: Parser) -> Any:
        """A parsed value; None where it is wrong."""
        try:
            value = parser(_scalar(node))
        except ValueError as error:
            self.complain(node.start_mark, f"{key}: {_shown(node)} {error}")
            return None
        if key in PATHS:
            value = absolute(value, self.base)
            check = PATH_CHECKS.get(key)
            if check and (problem := check(value)):
                self.complain(node.start_mark, f"{key}: {problem}")
                return None
        return value

    def entry(self, node: yaml.Node, more: tuple[str, ...] = ()) -> _Entry | None:
        """One device, with the keys `more` left to the caller; None where there is none."""
        if not isinstance(node, yaml.MappingNode):
            self.complain(node.start_mark, f"a device is a mapping of {', '.join(OPTIONS)}")
            return None
        found = _Entry(node.start_mark, {}, {})
        for key, mark, value_node in self.pairs(node, (*OPTIONS, *more)):
            found.marks[key] = mark
            if key in OPTIONS:
                value = self.value(key, value_node, OPTIONS[key])
                if value is not None:
                    found.values[key] = value
        for key in self.needed:
            if key not in found.marks:
                self.complain(node.start_mark, f"{key}: is missing; a device needs it")
        return found

    def entries(self, root: yaml.MappingNode) -> list[_Entry]:
        """The devices: a list under `devices`, or the file itself."""
        lists = [value for key, value in root.value if key.value == "devices"]
        if not lists:
            one = self.entry(root, (*TOP_OPTIONS, "devices"))
            return [one] if one else []
        for _ in self.pairs(root, (*TOP_OPTIONS, "devices")):
            pass
        if not isinstance(lists[0], yaml.SequenceNode) or not lists[0].value:
            self.complain(lists[0].start_mark, "devices: a list of one device or more is expected")
            return []
        return [entry for node in lists[0].value if (entry := self.entry(node))]

    def check_distinct(self, entries: list[_Entry]) -> None:
        """Each device has a socket and a tag of its own."""
        for key, default in (("socket", None), ("tag", "host0")):
            seen: dict[str, int] = {}
            for entry in entries:
                value = entry.values.get(key, None if key in entry.marks else default)
                mark = entry.marks.get(key, entry.mark)
                if value is None:
                    continue
                same = os.path.realpath(value) if key == "socket" else value
                if same in seen:
                    hint = "" if key in entry.marks else ", which is what a device has without one,"
                    self.complain(
                        mark,
                        f"{key}: {value!r}{hint} is in line {seen[same]} already; each "
                        f"device needs a {key} of its own",
                    )
                seen.setdefault(same, mark.line + 1)

    def top(self, root: yaml.MappingNode) -> dict[str, Any]:
        """What is said of all devices."""
        found: dict[str, Any] = {}
        for key_node, node in root.value:
            key = key_node.value
            if isinstance(key, str) and key in TOP_OPTIONS and key not in found:
                found[key] = self.value(key, node, TOP_OPTIONS[key])
        return found


def load(file: str, *, socket_needed: bool = True) -> Config:
    """Reads a configuration; raises UserError with every mistake of it. Devices may lack a socket
    where the caller has one for them."""
    reader = _Reader(file, _read(file), socket_needed=socket_needed)
    root = reader.compose()
    if root is None:
        raise UserError(f"{file}: is empty; a device needs socket and path at least")
    if not isinstance(root, yaml.MappingNode):
        reader.complain(root.start_mark, "a mapping is expected: devices, or one device's options")
        reader.give_up()
    entries = reader.entries(root)
    reader.check_distinct(entries)
    top = reader.top(root)
    if reader.problems:
        reader.give_up()
    shared = {"state_dir": top.pop("state_dir")} if "state_dir" in top else {}
    devices = (
        DeviceConfig(**entry.values, **shared, origin=reader.place(entry.mark)) for entry in entries
    )
    return Config(tuple(devices), file=os.path.abspath(file), **top)
