"""The options' values, and the YAML file: what is right, and how each mistake is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.config_files import KEYS, ONE, TOP, Load, loader, problems
from vhost9p import config as c
from vhost9p import config_file
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.config_schema import OWN_KEYS
from vhost9p.config_values import parse_tag
from vhost9p.errors import UserError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


# ---- what is right -------------------------------------------------------------------------------


def test_one_device_needs_no_list(load: Load, tmp_path: Path) -> None:
    config = load("socket: 9p.sock\npath: one\n")
    assert config == Config(
        (
            DeviceConfig(
                (ExportConfig(str(tmp_path / "one"), origin=f"{tmp_path}/vm.yaml:1:1: "),),
                socket=str(tmp_path / "9p.sock"),
                origin=f"{tmp_path}/vm.yaml:1:1: ",
            ),
        ),
        file=str(tmp_path / "vm.yaml"),
    )


def test_every_option_is_read(load: Load, tmp_path: Path) -> None:
    config = load(
        """\
# a comment
log_level: debug
state_dir: state
devices:
  - socket: /run/vm1/src.sock
    path: one
    tag: src
    security_model: none
    multidevs: remap
    readonly: true
    msize_max: 512KiB
    max_fids: 1_000
    threads: 2
    cpus: 0,2-3
    poll_us: 0
    ring: split
    notify: yes
    once: yes
    force: on
  - {socket: data.sock, path: ./two/../two, tag: "5"}
