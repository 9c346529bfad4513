"""The reference that is made from the schema: it is complete, its defaults are those that hold, and
the programs that it is for accept it."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import json_schema
from tests.guest import fetch
from tests.guest.fetch import Program
from tests.marks import fetched
from vhost9p import cli, cli_options, commands, config_file
from vhost9p.config import Config, DeviceConfig
from vhost9p.config_export import EXPORT
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.config_shapes import Group, Items, Leaf, Shape
from vhost9p.config_tree import make_device
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE, UserError
from vhost9p.reference import man, schema, texts
from vhost9p.reference.__main__ import OUTPUTS, main

ROOT = Path(__file__).parents[1]


def within(shape: Shape, *path: str) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """All keys, with those that lead to them."""
    if isinstance(shape, Items):
        yield from within(shape.item, *path)
    elif isinstance(shape, Group):
        for key, inner in shape.keys.items():
            yield (*path, key), inner
            yield from within(inner, *path, key)


KEYS = dict(within(Group("a file", {**TOP_KEYS, **DEVICE.keys})))
LISTS = {
    path: shape.item
    for path, shape in KEYS.items()
    if isinstance(shape, Items)
    and isinstance(shape.item, Group)
    and (path == ("exports",) or path[0] != "exports")
}
PARSER = cli_options.build_parser()
OPTIONS = sorted(PARSER._option_string_actions)


# ---- the texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_a_key_says_what_it_means(path: tuple[str, ...]) -> None:
    shape = KEYS[path]
    assert shape.text and not shape.text.endswith((".", ";"))
    assert not shape.more or shape.more.endswith(".")
    if isinstance(shape, Leaf):
        assert shape.default is None or not shape.absent, "one of them"


@pytest.mark.parametrize("key", [*TOP_KEYS, *DEVICE.keys])
def test_a_key_that_no_reload_changes_says_why(key: str) -> None:
    shape = KEYS[(key,)]
    assert shape.at_once != bool(shape.fixed)


def tree(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A device with a key, and what it cannot be without."""
    found: dict[str, Any] = {"path": "/p", "quota": {"bytes": 1}, "xattrs": {}, "throttling": {}}
    part = found
    for key in path[:-1]:
        part = part.setdefault(key, {})
    part[path[-1]] = value
    return found


DEFAULTS = {
    path: shape.default
    for path, shape in KEYS.items()
    if isinstance(shape, Leaf) and shape.default is not None
}
IN_LISTS = {path for path in DEFAULTS if path[0] == "id_map"}


def of_range(path: tuple[str, ...], more: dict[str, int]) -> DeviceConfig:
    *_, kind, _ = path
    range_ = {"guest": 5, **more}
    found = {"forbid": {kind: [range_]}} if "forbid" in path else {kind: [{**range_, "host": 7}]}
    return make_device({"path": "/p", "id_map": found})


@pytest.mark.parametrize("path", DEFAULTS, ids=".".join)
def test_a_default_is_what_holds_without_the_key(path: tuple[str, ...]) -> None:
    value = DEFAULTS[path]
    if path[0] in TOP_KEYS:
        assert getattr(Config(()), path[0]) == value
    elif path in IN_LISTS:
        assert of_range(path, {"count": value}) == of_range(path, {})
    elif path[0] != "exports":  # that has the same keys
        with_it, without_it = tree(path, value), tree(path, value)
        part = without_it
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        assert make_device(with_it) == make_device(without_it)


@pytest.mark.parametrize("path", DEFAULTS, ids=".".join)
def test_a_default_is_written_as_it_is_read(path: tuple[str, ...]) -> None:
    shape, value = KEYS[path], DEFAULTS[path]
    assert isinstance(shape, Leaf)
    if isinstance(value, bool):
        assert shape.parse.write(value) == str(value).lower()
    else:
        assert shape.parse(shape.parse.write(value)) == value


# ---- completeness --------------------------------------------------------------------------------


@cache
def output(name: str) -> str:
    return OUTPUTS[name]()


