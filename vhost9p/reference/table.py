"""The tables of keys in docs/configuration.md, in Markdown."""

from collections.abc import Iterator

from vhost9p.config_export import EXPORT
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.config_shapes import Group, Items, Leaf, Shape, without
from vhost9p.reference import texts

HEAD = (
    "| key | option | QEMU's | values (default) | meaning | reload |\n|---|---|---|---|---|---|\n"
)
_ALL: dict[str, Shape] = {**DEVICE.keys, **TOP_KEYS}


def _code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _values(shape: Shape) -> str:
    default = without(shape)
    if isinstance(shape, Leaf):
        words = _code(*shape.parse.choices) or shape.parse.words
        default = default if shape.default is None else _code(default)
        return f"{words} ({default})" if default else words
    assert isinstance(shape, Items)
    if isinstance(shape.item, Leaf):
        return f"list of {shape.noun}"
    assert isinstance(shape.item, Group)
    own, others = shape.item.keys, ""
    if shape.item is EXPORT:
        own = {key: inner for key, inner in own.items() if key not in DEVICE.keys}
        others = " and the keys of an export"
    parts = ", ".join(_part(key, inner) for key, inner in own.items())
    return f"list of {parts}{others}{default and f' ({default})'}"


def _part(key: str, shape: Shape) -> str:
    default = without(shape)
    return f"{_code(key)}{default and f' ({_code(default)})'}"


def _row(path: str, shape: Shape) -> str:
    name = _code(path) + (" (top level)" if path in TOP_KEYS else "")
    qemus = texts.qemus(path)
    cells = (
        name,
        _code(*texts.options(path)),
        qemus and _code(qemus),
        _values(shape),
        texts.meaning(shape),
        "at once" if (key := _ALL[path.partition(".")[0]]).at_once else f"no: {key.fixed}",
    )
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) + "\n"


def tables() -> Iterator[tuple[str, str]]:
    """Yields the tables: whose keys are in one, and its text."""
    exports = DEVICE.keys["exports"]
    assert isinstance(exports, Items)
    for whose, keys in (
        ("keys of an export", texts.export_keys(exports)),
        ("keys of a device", texts.device_keys()),
    ):
        yield whose, HEAD + "".join(_row(path, shape) for path, shape in texts.rows(keys))


def text() -> str:
    """Returns all tables."""
    return "\n".join(text for _, text in tables())
