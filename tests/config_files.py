"""Configuration files of tests: written, read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import json_schema
from vhost9p import config_file
from vhost9p.config import Config
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.errors import UserError

Load = Callable[..., Config]

ONE = "socket: s\npath: one\n"
KEYS = ", ".join(DEVICE.keys)
TOP = ", ".join((*TOP_KEYS, "devices"))


def loader(folder: Path) -> Load:
    """Writes a file beside the directories "one" and "two", and reads it. What is right by the
    reader is right by the JSON Schema."""
    for name in ("one", "two"):
        (folder / name).mkdir()

    def write_and_read(text: str | bytes, **options: Any) -> Config:
        file = folder / "vm.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        config = config_file.load(str(file), **options)
        if isinstance(text, str):
            assert json_schema.problems(text) == []
        return config

    return write_and_read


def problems(load: Load, text: str | bytes) -> list[str]:
    """What is said of a file, without its folder's name."""
    with pytest.raises(UserError) as caught:
        load(text)
    assert all("\n" not in each for each in caught.value.problems)
    return ["vm.yaml" + each.partition("vm.yaml")[2] for each in caught.value.problems]