@cache
def json_at(pointer: str) -> dict[str, Any]:
    part: Any = schema.schema()
    for key in pointer.removeprefix("#/").split("/"):
        part = part[key]
    assert isinstance(part, dict)
    return part


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    return json_at(part["$ref"]) if "$ref" in part else part


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_is_in_the_manual_page_the_table_and_the_schema(path: tuple[str, ...]) -> None:
    key, shape = path[-1], KEYS[path]
    assert f".TP\n\\fB{man.escape(key)}\\fR\n" in output("man5")
    rows = output("table")
    end = "." if isinstance(shape, Group) else "`"
    assert f"`{key}{end}" in rows or f".{key}{end}" in rows
    part = json_at("#/$defs/device" if path[0] in DEVICE.keys else "#/$defs/shared")
    for each in path:
        part = resolved(part)
        part = resolved(part.get("items", part))
        part = part.get("properties", part)[each]
    assert resolved(part)["description"].startswith(texts.sentence(shape.text))


@pytest.mark.parametrize("path", LISTS, ids=".".join)
def test_the_row_of_a_list_has_the_keys_of_an_entry(path: tuple[str, ...]) -> None:
    """An export has keys that a device has, too, which have rows of their own."""
    item = LISTS[path]
    rows = [line.split("|") for line in output("table").splitlines()]
    (row,) = {cells[4] for cells in rows if len(cells) > 4 and cells[1] == f" `{'.'.join(path)}` "}
    assert all(f"`{key}`" in row for key in (["name"] if item is EXPORT else item.keys))
    assert ("the keys of an export" in row) == (item is EXPORT)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_in_the_manual_page_and_the_completions(option: str) -> None:
    assert f"\\fB{man.escape(option)}\\fR" in output("man1")
    assert f" {option} " in output("bash").replace("'", " ")
    assert f"{option}[" in output("zsh") or f"{option}=[" in output("zsh")
    name = f"-l {option[2:]} " if option.startswith("--") else f"-s {option[1:]} "
    assert name in output("fish")


WITH_OPTIONS = [path for path in KEYS if texts.options(".".join(path))]


@pytest.mark.parametrize("path", WITH_OPTIONS, ids=".".join)
def test_an_option_has_the_help_of_its_key(path: tuple[str, ...]) -> None:
    key, *_ = path
    shape = KEYS[(key,)] if key == "throttling" else KEYS[path]  # which share one
    option, *_ = texts.options(".".join(path))
    assert str(PARSER._option_string_actions[option].help).startswith(shape.text)


def test_every_option_of_a_key_is_in_the_table() -> None:
    others = {"--config", "--config-dir", "--virtfs", "--version", "--help", "-h"}
    others |= {option for option in OPTIONS if option.startswith("--print-")}
    assert {option for option in OPTIONS if f"`{option}`" in output("table")} == {*OPTIONS} - others


@pytest.mark.parametrize("name", commands.NAMES)
def test_every_command_is_in_the_manual_page_and_the_completions(name: str) -> None:
    command = commands.load(name)
    page = output("man1")
    assert f".SS vhost9p {man.escape(name)}" in page
    assert man.escape(command.SUMMARY[1:]) in page and man.escape(command.DETAILS) in page
    for option in commands.parser(name)._option_string_actions:
        assert man.escape(option) in page
        assert all(option.lstrip("-") in output(shell) for shell in ("bash", "zsh", "fish"))
    assert f"        '{name}')" in output("bash")
    assert f"'{name}:{command.SUMMARY[:20]}" in output("zsh")
    assert f"-a {name} -d '{command.SUMMARY[:20]}" in output("fish")


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_output_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0
    assert capsys.readouterr().out == output(name)
    assert output(name).endswith("\n")


def test_the_daemon_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--print-schema"]) == 0
    assert capsys.readouterr().out == output("schema")
    assert json.loads(output("schema")) == schema.schema()


def test_another_output_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["man2"]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'man2'" in err and "man5" in err


# ---- the JSON Schema -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(ROOT.glob("qemu-configs/*.yaml")), ids=lambda f: f.name)
def test_the_schema_accepts_an_example(file: Path) -> None:
    """Those of the documents are in test_docs.py, and many more in test_config.py."""
    assert json_schema.problems(file.read_text(encoding="utf-8")) == []


