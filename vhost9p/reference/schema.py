"""The JSON Schema (draft 2020-12) of the YAML file, for editors.

It refuses what is wrong in itself: unknown keys, wrong types, numbers out of range. What depends on
the host or on other keys is the daemon's to check, and so are ranges of sizes with a unit.
"""

import json
from typing import Any

from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.config_shapes import Group, Leaf, Shape, without
from vhost9p.reference.texts import meaning

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


class _Writer:
    """Writes each shape once, and refers to it where it occurs again."""

    def __init__(self) -> None:
        self._places: dict[int, str] = {}

    def write(self, shape: Shape, place: str) -> Schema:
        """Returns the schema of a shape that will stand at a place, a JSON pointer."""
        if known := self._places.get(id(shape)):
            return {"$ref": known}
        self._places[id(shape)] = place
        found: Schema = {"description": text} if (text := _description(shape)) else {}
        if isinstance(shape, Leaf):
            return {**found, **shape.parse.schema, **_default(shape)}
        if isinstance(shape, Group):
            properties = {
                key: self.write(inner, f"{place}/properties/{key}")
                for key, inner in shape.keys.items()
            }
            return {**found, "type": "object", **_closed(properties, shape.needed)}
        item = self.write(shape.item, f"{place}/items")
        return {**found, "type": "array", "minItems": 1, "items": item}


def _description(shape: Shape) -> str:
    text, default = meaning(shape), without(shape)
    return f"{text} Default: {default}." if default else text


def _default(leaf: Leaf) -> Schema:
    if leaf.default is None:
        return {}
    plain = isinstance(leaf.default, bool) or leaf.parse.write is str
    value = leaf.default if plain else leaf.parse.write(leaf.default)
    return {"default": str(value) if isinstance(value, str) else value}


def _closed(properties: Schema, needed: tuple[tuple[str, ...], ...]) -> Schema:
    """A mapping without other keys. Of each of `needed` it has one at least."""
    found: Schema = {"properties": properties, "additionalProperties": False}
    if required := [key for key, *others in needed if not others]:
        found["required"] = required
    if choices := [keys for keys in needed if len(keys) > 1]:
        found["allOf"] = [{"anyOf": [{"required": [key]} for key in keys]} for keys in choices]
    return found


def schema() -> Schema:
    """Returns the schema. Devices may lack a socket, since an option can name it."""
    writer = _Writer()
    device = writer.write(DEVICE, "#/$defs/device")
    shared = {key: writer.write(leaf, f"#/$defs/shared/{key}") for key, leaf in TOP_KEYS.items()}
    top = {key: {"$ref": f"#/$defs/shared/{key}"} for key in shared}
    own = {key: {"$ref": f"#/$defs/device/properties/{key}"} for key in DEVICE.keys}
    devices = {
        "description": "The devices of the VM.",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/device"},
    }
    return {
        "$schema": DIALECT,
        "title": "vhost9p.yaml",
        "description": "What vhost9p serves to a VM: one device, or a list of devices.",
        "type": "object",
        "if": {"required": ["devices"]},
        "then": _closed({"devices": devices, **top}, ()),
        "else": _closed({**own, **top}, DEVICE.needed),
        "$defs": {"device": device, "shared": shared},
    }


def text() -> str:
    """Returns the schema as JSON."""
    return json.dumps(schema(), indent=2) + "\n"