"""
    )
    first, second = config.devices
    assert (config.log_level, first.state_dir) == ("debug", f"{tmp_path}/state")
    assert first == DeviceConfig(
        (
            ExportConfig(
                f"{tmp_path}/one",
                security_model="none",
                readonly=True,
                origin=f"{tmp_path}/vm.yaml:5:5: ",
            ),
        ),
        socket="/run/vm1/src.sock",
        tag="src",
        multidevs="remap",
        msize_max=512 * 1024,
        max_fids=1000,
        threads=2,
        cpus=(0, 2, 3),
        poll_us=0,
        ring="split",
        notify=True,
        once=True,
        force=True,
        state_dir=f"{tmp_path}/state",
        origin=f"{tmp_path}/vm.yaml:5:5: ",
    )
    (export,) = second.exports
    assert (second.tag, second.multidevs, export.readonly) == ("5", "warn", False)
    assert export.path == f"{tmp_path}/./two/../two", "a symlink's .. is the kernel's business"


def test_paths_are_relative_to_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("socket: s\npath: one\n")
    monkeypatch.chdir(tmp_path.parent)
    config = config_file.load(f"{tmp_path.name}/vm.yaml")
    assert config.devices[0].exports[0].path == str(tmp_path / "one")
    assert config.file == str(tmp_path / "vm.yaml")


def test_home_is_expanded(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("socket: s\npath: ~/two\n").devices[0].exports[0].path == str(tmp_path / "two")


def test_a_socket_may_come_from_the_caller(load: Load) -> None:
    assert load("path: one\n", socket_needed=False).devices[0].socket is None


def test_a_byte_order_mark_and_document_marks_are_no_mistake(load: Load) -> None:
    assert load(b"\xef\xbb\xbf---\nsocket: s\npath: one\n...\n").devices


# ---- mistakes ------------------------------------------------------------------------------------

VALUES = [
    ("tag: 5", "3:6: tag: '5' is no text in YAML; quote it if text is meant"),
    ("tag: on", "3:6: tag: 'on' is no text in YAML; quote it if text is meant"),
    ("tag: 2020-01-01", "3:6: tag: '2020-01-01' is taken for timestamp by YAML; quote it, or"),
    ("tag: ''", "3:6: tag: '' is no mount tag, which has 1 to 254 bytes and no /"),
    ("tag: a/b", "3:6: tag: 'a/b' is no mount tag"),
    ("tag: " + "é" * 128, "3:6: tag: 'ééé"),
    ('tag: "a\\nb"', "3:6: tag: 'a\\nb' contains control characters"),
    ('tag: "\\ud800"', "3:6: tag: '\\ud800' contains a character that no file name can have"),
    ("tag:", "3:5: tag: '' is no value"),
    ("tag: [a]", "3:6: tag: '[…]' is a list or a mapping; one value is expected"),
    ("tag: {a: b}", "3:6: tag: '[…]' is a list or a mapping; one value is expected"),
    ("tag: !!python/name:os.system x", "3:6: tag: 'x' is taken for python/name:os.system"),
    ("tag: !mine x", "3:6: tag: 'x' has a tag, !mine, which means nothing here"),
    ("tag: !!binary aGk=", "3:6: tag: 'aGk=' is taken for binary"),
    ("security_model: map", "3:17: security_model: 'map' is not one of passthrough, none, mapped-"),
    ("security_model: passtrough", "did you mean 'passthrough'?"),
    ("multidevs: true", "3:12: multidevs: 'true' is not one of warn, forbid, remap"),
    ("multidevs: rempa", "is not one of warn, forbid, remap; did you mean 'remap'?"),
    ("hide: ['']", "3:8: hide: '' is empty; a name or a path below the export's root is expected"),
    ("readonly: 1", "3:11: readonly: '1' is neither true nor false"),
    ("readonly: 'true'", "3:11: readonly: 'true' is text; true or false is expected, without"),
    ("readonly: !!bool maybe", "3:11: readonly: 'maybe' is taken for bool"),
    ("msize_max: 4095", "3:12: msize_max: '4095' is no size from 4096 to 16777216 bytes; write it"),
    ("msize_max: 17MiB", "'17MiB' is no size from"),
    ("msize_max: 1MB", "'1MB' is no size from"),
    ("msize_max: -4096", "'-4096' is no size from"),
    ("msize_max: 010000", "'010000' is taken for int by YAML; quote it, or write a plain decimal"),
    ("msize_max: 9" + "9" * 5000, "9…' is taken for int"),
    ("msize_max: true", "'true' is no size from"),
    ("max_fids: 1e6", "3:11: max_fids: '1e6' is no whole number from 16 to 16000000"),
    ("max_fids: 15", "'15' is no whole number from 16 to"),
    ("max_fids: 1.5", "'1.5' is taken for float by YAML"),
    ("threads: 0", "3:10: threads: '0' is no whole number from 1 to 32"),
    ("poll_us: 1001", "3:10: poll_us: '1001' is no whole number from 0 to 1000"),
    ("cpus: 3-1", "3:7: cpus: '3-1' is no list of CPUs; write it as 0,4-7, with numbers below"),
    ("cpus: 1024", "cpus: '1024' is no list of CPUs"),
    ("cpus: all", "cpus: 'all' is no list of CPUs"),
    ("cpus: true", "cpus: 'true' is no list of CPUs"),
    ("threads: true", "'true' is no whole number from 1 to 32"),
    ("threads: !!int ''", "3:10: threads: '' is taken for int"),
    ("once: maybe", "3:7: once: 'maybe' is text; true or false is expected, without quotes"),
    ("force: 0", "3:8: force: '0' is neither true nor false"),
    ("log_level: loud", "log_level: 'loud' is not one of debug, info, warning, error"),
    ("state_dir: 5", "state_dir: '5' is no text in YAML"),
]


@pytest.mark.parametrize("line,said", VALUES, ids=lambda value: value[:30])
def test_a_wrong_value_is_reported_with_its_place(load: Load, line: str, said: str) -> None:
    (problem,) = problems(load, ONE + line + "\n")
    assert problem.startswith("vm.yaml:3:")
    assert said in problem
    assert len(problem) < 400


SHAPES = [
    ("", ["vm.yaml: is empty; a device needs socket and path at least"]),
    ("# nothing\n", ["vm.yaml: is empty; a device needs socket and path at least"]),
    ("word\n", ["vm.yaml:1:1: a mapping is expected: devices, or one device's options"]),
    ("- a\n", ["vm.yaml:1:1: a mapping is expected: devices, or one device's options"]),
    ("devices:\n", ["vm.yaml:1:9: devices: a list of one device or more is expected"]),
    ("devices: []\n", ["vm.yaml:1:10: devices: a list of one device or more is expected"]),
    ("devices: {a: b}\n", ["vm.yaml:1:10: devices: a list of one device or more is expected"]),
    ("devices: [a]\n", [f"vm.yaml:1:11: a device is a mapping of {KEYS}"]),
    (
        "log_level: info\n",
        [
            "vm.yaml:1:1: path or exports: is missing; a device needs it",
            "vm.yaml:1:1: socket: is missing; a device needs it",
        ],
    ),
    ("socket: s\n", ["vm.yaml:1:1: path or exports: is missing; a device needs it"]),
    (
        ONE + "sokcet: t\n",
        [f"vm.yaml:3:1: unknown key 'sokcet'; valid are {KEYS}, {TOP}; did you mean 'socket'?"],
    ),
    (
        ONE + "zzz: t\n",
        [f"vm.yaml:3:1: unknown key 'zzz'; valid are {KEYS}, {TOP}"],
    ),
    (ONE + "path: two\n", ["vm.yaml:3:1: path: is in line 2 already"]),
    (ONE + "log_level: info\nlog_level: x\n", ["vm.yaml:4:1: log_level: is in line 3 already"]),
    (
        ONE + "devices: [{socket: t, path: two}]\n",
        [
            f"vm.yaml:1:1: unknown key 'socket'; valid are {TOP}",
            f"vm.yaml:2:1: unknown key 'path'; valid are {TOP}",
        ],
    ),
    (
        ONE + "[a]: b\n",
        [f"vm.yaml:3:1: a list or a mapping is no key; valid are {KEYS}, {TOP}"],
    ),
    (ONE + "<<: {tag: x}\n", ["vm.yaml:3:1: unknown key '<<'"]),
    (
        "devices:\n- {socket: s, path: one}\n- {socket: ./x/../s, path: two, tag: t}\n",
        [
            "vm.yaml:3:4: socket: '/",  # and the whole path
        ],
    ),
    (
        "devices:\n- {socket: s, path: one}\n- {socket: t, path: two}\n",
        [
            "vm.yaml:3:3: tag: 'host0', which is what a device has without one, is in line 2 "
            "already; each device needs a tag of its own"
        ],
    ),
    (
        "devices:\n- {socket: s, path: one, tag: a}\n- {socket: t, path: two, tag: a}\n",
        ["vm.yaml:3:26: tag: 'a' is in line 2 already; each device needs a tag of its own"],
    ),
    (ONE.replace("one", "gone"), ["vm.yaml:2:7: path: /"]),
    (ONE.replace("one", "vm.yaml"), ["vm.yaml:2:7: path: /"]),
    (ONE.replace("one", '""'), ["vm.yaml:2:7: path: '' is no path"]),
    (ONE.replace(": s", ": d/"), ["vm.yaml:1:9: socket: 'd/' is the name of a directory; a"]),
    (ONE.replace(": s", ": " + "s" * 108), ["vm.yaml:1:9: socket: /"]),
]


@pytest.mark.parametrize("text,said", SHAPES, ids=lambda value: str(value)[:40])
def test_a_wrong_shape_is_reported_with_its_place(load: Load, text: str, said: list[str]) -> None:
    found = problems(load, text)
    assert len(found) == len(said)
    for problem, start in zip(found, said, strict=True):
        assert problem.startswith(start), problem


def test_paths_that_are_wrong_say_why(load: Load) -> None:
    (missing,) = problems(load, ONE.replace("one", "gone"))
    assert missing.endswith("/gone cannot be exported: No such file or directory; it must be a "
                            "readable directory")  # fmt: skip
    (file,) = problems(load, ONE.replace("one", "vm.yaml"))
    assert "Not a directory" in file
    (long,) = problems(load, ONE.replace(": s", ": " + "s" * 108))
    assert long.endswith(" bytes; a socket's path has at most 107 bytes")


def test_an_unreadable_directory_is_reported(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", refuse)  # root reads everything
    (problem,) = problems(load, ONE)
    assert "Permission denied" in problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UserError) as caught:
            config_file.load(str(path))
        assert caught.value.problems == (f"{path}: cannot be read: {reason}",)


def test_all_mistakes_are_reported_at_once_in_order(load: Load) -> None:
    text = """\