def test_the_schema_accepts_the_examples_of_the_manual_page() -> None:
    blocks = man.manual().partition("@man5 EXAMPLES")[2].split("\n\n")
    examples = [textwrap.dedent(block) for block in blocks if block.startswith("    ")]
    assert len(examples) >= 2
    assert [json_schema.problems(text) for text in examples] == [[]] * len(examples)


REST = "socket: s\npath: one\n"
MISTAKES = [
    "[]",
    "devices: []",
    "devices: {}",
    "devices: [a]",
    "devices: [{path: one, socket: s, log_level: info}]",
    "devices: [{path: one, socket: s}]\npath: one",
    "socket: s",
    "socket: s\nexports: []",
    "socket: s\nexports: [{path: one}]",
    "socket: s\nexports: [{name: a}]",
    "socket: s\nexports: [{name: ., path: one}]",
    "socket: s\nexports: [{name: a/b, path: one}]",
    "socket: s\nexports: [{name: a, path: one, tag: t}]",
    "socket: d/\npath: one",
    "socket: ''\npath: one",
    *(
        REST + line
        for line in (
            "sokcet: t",
            "tag: 5",
            "tag: a/b",
            "tag: ''",
            'tag: "a\\tb"',
            "tag: [a]",
            "tag: " + "x" * 255,
            "log_level: loud",
            "sandbox: auto1",
            "seccomp: true",
            "state_dir: 5",
            "socket_mode: 8888",
            "socket_owner: true",
            "socket_group: ''",
            "security_model: map",
            "multidevs: rempa",
            "readonly: 1",
            "readonly: 'true'",
            "once: maybe",
            "msize_max: 4095",
            "msize_max: 1MB",
            "msize_max: true",
            "msize_max: 20000000",
            "max_fids: 15",
            "max_fids: 1.5",
            "threads: 0",
            "threads: 33",
            "threads: true",
            "poll_us: 1001",
            "cpus: all",
            "cpus: 1024",
            "cpus: true",
            "ring: none",
            "writeout: never",
            "fmode: rw",
            "throttling: 5",
            "throttling: {bps-totl: 5}",
            "throttling: {bps-total: fast}",
            "throttling: {iops-total: 4K}",
            "throttling: {bps-total: 1, bps-total-max-length: 0}",
            "id_map: []",
            "id_map: {uid: []}",
            "id_map: {uid: [5]}",
            "id_map: {uid: [{guest: 1}], gid: [{guest: 1}]}",
            "id_map: {squash_to: {uid: -1, gid: 0}}",
            "id_map: {squash_to: {uid: 4294967295, gid: 0}}",
            "id_map: {forbid: {uid: [{host: 1}]}}",
            "xattrs: {rules: [{refuse: true}]}",
            "xattrs: {rules: [{match: a, refuse: false}]}",
            "xattrs: {rules: [{match: a, store: ''}]}",
            "xattrs: {max_names: 0}",
            "quota: {}",
            "quota: {rescan: true}",
            "quota: {bytes: 0}",
            "quota: {inodes: 1, error: EPERM}",
        )
    ),
]


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.removeprefix(REST)[:40])
def test_the_schema_refuses_what_the_reader_refuses(text: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    with pytest.raises(UserError):
        config_file.load(str(file))
    assert json_schema.problems(text)


# ---- manual pages and shells ---------------------------------------------------------------------


def run(*command: str) -> str:
    """Returns what is printed, to either stream."""
    done = subprocess.run(
        command, check=True, timeout=60, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


LINTS: dict[Callable[[], Program], tuple[str, ...]] = {
    fetch.groff: ("-man", "-ww", "-z", "-Tutf8"),
    fetch.mandoc: ("-Tlint", "-Wwarning"),
}


@pytest.mark.parametrize("lint", LINTS, ids=lambda get: get.__name__)
@pytest.mark.parametrize("page", man.TITLES)
def test_a_manual_page_is_formatted_without_warnings(
    page: str, lint: Callable[[], Program], tmp_path: Path
) -> None:
    file = tmp_path / page
    file.write_text(output(page))
    assert run(*fetched(lint).command, *LINTS[lint], str(file)) == ""


def test_the_prose_names_options_that_exist() -> None:
    named = set(re.findall("(?<![\\w-])--[a-z-]+", man.manual()))
    assert len(named) > 5
    assert named <= {*OPTIONS}


def test_what_roff_takes_for_its_own_is_escaped() -> None:
    assert man.escape(r"a\b-c") == r"a\eb\-c"
    assert man._prose(".TH `it's` …") == "\\&.TH \\fBit\\(aqs\\fR \\[u2026]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a file and a directory."""
    (tmp_path / "vm.yaml").touch()
    (tmp_path / "vm data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


USER = pwd.getpwuid(os.geteuid()).pw_name
COMPLETED = {
    "--soc": {"--socket", "--socket-path", "--socket-mode", "--socket-owner", "--socket-group"},
    "--multidevs ": {"warn", "forbid", "remap"},
    "--path p --security-model mapped": {"mapped-xattr", "mapped-file"},
    "--threads ": set(),
    "--config vm": {"vm.yaml", "vm data"},
    "--path vm": {"vm data"},
    f"--socket-owner {USER}": {USER},
    "up": {"upgrade"},
    "--tag upgrade --quota-r": {"--quota-rescan"},
    "upgrade --": {"--help"},
}


def in_bash(words: list[str], folder: Path) -> set[str]:
    script = folder.parent / "completion.bash"
    script.write_text(output("bash"))
    code = 'source "$1"; shift; COMP_WORDS=(vhost9p "$@"); COMP_CWORD=$#; _vhost9p; '
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    return set(run("bash", "-c", code, "bash", str(script), *words).splitlines()) - {""}


@pytest.mark.parametrize("line", COMPLETED)
def test_bash_completes(line: str, folder: Path) -> None:
    assert in_bash(line.split(" "), folder) == COMPLETED[line]


def test_bash_completes_behind_an_equals_sign(folder: Path) -> None:
    """There, an option with its value is three words."""
    assert in_bash(["--ring", "=", "s"], folder) == {"split"}
    assert in_bash(["--ring", "="], folder) == {"packed", "split"}


def test_bash_offers_commands_and_options_at_first(folder: Path) -> None:
    assert in_bash([""], folder) == {*commands.NAMES, *OPTIONS}
    assert in_bash(["--once", ""], folder) == {*OPTIONS}


@pytest.mark.parametrize("line", COMPLETED)
def test_fish_completes(line: str, folder: Path) -> None:
    script = folder.parent / "completion.fish"
    script.write_text(output("fish"))
    code = f"source {script}; complete -C 'vhost9p {line}'"
    text = run(*fetched(fetch.fish).command, "--no-config", "-c", code)
    found = {each.split("\t")[0].rstrip("/").replace("\\ ", " ") for each in text.splitlines()}
    word = line.rpartition(" ")[2]
    begun = {each for each in found if each.startswith(word)}  # fish 4 offers others behind them
    assert begun == COMPLETED[line]


ZSH = r"""
_arguments() { print -rl -- "$@" }
_describe() { print -rl -- "${(@P)2}" }
compdef() { : }
source "$1"
shift
words=(vhost9p "$@")
CURRENT=${#words}
_vhost9p
_vhost9p_commands
"""


def test_zsh_gets_the_options_of_the_daemon_and_of_a_command(tmp_path: Path) -> None:
    """Functions that print what they are given stand in for zsh's own."""
    zsh, script = fetched(fetch.zsh).command, tmp_path / "_vhost9p"
    script.write_text(output("zsh"))
    assert run(*zsh, "-f", "-n", str(script)) == ""
    given = run(*zsh, "-f", "-c", ZSH, "zsh", str(script), "--once", "--m").splitlines()
    assert "--ring=[the newest layout of the virtqueue to offer]:LAYOUT:(packed split)" in given
    assert [line for line in given if line.startswith("*--export=[")]
    assert [line for line in given if line.startswith("upgrade:replace the code")]
    given = run(*zsh, "-f", "-c", ZSH, "zsh", str(script), "upgrade", "").splitlines()
    assert "*:pid: " in given and "--once" not in "".join(given)


def test_a_package_can_call_the_module_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert run(sys.executable, "-m", "vhost9p.reference", "fish") == output("fish")


def test_a_full_disk_gets_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vhost9p.reference", "man1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == EXIT_FAILURE
    assert done.stderr == "vhost9p: standard output: No space left on device\n"
