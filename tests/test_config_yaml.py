"""A configuration file as YAML: what is none, what stands for something else, and any bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config_files import KEYS, ONE, TOP, Load, loader, problems
from vhost9p.config_export import ID_MAP, ID_RANGE, QUOTA, RULE, THROTTLING, XATTRS
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.errors import UserError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


SYNTAX = [
    (b"socket: s\n\tpath: x\n", "vm.yaml:2:1: no YAML: ", "spaces, not by tabs"),
    (b"socket: 'x\n", "vm.yaml:2:1: no YAML: ", "quoted scalar"),
    (b"a: b: c\n", "vm.yaml:1:5: no YAML: ", "mapping values are not allowed"),
    (b"socket: s\npath: \xff\n", "vm.yaml:2: is not UTF-8", ""),
    ("socket: s\n".encode("utf-16"), "vm.yaml:1: is not UTF-8", ""),
    (b"socket: s\npath: a\0b\n", "vm.yaml:2: no YAML: a character not allowed", ""),
    (b"a: 1\n---\nb: 2\n", "vm.yaml:2:1: a second document begins here; a file has one", ""),
    (b'a: "\\UFFFFFFFF"\n', "vm.yaml:1:", "a number out of its range"),
    (b"[" * 200_000, "vm.yaml:1:17: nested deeper than 16 levels", ""),
    (b"- " * 100_000, "vm.yaml:1:33: nested deeper than 16 levels", ""),
    (b"#" * (256 * 1024 + 1), "vm.yaml: larger than 262144 bytes", ""),
]


@pytest.mark.parametrize("data,start,part", SYNTAX, ids=lambda value: str(value)[:30])
def test_what_is_no_yaml(load: Load, data: bytes, start: str, part: str) -> None:
    (problem,) = problems(load, data)
    assert problem.startswith(start), problem
    assert part in problem


ALIASES = "anchors (&name) and aliases (*name) are not supported; write the value out"


@pytest.mark.parametrize(
    "text,said",
    [
        ("tag: &t one\n", [f"3:6: {ALIASES}"]),
        ("tag: &t a\nring: *t\n", [f"3:6: {ALIASES}", f"4:7: ring: '*t' is an alias: {ALIASES}"]),
        ("quota: *q\n", [f"3:8: quota: '*q' is an alias: {ALIASES}"]),
        ("*k : x\n", [f"3:1: '*k' is an alias: {ALIASES}"]),
        ("xattrs: {rules: [*r, *r]}\n", [
            f"3:18: xattrs: rules: '*r' is an alias: {ALIASES}",
            f"3:22: xattrs: rules: '*r' is an alias: {ALIASES}",
        ]),
        ("cpus: &a [*a, *a]\nthreads: 0\n", [
            "3:7: " + ALIASES,
            "3:7: cpus: '[…]' is a list or a mapping; one value is expected",
            "4:10: threads: '0' is no whole number from 1 to 32",
        ]),
        ("<<: {tag: x}\n", [
            f"3:1: unknown key '<<'; valid are {KEYS}, {TOP}; merging (<<) "
            "is not supported; write the keys out"
        ]),
    ],
)  # fmt: skip
def test_what_stands_for_something_else(load: Load, text: str, said: list[str]) -> None:
    """It is YAML, and reported beside the other mistakes."""
    assert problems(load, ONE + text) == [f"vm.yaml:{each}" for each in said]


def test_aliases_for_whole_devices_are_refused(load: Load) -> None:
    for text in ("devices: *d\n", "devices: [*d]\n"):
        (problem,) = problems(load, text)
        assert ALIASES in problem


# ---- anything ------------------------------------------------------------------------------------

PARTS = (ID_MAP, ID_RANGE, QUOTA, RULE, THROTTLING, XATTRS)
KNOWN = st.sampled_from(
    [
        "devices",
        "name",
        "<<",
        *DEVICE.keys,
        *TOP_KEYS,
        *(key for part in PARTS for key in part.keys),
    ]
)
LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(),
    st.binary(max_size=8), st.sampled_from(["host0", "remap", "one", "s", "512KiB", "~", "/"]),
)  # fmt: skip
TREE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KNOWN, st.text(max_size=8)), inner, max_size=6),
    ),
    max_leaves=30,
)
ANY_TEXT = st.lists(
    st.sampled_from(
        ["devices", "socket", "path", "tag", ":", ": ", "- ", "\n", "\n  ", "\t", "[", "]",
         "{", "}", ",", "&a ", "*a", "!", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "|\n",
         ">", "'", '"', "\\U", "%YAML 1.1\n", "---\n", "...\n", "? ", "0x", "1:2",
         "~", "#", "é", "\0", "x"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TREE.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)) | ANY_TEXT | st.text())
def test_any_document_is_read_or_refused(load: Load, text: str) -> None:
    try:
        config = load(text.encode("utf-8", "surrogatepass"))
    except UserError as error:
        assert error.problems
        assert all(each and "\n" not in each for each in error.problems)
    else:
        assert all(os.path.isdir(each.path) for device in config.devices for each in device.exports)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(load: Load, data: bytes) -> None:
    with pytest.raises(UserError):  # so short and random a file is never right
        load(data)