log_level: loud
devices:
- socket: s
  path: gone
  readonyl: true
  multidevs: sometimes
- {tag: 5, socket: s}
- {socket: t, path: two, threads: 99, tag: [x]}
stat_dir: x
"""
    found = problems(load, text)
    assert [(each.split(":")[1:3], each.split(": ")[1]) for each in found] == [
        (["1", "12"], "log_level"),
        (["4", "9"], "path"),
        (["5", "3"], "unknown key 'readonyl'; valid are " + KEYS + "; did you mean 'readonly'?"),
        (["6", "14"], "multidevs"),
        (["7", "3"], "path or exports"),
        (["7", "9"], "tag"),
        (["7", "12"], "socket"),
        (["8", "35"], "threads"),
        (["8", "44"], "tag"),
        (["9", "1"], "unknown key 'stat_dir'; valid are "
        f"{TOP}; did you "
         "mean 'state_dir'?"),
    ]  # fmt: skip


def test_a_file_of_mistakes_ends_the_reading(load: Load) -> None:
    found = problems(load, "".join(f"key{i}: x\n" for i in range(20_000)))
    assert len(found) == config_file.PROBLEMS_MAX + 1
    assert "there may be more errors" in found[-1]


# ---- values of both ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,size",
    [("4096", 4096), (512000, 512000), ("512KiB", 524288), ("4 k", 4096), ("2M", 2097152),
     ("1mib", 1048576)],
)  # fmt: skip
def test_sizes_are_read_in_all_units(text: Any, size: int) -> None:
    assert OWN_KEYS["msize_max"].parse(text) == size


@pytest.mark.parametrize("tag", ["a", "é" * 127, "with space", "x" * 254])
def test_tags_are_accepted(tag: str) -> None:
    assert parse_tag(tag) == tag


def test_the_state_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_STATE_HOME", "/else/where")
    assert c.default_state_dir() == "/else/where/vhost9p"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert c.default_state_dir() == "/home/u/.local/state/vhost9p"
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert c.default_state_dir() == "/var/lib/vhost9p"
