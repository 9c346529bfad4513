"""Reads the YAML file that describes what is served.

A file describes one VM: a list of devices, or one device at the top level. All errors in a file are
reported at once, each with line, column and key. Nothing is served from a file with errors, but its
valid values are used, so that the host can be checked in the same run. The reader works on YAML
nodes instead of Python objects: they know their places, and aliases cannot expand.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from vhost9p import hints
from vhost9p.config import Config, absolute
from vhost9p.config_checks import Path, Tree
from vhost9p.config_schema import DEVICE, OF_THE_DAEMON, TOP_KEYS
from vhost9p.config_shapes import Group, Leaf, Shape
from vhost9p.config_tree import MAKERS, make_device, missing
from vhost9p.config_values import closest
from vhost9p.errors import Problems, UserError

FILE_SIZE_MAX = 256 * 1024
SHOWN_MAX = 80
"""Characters of a wrong value in a message."""
DEPTH_MAX = 16
"""Levels of lists and mappings in a file."""
PROBLEMS_MAX = 100
"""After this many errors the rest of a file is not read."""


ALIASES = "anchors (&name) and aliases (*name) are not supported; write the value out"


class _Unsupported(yaml.MarkedYAMLError):
    """YAML, but more of it than a configuration needs."""


class _Alias(yaml.ScalarNode):
    """What stands for another node."""


class _Loader(yaml.SafeLoader):
    """Refuses what no configuration needs before it can cost time or memory."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.anchored: list[Any] = []
        """Where anchors are."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return _Alias("", f"*{event.anchor}", mark, mark)
        if self.depth == DEPTH_MAX:
            problem = f"nested deeper than {DEPTH_MAX} levels"
            raise _Unsupported(problem=problem, problem_mark=mark)
        if event.anchor is not None:
            self.anchored.append(mark)
            event.anchor = None
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _scalar(node: yaml.Node, *, as_text: bool) -> str | bool | int:
    """Returns a node's value; ValueError if it is neither text, number nor truth value. With
    `as_text` numbers stay text: 0640 is a number to YAML, and a mode here."""
    if isinstance(node, _Alias):
        raise ValueError(f"is an alias: {ALIASES}")
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is a list or a mapping; one value is expected")
    text: str = node.value
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str" or (as_text and kind == "int"):
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


def _label(path: Path) -> str:
    """The keys that lead to a place, for the start of a message."""
    return "".join(f"{key}: " for key in path if isinstance(key, str))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A device in the file: its valid values, and the place of each key."""

    mark: Any
    values: Tree
    marks: dict[Path, Any] = field(default_factory=dict)

    def nearest(self, path: Path) -> Any:
        """The mark of the longest beginning of a path that has one."""
        while path not in self.marks and path:
            path = path[:-1]
        return self.marks.get(path, self.mark)


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
    """Reads one file's text and collects its errors."""

    def __init__(self, file: str, text: str, *, socket_needed: bool) -> None:
        self.file = file
        self.text = text
        self.base = os.path.dirname(os.path.abspath(file))
        self.device = (
            replace(DEVICE, needed=(("socket",), *DEVICE.needed)) if socket_needed else DEVICE
        )
        self.problems: list[tuple[int, int, str]] = []

    def place(self, mark: Any) -> str:
        """A place in the file, for the start of a message."""
        return f"{self.file}:{mark.line + 1}:{mark.column + 1}: "

    def complain(self, mark: Any, text: str) -> None:
        """Adds an error at a place in the file."""
        self.problems.append((mark.line, mark.column, self.place(mark) + text))
        if len(self.problems) == PROBLEMS_MAX:
            raise UserError(
                *self.texts(),
                f"{self.file}: there may be more errors: the rest of the file was not read",
            )

    def texts(self) -> list[str]:
        """What has been found, in the file's order."""
        return [text for *_, text in sorted(self.problems)]

    def compose(self) -> yaml.Node | None:
        """The file's nodes, None if it is empty; raises UserError where it is no YAML."""
        loader = None
        try:
            loader = _Loader(self.text)
            root = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            raise UserError(self._syntax(error)) from None
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            raise UserError(f"{self.file}:{line}: no YAML: a character not allowed") from None
        except (ValueError, OverflowError):  # PyYAML lets it out for "\UFFFFFFFF", say
            get_mark: Any = loader and loader.get_mark
            where = self.place(get_mark()) if get_mark else f"{self.file}: "
            raise UserError(f"{where}no YAML: a number out of its range") from None
        for mark in loader.anchored:
            self.complain(mark, ALIASES)
        return root

    def _syntax(self, error: yaml.MarkedYAMLError) -> str:
        """What is said of a text that has no nodes."""
        mark = error.problem_mark or error.context_mark
        where = self.place(mark) if mark else f"{self.file}: "
        said = ", ".join(filter(None, (error.context, error.problem)))
        if isinstance(error, _Unsupported):
            return where + said
        if "another document" in said:
            return f"{where}a second document begins here; a file has one"
        hint = "; YAML is indented by spaces, not by tabs" if "'\\t'" in said else ""
        return f"{where}no YAML: {said}{hint}"

    def is_alias(self, node: yaml.Node, label: str = "") -> bool:
        """Whether a node stands for another one, which is a mistake."""
        if isinstance(node, _Alias):
            self.complain(node.start_mark, f"{label}{_shown(node)} is an alias: {ALIASES}")
        return isinstance(node, _Alias)

    def pairs(self, node: yaml.MappingNode, known: Iterable[str], label: str = "") -> Iterator[Any]:
        """Keys with their nodes and those of their values, without unknown and repeated ones."""
        seen: dict[str, int] = {}
        valid = ", ".join(known)
        for key_node, value_node in node.value:
            mark, key = key_node.start_mark, key_node.value
            if self.is_alias(key_node, label):
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.complain(mark, f"{label}a list or a mapping is no key; valid are {valid}")
            elif key not in known:
                hint = hints.for_key(key, known)
                self.complain(
                    mark, f"{label}unknown key {_shown(key_node)}; valid are {valid}{hint}"
                )
            elif key in seen:
                self.complain(mark, f"{label}{key}: is in line {seen[key]} already")
            else:
                seen[key] = mark.line + 1
                yield key, mark, value_node

    def value(self, label: str, node: yaml.Node, leaf: Leaf) -> Any:
        """A parsed value; None where it is wrong."""
        try:
            value = leaf.parse(_scalar(node, as_text=leaf.as_text))
        except ValueError as error:
            self.complain(node.start_mark, f"{label}{_shown(node)} {error}")
            return None
        if leaf.is_path:
            value = absolute(value, self.base)
        if leaf.check and (problem := leaf.check(value)):
            self.complain(node.start_mark, f"{label}{problem}")
            return None
        return value

    def read(self, shape: Shape, node: yaml.Node, entry: _Entry, path: Path) -> Any:
        """Returns a node's value, by its shape, without invalid parts; None if nothing is valid."""
        label = _label(path)
        if isinstance(shape, Leaf):
            return self.value(label, node, shape)
        if self.is_alias(node, label):
            return None
        if isinstance(shape, Group):
            return self.group(shape, node, entry, path)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.complain(node.start_mark, f"{label}a list of {shape.noun} is expected")
            return None
        found = []
        for i, each in enumerate(node.value):
            entry.marks[*path, i] = each.start_mark
            found.append(self.read(shape.item, each, entry, (*path, i)) or {})
        return found

    def group(
        self,
        shape: Group,
        node: yaml.Node,
        entry: _Entry,
        path: Path,
        more: Iterable[str] = (),
    ) -> Tree | None:
        """Reads a mapping. Combinations are checked only if each value is valid."""
        label = _label(path)
        if not isinstance(node, yaml.MappingNode):
            keys = ", ".join(shape.keys)
            self.complain(node.start_mark, f"{label}{shape.noun} is a mapping of {keys}")
            return None
        found: Tree = {}
        seen = set()
        known = (*shape.keys, *more)
        wrong = {closest(key.value, known) for key, _ in node.value if key.value not in known}
        for key, mark, value_node in self.pairs(node, known, label):
            if key in more:
                continue
            seen.add(key)
            entry.marks[*path, key] = mark
            before = len(self.problems)
            value = self.read(shape.keys[key], value_node, entry, (*path, key))
            if len(self.problems) > before:
                wrong.add(key)
            if value is not None and not (key in MAKERS and key in wrong):
                found[key] = value
        for text in missing(shape, seen):
            self.complain(node.start_mark, label + text)
            wrong.add("")
        if shape.can_be_checked(wrong):
            for problem in shape.check(found):
                where = entry.nearest((*path, *problem.path))
                self.complain(where, label + str(problem))
        return found

    def entry(self, node: yaml.Node, more: Iterable[str] = ()) -> _Entry:
        """One device, beside keys `more` that are left to the caller."""
        entry = _Entry(node.start_mark, {})
        if self.is_alias(node):
            return entry
        entry.values.update(self.group(self.device, node, entry, (), more=more) or {})
        return entry

    def entries(self, root: yaml.MappingNode) -> list[_Entry]:
        """The devices: a list under `devices`, or the file itself."""
        lists = [value for key, value in root.value if key.value == "devices"]
        if not lists:
            return [self.entry(root, (*TOP_KEYS, "devices"))]
        for _ in self.pairs(root, (*TOP_KEYS, "devices")):
            pass
        if self.is_alias(lists[0], "devices: "):
            return []
        if not isinstance(lists[0], yaml.SequenceNode) or not lists[0].value:
            self.complain(lists[0].start_mark, "devices: a list of one device or more is expected")
            return []
        return [self.entry(node) for node in lists[0].value]

    def check_distinct(self, entries: list[_Entry]) -> None:
        """Each device has a socket and a tag of its own."""
        for key, default in (("socket", None), ("tag", "host0")):
            seen: dict[str, int] = {}
            for entry in entries:
                said = (key,) in entry.marks
                value = entry.values.get(key, None if said else default)
                mark = entry.nearest((key,))
                if value is None:
                    continue
                same = os.path.realpath(value) if key == "socket" else value
                if same in seen:
                    hint = "" if said else ", which is what a device has without one,"
                    self.complain(
                        mark,
                        f"{key}: {value!r}{hint} is in line {seen[same]} already; each "
                        f"device needs a {key} of its own",
                    )
                seen.setdefault(same, mark.line + 1)

    def origins(self, entry: _Entry) -> Callable[[Path], str]:
        """Returns a function from a path in a device to its place in the file."""
        return lambda path: self.place(entry.nearest(path))

    def top(self, root: yaml.MappingNode, *, in_folder: bool) -> dict[str, Any]:
        """What is said of all devices."""
        found: dict[str, Any] = {}
        for key_node, node in root.value:
            key = key_node.value
            if not isinstance(key, str) or key not in TOP_KEYS or key in found:
                continue
            found[key] = self.value(_label((key,)), node, TOP_KEYS[key])
            if in_folder and key in OF_THE_DAEMON:
                option = "--" + key.replace("_", "-")
                self.complain(key_node.start_mark, f"{key}: is the daemon's: give it {option}")
        return found


