"""The README's tables of options are those that the daemon has, and its examples are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import yaml

from vhost9p import cli_options, config_file, virtfs
from vhost9p.config_schema import DEVICE, TOP_KEYS, Group, Items, Leaf, Shape

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
WHOLE = {"--config", "--virtfs"}
"""They describe a device at once."""
OTHER_OPTIONS = {*WHOLE, "--help", "-h", "--version", "--print-capabilities"}
THE_SAME = "the same"


def expand(text: str) -> list[str]:
    """a.{b,c} is a.b and a.c."""
    parts = re.split(r"\{(.*?)\}", text)
    return ["".join(each) for each in product(*(part.split(",") for part in parts))]


def code(cell: str) -> list[str]:
    """What a cell has in backquotes."""
    return re.findall("`(.*?)`", cell)


def rows() -> Iterator[list[str]]:
    """The cells of the tables of options."""
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if line.startswith("| `") and len(cells) == 5:
            yield cells


def keys(shape: Shape, path: str = "") -> Iterator[tuple[str, Shape]]:
    """The keys that have values, with the groups that they are in."""
    if isinstance(shape, Group):
        for key, inner in shape.keys.items():
            yield from keys(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, shape


def test_keys() -> None:
    shapes = dict(keys(DEVICE)) | dict(TOP_KEYS)
    documented = [key for cells in rows() for text in code(cells[0]) for key in expand(text)]
    assert sorted(documented) == sorted(shapes)
    for cells in rows():
        for key in expand(code(cells[0])[0]):
            shape = shapes[key]
            if isinstance(shape, Items) and isinstance(shape.item, Group):
                inner = set(shape.item.keys) - set(DEVICE.keys)
                assert inner <= set(code(cells[3])), f"{key}: the parts of an entry"


def test_command_line() -> None:
    actions = cli_options.build_parser()._actions
    there = {option for action in actions for option in action.option_strings} - OTHER_OPTIONS
    assert {option for cells in rows() for option in code(cells[1])} == there
    assert all(option in README for option in WHOLE)


def test_qemus_names() -> None:
    found = []
    for cells in rows():
        names = expand(code(cells[0])[0]) if cells[2] == THE_SAME else code(cells[2])
        found += names
    assert sorted(found) == sorted(virtfs.KEYS)


def test_choices_and_defaults() -> None:
    """Each word that a choice has is in its row."""
    by_key = {key: cells for cells in rows() for key in expand(code(cells[0])[0])}
    for key, shape in [*keys(DEVICE), *TOP_KEYS.items()]:
        if not isinstance(shape, Leaf):
            continue
        with pytest.raises(ValueError) as caught:
            shape.parse("no such word\0")
        if choices := re.match("is not one of ([^;]*)", str(caught.value)):
            assert set(choices[1].split(", ")) <= set(code(by_key[key][3])), key


def examples() -> list[str]:
    return re.findall("```yaml\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("text", examples(), ids=lambda text: text.split("\n")[0])
def test_examples(text: str, tmp_path: Path) -> None:
    """They are read, with directories of this machine in the place of theirs; what shows a part
    gets the rest."""
    if "path:" not in text:
        text = "socket: s\npath: /srv\n" + text
    text = re.sub(r"path: [^,}\n]*", f"path: {tmp_path}", text)
    file = tmp_path / "vm.yaml"
    file.write_text(text, encoding="utf-8")
    assert config_file.load(str(file)).devices
    assert yaml.safe_load(text)
