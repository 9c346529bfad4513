"""What keys can hold: the shapes that the schema (config_schema.py) is made of.

A shape has its checks, and the texts that the reference (reference/) is made of.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from vhost9p import config_checks as checks
from vhost9p import config_values as v
from vhost9p.config_checks import Check


class Leaf(NamedTuple):
    """One value."""

    parse: v.Parser
    text: str
    """What it means, for the help: a line without a full stop."""
    more: str = ""
    """Whole sentences about it, for the reference."""
    default: Any = None
    """What holds without the key; None: nothing, or what `absent` says."""
    absent: str = ""
    """What holds without the key, in words."""
    is_path: bool = False
    """Made absolute, from the folder of the file or the current directory."""
    check: Callable[[str], str | None] | None = None
    """What is wrong with an absolute path."""
    as_text: bool = False
    """A number is parsed as it is written."""
    at_once: bool = False
    """Whether a reload changes it while the guest runs (reload.py)."""
    fixed: str = ""
    """Else why not, and what helps, as it follows the key and its values."""


@dataclass(frozen=True, slots=True)
class Group:
    """Named values."""

    noun: str
    """What it is, for messages."""
    keys: "Mapping[str, Shape]"
    text: str = ""
    """As that of a leaf; empty for an item of a list."""
    needed: tuple[tuple[str, ...], ...] = ()
    """Of each of these, one key at least."""
    check: Check = checks.nothing
    """Looks at a tree whose values are right in themselves."""
    together: frozenset[str] | None = None
    """The keys that it looks at; None: all."""
    more: str = ""
    absent: str = ""
    at_once: bool = False
    """As that of a leaf, of which the next is, too."""
    fixed: str = ""

    def can_be_checked(self, wrong: Set[str]) -> bool:
        """Whether the check ignores the keys in `wrong`, which are left out."""
        return not (wrong if self.together is None else wrong & self.together)


@dataclass(frozen=True, slots=True)
class Items:
    """One value of a shape or more."""

    noun: str
    item: "Shape"
    text: str
    more: str = ""
    absent: str = ""
    at_once: bool = False
    fixed: str = ""


Shape = Leaf | Group | Items


def without(shape: Shape) -> str:
    """Returns what holds without a key, in words; empty if there is nothing to say."""
    if isinstance(shape, Leaf) and shape.default is not None:
        return shape.parse.write(shape.default)
    return shape.absent


def shape_at(shape: Shape, path: str) -> Shape:
    """Returns the shape at a path of keys with dots between them, as quota.bytes. Items of lists
    have none. Raises KeyError."""
    for key in path.split("."):
        if not isinstance(shape, Group):
            raise KeyError(path)
        shape = shape.keys[key]
    return shape
