"""Dataclasses as plain values for JSON, and back, by the types of their fields.

So one version of the code can leave its configuration to the next. What the next version has added
gets its default; what it does not know any more is an error, since leaving it out would change what
is served.
"""

import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, cast

from vhost9p.saved_state import Unreadable

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Returns dictionaries, lists, texts and numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(kind: type[T], value: Any) -> T:
    """Returns the value of this type that `to_plain` has made plain. Raises Unreadable."""
    try:
        return cast(T, _from_plain(kind, value))
    except (TypeError, ValueError, KeyError) as error:
        raise Unreadable(f"what the old version has written is not understood: {error}") from error


def _from_plain(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [each for each in arguments if each is not type(None)]
        return None if value is None else _from_plain(inner, value)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_from_plain(each, item) for each, item in zip(kinds, value, strict=True))
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, arguments))}")
        return value
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := set(value) - {each.name for each in fields(kind)}:
            raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
        return cast(Any, kind)(
            **{name: _from_plain(hints[name], item) for name, item in value.items()}
        )
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
