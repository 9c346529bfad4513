"""The command line: from arguments to a Config, and the process's exit code.

Exit codes: 0 after SIGTERM, SIGINT or --once; 1 when something fails while serving begins; 2 for a
mistake in the options, the configuration or the paths. What goes wrong is told in a line each.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import replace
from typing import Any

from vhost9p import cli_options, config_file
from vhost9p import config as c
from vhost9p.config_checks import Tree
from vhost9p.config_schema import DEVICE, find_problems, make_device
from vhost9p.errors import UserError

EXIT_FAILURE = 1
EXIT_USAGE = 2
CAPABILITIES = {"type": "9p", "features": []}


def find_config(socket: str) -> str | None:
    """The configuration named after a socket: the user's, then the system's."""
    name = os.path.splitext(os.path.basename(socket))[0] + ".yaml"
    for folder in (c.xdg_folder("XDG_CONFIG_HOME", "~/.config"), "/etc"):
        if folder and os.path.isfile(file := os.path.join(folder, "vhost9p", name)):
            return file
    return None


def _say(text: str) -> None:
    """One line on standard error, whatever is in a path."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    print(f"vhost9p: {line}", file=sys.stderr, flush=True)


def _from_file(file: str, options: argparse.Namespace, place: dict[str, Any]) -> c.Config:
    config = config_file.load(file, socket_needed=not place)
    if place and len(config.devices) != 1:
        raise UserError(f"{file}: has several devices, so --socket or --fd cannot name theirs")
    changes: dict[str, Any] = {"socket": None, "fd": None, **place} if place else {}
    for key in ("once", "force"):
        if getattr(options, key):
            changes[key] = True
    if options.state_dir:
        changes["state_dir"] = options.state_dir
    return replace(config, devices=tuple(replace(each, **changes) for each in config.devices))


def _from_options(options: argparse.Namespace, place: dict[str, Any]) -> c.Config:
    tree = cli_options.device_tree(options)
    if "path" not in tree and "exports" not in tree:
        tree["path"] = _current_directory()
        _say(f"no --path: exporting the current directory, {tree['path']}")
    _make_paths_absolute(tree)
    if problems := [str(each) for each in find_problems(DEVICE, tree)]:
        raise UserError(*problems)
    more: dict[str, Any] = {"state_dir": options.state_dir} if options.state_dir else {}
    device = make_device({**tree, "once": options.once, "force": options.force}, **place, **more)
    return c.Config((device,))


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise UserError(f"the current directory cannot be used: {error.strerror}") from None


def _absolute(path: str) -> str:
    return c.absolute(path, "/" if os.path.isabs(path) else _current_directory())


def _make_paths_absolute(tree: Tree) -> None:
    for part in (tree, *tree.get("exports", ())):
        if "path" in part:
            part["path"] = _absolute(part["path"])


def build_config(options: argparse.Namespace) -> c.Config:
    """What the options mean; raises UserError."""
    given = cli_options.given(options)
    if options.socket is not None and options.fd is not None:
        raise UserError("--fd and --socket exclude each other: name one")
    if options.config is not None and given:
        names = ", ".join(cli_options.option(key) for key in given)
        raise UserError(
            f"--config excludes {names}: say it in the file. With --config go --socket, --fd, "
            "--once, --force, --state-dir and --log-level"
        )
    for key in ("socket", "state_dir"):
        if (path := getattr(options, key)) is not None:
            setattr(options, key, _absolute(path))
    if options.socket is not None and (problem := c.socket_problem(options.socket)):
        raise UserError(f"--socket: {problem}")
    place = {key: value for key in ("socket", "fd") if (value := getattr(options, key)) is not None}
    if options.config is None and not place:
        raise UserError("name a --socket to listen on, an --fd, or a --config (vhost9p --help)")
    file = options.config
    if file is None and options.socket is not None and not given:
        file = find_config(options.socket)
        if file:
            _say(f"using {file}")
    config = _from_file(file, options, place) if file else _from_options(options, place)
    return c.with_overrides(config, log_level=options.log_level)


def _serve(argv: list[str] | None) -> int:
    options = cli_options.build_parser().parse_args(argv)
    if options.print_capabilities:
        print(json.dumps(CAPABILITIES))
        return 0
    config = build_config(options)
    # Late, so that --help and mistakes do not wait for the C layer to load.
    from vhost9p import daemon, preflight

    preflight.check(config)
    logging.basicConfig(
        level=config.log_level.upper(),
        format="vhost9p: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    return daemon.run(config)


def main(argv: list[str] | None = None) -> int:
    """Runs the daemon; returns the process's exit code."""
    try:
        return _serve(argv)
    except UserError as error:
        for problem in error.problems:
            _say(problem)
        return EXIT_USAGE
    except OSError as error:
        _say(f"{error.filename or 'error'}: {error.strerror or error}")
        return EXIT_FAILURE
    except KeyboardInterrupt:  # before the daemon takes signals itself
        return 0
