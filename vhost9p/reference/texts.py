"""What all forms of the reference have in common: sentences about a key, and its options."""

from collections.abc import Iterator

from vhost9p import virtfs
from vhost9p.cli_options import build_parser, names_of
from vhost9p.config_export import EXPORT_KEYS
from vhost9p.config_schema import OWN_KEYS, TOP_KEYS
from vhost9p.config_shapes import Group, Items, Leaf, Shape, without

OTHER_OPTIONS = {"socket": ("--fd",)}
"""Options that stand for a key beside its own."""


def sentence(text: str) -> str:
    """Returns a text of the schema as a sentence: capitalised, with a full stop."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def meaning(shape: Shape) -> str:
    """Returns the sentences that say what a key means; empty for an item of a list."""
    return " ".join(filter(None, (sentence(shape.text), shape.more)))


def values(shape: Shape) -> str:
    """Returns what a key can hold, in words."""
    if isinstance(shape, Leaf):
        return shape.parse.words
    return "a mapping" if isinstance(shape, Group) else f"a list of {shape.noun}"


def about(shape: Shape) -> str:
    """Returns all that there is to say about a key, in a line."""
    default = without(shape)
    words = f"{values(shape)} (default: {default})" if default else values(shape)
    return f"{meaning(shape)} Value: {words}."


def rows(keys: dict[str, Shape], path: str = "") -> Iterator[tuple[str, Shape]]:
    """Yields the keys that have a value or a list, each with the groups that it is in before it:
    quota.bytes."""
    for key, shape in keys.items():
        if isinstance(shape, Group):
            yield from rows(dict(shape.keys), f"{path}{key}.")
        else:
            yield f"{path}{key}", shape


def options(path: str) -> tuple[str, ...]:
    """Returns the options of a key; none if it exists in a file only."""
    names = (*names_of(path), *OTHER_OPTIONS.get(path, ()))
    parser = build_parser()
    return tuple(name for name in names if parser.key(name))


def qemus(path: str) -> str:
    """Returns what QEMU calls a key; empty if it has none."""
    name = next((theirs for theirs, ours in virtfs.NAMES.items() if ours == path), path)
    return name if name in virtfs.KEYS else ""


def export_keys(exports: Items) -> dict[str, Shape]:
    """Returns the keys of an export, with `exports` itself behind `path`."""
    path, *others = EXPORT_KEYS
    rest = {key: EXPORT_KEYS[key] for key in others}
    return {path: EXPORT_KEYS[path], "exports": exports, **rest}


def device_keys() -> dict[str, Shape]:
    """Returns the keys of a device that exports do not have, and those of the file."""
    return {**OWN_KEYS, **TOP_KEYS}