def read(
    file: str, problems: Problems, *, socket_needed: bool = True, in_folder: bool = False
) -> Config:
    """Reads a configuration. Mistakes are noted, and what is wrong is left out; raises UserError
    where nothing can be read. Devices may lack a socket where the caller has one for them.
    `in_folder`: the file's VM has others beside it in its daemon."""
    reader = _Reader(file, _read(file), socket_needed=socket_needed)
    root = reader.compose()
    if root is None:
        raise UserError(f"{file}: is empty; a device needs socket and path at least")
    if not isinstance(root, yaml.MappingNode):
        reader.complain(root.start_mark, "a mapping is expected: devices, or one device's options")
        raise UserError(*reader.texts())
    entries = reader.entries(root)
    reader.check_distinct(entries)
    said = reader.top(root, in_folder=in_folder)
    top = {key: value for key, value in said.items() if value is not None}
    problems.add(*reader.texts())
    shared = {"state_dir": top.pop("state_dir")} if "state_dir" in top else {}
    devices = (make_device(entry.values, reader.origins(entry), **shared) for entry in entries)
    return Config(tuple(devices), file=os.path.abspath(file), **top)


def load(file: str, *, socket_needed: bool = True) -> Config:
    """Reads a configuration; raises UserError with every mistake of it."""
    problems = Problems()
    config = read(file, problems, socket_needed=socket_needed)
    problems.raise_all()
    return config
