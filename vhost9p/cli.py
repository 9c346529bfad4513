"""The command line: turns arguments into a Config, and returns the process's exit code.

Exit codes: 0 after SIGTERM, SIGINT or --once. 2 for an error that stays until somebody fixes it, in
the options, the configuration, or what they name (a missing directory, a missing right). 1 if
serving cannot begin for another reason: another process uses the socket or the state, or the host
lacks a resource. All errors are reported at once, one line each.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

from vhost9p import cli_device, cli_options, config_file, handover
from vhost9p import config as c
from vhost9p.config_checks import Tree, nothing
from vhost9p.config_schema import DEVICE, find_problems, make_device, sound
from vhost9p.errors import Problems, UserError
from vhost9p.output import say, start_log
from vhost9p.saved_state import Unreadable

EXIT_FAILURE = 1
EXIT_USAGE = 2
CAPABILITIES = {"type": "9p", "features": []}


def find_config(socket: str) -> str | None:
    """Returns the path of the configuration file named after a socket, the user's before the
    system's; None if there is none."""
    name = os.path.splitext(os.path.basename(socket))[0] + ".yaml"
    for folder in (c.xdg_folder("XDG_CONFIG_HOME", "~/.config"), "/etc"):
        if folder and os.path.isfile(file := os.path.join(folder, "vhost9p", name)):
            return file
    return None


def _from_file(
    file: str, options: argparse.Namespace, place: dict[str, Any], problems: Problems
) -> c.Config:
    """Reads a configuration file, and applies the options that are allowed with it."""
    elsewhere = "socket" in place or "fd" in place
    config = config_file.read(file, problems, socket_needed=not elsewhere)
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
                say(f"no --path: exporting the current directory, {tree['path']}")
    with problems.collect():
        _make_paths_absolute(tree)
    shape = DEVICE if whole else replace(DEVICE, needed=(), check=nothing)
    found = list(find_problems(shape, tree))
    problems.add(*map(str, found))
    more: dict[str, Any] = {"state_dir": options.state_dir} if options.state_dir else {}
    tree = {**sound(tree, found), "once": options.once, "force": options.force}
    return c.Config((make_device(tree, **place, **more),))


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


def build_config(
    options: argparse.Namespace, wrong: set[str], problems: Problems
) -> c.Config | None:
    """Builds the configuration from the options, without the `wrong` ones; None if that is
    impossible. Adds errors to `problems`."""
    given = cli_device.given(options)
    if options.socket is not None and options.fd is not None:
        problems.add("--fd and --socket exclude each other: name one")
        options.socket = None
    if options.config is not None and given:
        names = ", ".join(cli_device.option(key) for key in given)
        problems.add(
            f"--config excludes {names}: set it in the file. Allowed with --config are --socket, "
            "--fd, --socket-mode, --socket-owner, --socket-group, --once, --force, --state-dir, "
            "--sandbox, --seccomp and --log-level"
        )
    for key in ("socket", "state_dir"):
        if (path := getattr(options, key)) is not None:
            setattr(options, key, _absolute(path))
    if options.socket is not None and (problem := c.socket_problem(options.socket)):
        problems.add(f"--socket: {problem}")
        wrong.add("socket")
        options.socket = None
    place = cli_device.given(options, cli_device.PLACE)
    file = options.config
    if not {"socket", "fd", "config", "config_dir"} & {*place, *wrong} and file is None:
        problems.add("name a --socket to listen on, an --fd, or a --config (vhost9p --help)")
    if "config" in wrong:
        return None
    if file is None and options.socket is not None and not (given or wrong):
        file = find_config(options.socket)
        if file:
            say(f"using {file}")
    config = None
    with problems.collect():
        if file:
            config = _from_file(file, options, place, problems)
        else:
            config = _from_options(options, wrong, place, problems)
    return config and _with_overrides(config, options)


def _with_overrides(config: c.Config, options: argparse.Namespace) -> c.Config:
    """The same, with the options for the whole process that are given."""
    overrides = {key: getattr(options, key) for key in ("log_level", "sandbox", "seccomp")}
    return c.with_overrides(config, **overrides)


FOLDER_EXCLUDES = ("config", *cli_device.PLACE, *cli_device.WHAT)


def _serve_folder(options: argparse.Namespace, problems: Problems) -> int:
    """Serves the VMs of --config-dir."""
    names = [cli_device.option(key) for key in cli_device.given(options, FOLDER_EXCLUDES)]
    names += [cli_device.option(key) for key in ("once", "print_limits") if getattr(options, key)]
    if names:
        problems.add(
            f"--config-dir excludes {', '.join(names)}: each VM has a file of its own. Allowed "
            "with it are --force, --state-dir, --sandbox, --seccomp and --log-level"
        )
    with problems.collect():
        if options.state_dir is not None:
            options.state_dir = _absolute(options.state_dir)
        folder = _absolute(options.config_dir)
        try:
            if not handover.is_due():
                os.listdir(folder)
        except OSError as error:
            problems.add(f"--config-dir: {folder} cannot be read: {error.strerror}")
    problems.raise_all()
    from vhost9p import vm_folder

    def load(file: str) -> c.Config:
        found = Problems()
        with found.collect():
            config = _from_file(file, options, {}, found)
        found.raise_all()
        return _with_overrides(config, options)

    start_log(options.log_level or c.Config(()).log_level)
    return vm_folder.run(folder, load)


def _print_limits(config: c.Config | None) -> int:
    from vhost9p import limits

    assert config is not None, "it is None only after an error"
    for line in limits.report(config):
        print(line)
    return 0


def _serve(argv: list[str] | None) -> int:
    problems = Problems()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["upgrade"]:
        from vhost9p import upgrade_command

        return upgrade_command.run(words[1:])
    options, wrong = cli_options.build_parser().read(words, problems)
    if options.print_capabilities and not problems.texts:
        print(json.dumps(CAPABILITIES))
        return 0
    if options.config_dir is not None:
        return _serve_folder(options, problems)
    if handover.is_due():
        problems.raise_all()
        return _go_on()
    config = None
    with problems.collect():
        config = build_config(options, wrong, problems)
    if options.print_limits:
        problems.raise_all()
        return _print_limits(config)
    # Late, so that --help does not wait for the event loop and the 9P server to load.
    from vhost9p import daemon, preflight

    with problems.collect():
        config = config and preflight.check(config)
    problems.raise_all()
    assert config is not None, "it is None only after an error"
    start_log(config.log_level)
    return daemon.run(config)


def _go_on() -> int:
    """Goes on with the VM of the version before, with the configuration that it has."""
    from vhost9p import daemon

    return daemon.go_on()


def main(argv: list[str] | None = None) -> int:
    """Runs the daemon; returns the process's exit code."""
    try:
        return _serve(argv)
    except UserError as error:
        for problem in error.problems:
            say(problem)
        return EXIT_USAGE
    except Unreadable as error:
        say(str(error))
        return EXIT_FAILURE
    except OSError as error:
        say(f"{error.filename or 'error'}: {error.strerror or error}")
        return EXIT_FAILURE
