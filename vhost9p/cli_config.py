"""The configuration that the options of the command line describe, with or without a file."""

import argparse
import logging
import os
from dataclasses import replace
from typing import Any

from vhost9p import cli_device, config_file
from vhost9p import config as c
from vhost9p.config_checks import Tree, nothing
from vhost9p.config_schema import DEVICE, OF_THE_DAEMON
from vhost9p.config_tree import find_problems, make_device, sound
from vhost9p.errors import Problems, UserError
from vhost9p.output import say


def find_config(socket: str) -> str | None:
    """Returns the path of the configuration file named after a socket, the service's before the
    user's, and that before the system's; None if there is none."""
    name = os.path.splitext(os.path.basename(socket))[0] + ".yaml"
    homes = c.xdg_folder("XDG_CONFIG_HOME", "~/.config"), "/etc"
    folders = [os.path.join(home, "vhost9p") for home in homes if home]
    for folder in (c.service_folder("CONFIGURATION_DIRECTORY"), *folders):
        if folder and os.path.isfile(file := os.path.join(folder, name)):
            return file
    return None


def from_file(
    file: str,
    options: argparse.Namespace,
    place: dict[str, Any],
    problems: Problems,
    *,
    socket_needed: bool = True,
    in_folder: bool = False,
) -> c.Config:
    """Reads a configuration file, and applies the options that are allowed with it."""
    elsewhere = "socket" in place or "fd" in place
    config = config_file.read(
        file, problems, socket_needed=socket_needed and not elsewhere, in_folder=in_folder
    )
    if place and len(config.devices) != 1:
        names = ", ".join(map(cli_device.option, place))
        problems.add(f"{file}: has several devices, so {names} would not say for which")
        return config
    changes: dict[str, Any] = {"socket": None, "fd": None, **place} if elsewhere else {**place}
    for key in ("once", "force"):
        if getattr(options, key):
            changes[key] = True
    if options.state_dir:
        changes["state_dir"] = options.state_dir
    return replace(config, devices=tuple(replace(each, **changes) for each in config.devices))


def _from_options(
    options: argparse.Namespace, wrong: set[str], place: dict[str, Any], problems: Problems
) -> c.Config:
    """Makes a configuration of one device from the options, without the `wrong` ones."""
    before = len(problems.texts)
    tree = cli_device.device_tree(options, problems, wrong)
    # Combinations are checked only if each option is valid.
    whole = DEVICE.can_be_checked(wrong) and "virtfs" not in wrong
    whole = whole and len(problems.texts) == before
    if not {"path", "exports"} & {*tree, *wrong} and "virtfs" not in wrong:
        with problems.collect():
            tree["path"] = _current_directory()
            if not problems.texts:
                say(
                    f"no --path: exporting the current directory, {tree['path']}",
                    logging.WARNING,
                )
    with problems.collect():
        _make_pathsabsolute(tree)
    shape = DEVICE if whole else replace(DEVICE, needed=(), check=nothing)
    found = list(find_problems(shape, tree))
    problems.add(*map(str, found))
    more: dict[str, Any] = {"state_dir": options.state_dir} if options.state_dir else {}
    tree = {**sound(tree, found), "once": bool(options.once), "force": bool(options.force)}
    return c.Config((make_device(tree, **place, **more),))


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise UserError(f"the current directory cannot be used: {error.strerror}") from None


def absolute(path: str) -> str:
    """Returns a path of the command line from the root on. Raises UserError."""
    return c.absolute(path, "/" if os.path.isabs(path) else _current_directory())


def _make_pathsabsolute(tree: Tree) -> None:
    for part in (tree, *tree.get("exports", ())):
        if "path" in part:
            part["path"] = absolute(part["path"])


def build_config(
    options: argparse.Namespace,
    wrong: set[str],
    problems: Problems,
    *,
    socket_needed: bool = True,
) -> c.Config | None:
    """Builds the configuration from the options, without the `wrong` ones; None if that is
    impossible. Adds errors to `problems`. Devices may lack a socket if none is needed."""
    given = cli_device.given(options)
    if options.socket is not None and options.fd is not None:
        problems.add("--fd and --socket exclude each other: name one")
        options.socket = None
    if options.config is not None and given:
        names = ", ".join(cli_device.option(key) for key in given)
        problems.add(
            f"--config excludes {names}: set it in the file. Allowed with --config are --socket, "
            "--fd, --socket-mode, --socket-owner, --socket-group, --once, --force, --state-dir, "
            "--sandbox, --seccomp, --log-level, --log-format, --log-time, --log-failures, "
            "--control-socket and --metrics"
        )
    for key in ("socket", "state_dir"):
        if (path := getattr(options, key)) is not None:
            setattr(options, key, absolute(path))
    if options.socket is not None and (problem := c.socket_problem(options.socket)):
        problems.add(f"--socket: {problem}")
        wrong.add("socket")
        options.socket = None
    place = cli_device.given(options, cli_device.PLACE)
    file = options.config
    named = {"socket", "fd", "config", "config_dir"} & {*place, *wrong} or file is not None
    if socket_needed and not named:
        problems.add("name a --socket to listen on, an --fd, or a --config (vhost9p --help)")
    if "config" in wrong:
        return None
    if file is None and options.socket is not None and not (given or wrong):
        file = find_config(options.socket)
        if file:
            say(f"using {file}", logging.INFO)
    config = None
    with problems.collect():
        if file:
            config = from_file(file, options, place, problems, socket_needed=socket_needed)
        else:
            config = _from_options(options, wrong, place, problems)
    return config and with_overrides(config, options)


def with_overrides(config: c.Config, options: argparse.Namespace) -> c.Config:
    """The same, with the options for the whole process that are given."""
    keys = "log_level", "log_failures", "sandbox", "seccomp", *OF_THE_DAEMON
    overrides = {key: getattr(options, key) for key in keys}
    return c.with_overrides(config, **overrides)
